"""A scratch clone of the working tree in which the real stages run on the embedded data."""

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.conftest import ROOT


class Clone:
    """A git and DVC repository of its own, with the working tree's files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        listed = self._in(ROOT, ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]).stdout
        for name in filter(None, listed.split("\0")):
            if (ROOT / name).is_file():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, folder / name)
        for command in (
            "init -q",
            "config user.name test",
            "config user.email test@localhost",
            "config commit.gpgsign false",
            "add -A",
        ):
            self.run(["git", *command.split()])
        self.run(["git", "commit", "-qm", "clone"])

    def run(self, command: Sequence[str], ok: bool = True, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run in the clone with the tests' interpreter first on the path; `ok` asserts that it succeeds."""
        done = self._in(self.folder, command, **environment)
        if ok:
            assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        return done

    def stage(self, *arguments: str, ok: bool = True) -> subprocess.CompletedProcess[str]:
        return self.run(["python", "-m", *arguments], ok=ok, FEWLABEL_TRACKING="off")

    def set(self, **values: str) -> None:
        """Replace literal texts of params.yaml, ``old=new``-wise: ``set(**{"budget: cpu": "budget: smoke"})``."""
        path = self.folder / "params.yaml"
        text = path.read_text()
        for old, new in values.items():
            assert text.count(old) == 1, f"{old!r} stands {text.count(old)} times in params.yaml"
            text = text.replace(old, new)
        path.write_text(text)

    @staticmethod
    def _in(folder: Path, command: Sequence[str], **environment: str) -> subprocess.CompletedProcess[str]:
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("FEWLABEL", "MLFLOW", "DVC_", "GIT_"))}
        kept["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{kept['PATH']}"
        return subprocess.run(
            command, cwd=folder, env=kept | environment, capture_output=True, text=True, stdin=subprocess.DEVNULL
        )


SETTINGS = ("budget=smoke", "data.source=embedded", "cells.label_cells=[20-0]", "cells.transfer_seeds=[0]")
SMOKE = tuple(word for setting in SETTINGS for word in ("-S", setting))


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Clone:
    """A clone in which the whole DAG has run once, as `make demo` runs it."""
    clone = Clone(tmp_path_factory.mktemp("finished"))
    clone.run(["dvc", "exp", "run", "--name", "smoke", *SMOKE])
    return clone


@pytest.fixture
def clone(tmp_path: Path) -> Clone:
    """A clone in which nothing has run, set to the smoke budget on embedded data."""
    fresh = Clone(tmp_path / "clone")
    fresh.set(**{"budget: cpu": "budget: smoke", "source: official": "source: embedded"})
    return fresh
