"""Run a stage and write the number of each step of its training to a file, as it is made:

``python -m tests.reliability.counted FILE stages.NAME ARGUMENTS``
"""

import os
import runpy
import sys
from typing import Any

import stages  # noqa: F401 (puts src on the path)
from fewlabel.progress import Progress


class Counted(Progress):
    def __init__(self, name: str, total: int, start: int = 0) -> None:
        super().__init__(name, total, start)
        self._write(f"start {start}")

    def update(self, steps: int = 1, **numbers: Any) -> None:
        super().update(steps, **numbers)
        if steps:
            self._write(str(self.done))

    @staticmethod
    def _write(line: str) -> None:
        os.write(_FILE, f"{line}\n".encode())  # no buffer: a kill loses none


if __name__ == "__main__":
    _, file, module, *arguments = sys.argv
    _FILE = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    __import__("fewlabel.progress").progress.Progress = Counted
    sys.argv = [file, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
