"""How a stage ends: a user's mistake, a full disk, a lack of memory and a signal in one line each, a bug as it is."""

import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from fewlabel.errors import DamagedFile, UserError
from fewlabel.results import whole_folder
from fewlabel.stage import launch
from tests.conftest import ROOT


@pytest.fixture(autouse=True)
def _same_handlers():
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def raises(error: BaseException) -> Callable[[], None]:
    def main() -> None:
        raise error

    return main


def said(main: Callable[[], None], capsys: pytest.CaptureFixture[str], code: int = 2) -> str:
    """The one line with which a stage ends."""
    with pytest.raises(SystemExit) as exit_:
        launch(main)
    assert exit_.value.code == code
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    return line


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (UserError("maml.way:\n7 is too many"), "error: maml.way: 7 is too many\n"),
        (DamagedFile("x.npz", ValueError("bad\nmagic"), "mend it"), "error: x.npz: damaged (bad magic); mend it\n"),
        (
            OSError(errno.ENOSPC, "No space left on device", "results/x"),
            "error: No space left on device: results/x; mend that and run again\n",
        ),
        (
            FileNotFoundError(errno.ENOENT, "No such file or directory", "data/x"),
            "error: [Errno 2] No such file or directory: 'data/x'; `dvc repro` makes missing files again\n",
        ),
    ],
)  # fmt: skip
def test_what_a_user_can_mend_is_one_line_unless_a_traceback_is_asked_for(error, line, capsys, monkeypatch) -> None:
    assert said(raises(error), capsys) == line
    monkeypatch.setenv("FEWLABEL_TRACEBACK", "1")
    with pytest.raises(type(error)):
        launch(raises(error))


def test_a_bug_keeps_its_traceback() -> None:
    with pytest.raises(ZeroDivisionError):
        launch(raises(ZeroDivisionError()))


def test_a_full_disk_names_what_was_being_written(tmp_path, capsys) -> None:
    def main() -> None:
        with whole_folder(tmp_path / "cell"):
            raise OSError(errno.ENOSPC, "No space left on device")

    line = said(main, capsys)
    assert line == f"error: No space left on device: {tmp_path / 'cell'}; mend that and run again\n"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_stage_in_one_line_that_says_how_to_go_on(number, capsys) -> None:
    def main() -> None:
        os.kill(os.getpid(), number)
        time.sleep(5)

    assert said(main, capsys, code=130).startswith("interrupted: run the same command again")


@pytest.mark.parametrize(
    ("arguments", "parameter"),
    [
        (("stages/meta_train.py", "maml", "lake", "--task", "5w1s"), "meta_batch, classes or way in section maml"),
        (("stages/finetune.py", "rotation", "20-0"), "finetune.batch_size"),
        (("stages/evaluate.py", "maml", "flowers"), "episodes.queries (own images: size or per_class in"),
        (("benchmarks/new.py",), "a batch size or an image size"),
    ],
)  # fmt: skip
@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.\nGPU 0 has a total capacity of"),
        RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried"),
        MemoryError("Unable to allocate 8.00 EiB for an array"),
    ],
)
def test_no_memory_names_the_parameter_to_lower(error, arguments, parameter, monkeypatch, capsys) -> None:
    monkeypatch.setattr("sys.argv", list(arguments))
    line = said(raises(error), capsys)
    assert line.startswith("error: out of memory (")
    assert f"lower {parameter}" in line
    assert ("device: cpu" in line) == ("CUDA" in str(error))


@pytest.mark.parametrize(
    ("shell", "told"),
    [
        ("python stage.py > /dev/full", "error: No space left on device: while writing, to a file or to the terminal"),
        ("python stage.py >&-", None),
    ],
)
def test_what_the_shell_does_to_the_output_is_one_line_at_most(tmp_path, shell, told) -> None:
    script = "from fewlabel.stage import launch\nlaunch(lambda: print('a line'))\n"
    Path(tmp_path, "stage.py").write_text(script)
    environment = os.environ | {
        "PYTHONPATH": str(ROOT / "src"), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    }  # fmt: skip
    done = subprocess.run(["bash", "-c", shell], cwd=tmp_path, capture_output=True, text=True, env=environment)
    if told is None:
        assert (done.returncode, done.stderr) == (0, "")
    else:
        assert done.returncode != 0
        assert done.stderr.startswith(told)
        assert "Traceback" not in done.stderr
