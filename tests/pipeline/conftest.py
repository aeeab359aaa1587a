"""A scratch clone of the working tree in which the real stages run on the embedded data."""

import contextlib
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from tests.conftest import ROOT

LIMIT_S = 600  # of one command; the longest, the whole DAG, takes a quarter of it on two idle cores


class Clone:
    """A git and DVC repository of its own, with the working tree's files, all but ``dvc.lock``: DVC reads and writes
    the whole of it for every stage, and these clones run few."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        listed = self._in(ROOT, ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]).stdout
        for name in filter(None, listed.split("\0")):
            if (ROOT / name).is_file() and name != "dvc.lock":
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

    def configure(self, values: Mapping[str, Any]) -> None:
        """Set values of params.yaml by their dotted names; the comments go."""
        path = self.folder / "params.yaml"
        raw = yaml.safe_load(path.read_text())
        for name, value in values.items():
            *sections, key = name.split(".")
            section = raw
            for each in sections:
                section = section[each]
            section[key] = value
        path.write_text(yaml.safe_dump(raw))

    def popen(self, command: Sequence[str], **environment: str) -> subprocess.Popen[str]:
        """Start a command in the clone, as a process group of its own with a pipe each for stdout and stderr."""
        return subprocess.Popen(
            command,
            cwd=self.folder,
            env=variables(FEWLABEL_TRACKING="off") | environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    @contextlib.contextmanager
    def alone(self) -> Iterator["Clone"]:
        """The clone; at the end of the block nothing that was started in it runs on, a worker of the queue say."""
        try:
            yield self
        finally:
            end(self.processes())

    def processes(self) -> list[psutil.Process]:
        """What runs in the folder of the clone, besides the tests themselves."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.pid != os.getpid() and Path(process.cwd()).is_relative_to(self.folder):
                    found.append(process)
        return found

    @staticmethod
    def _in(folder: Path, command: Sequence[str], **environment: str) -> subprocess.CompletedProcess[str]:
        """Run to the end, or to the limit. Into files: of a pipe the end comes only when every daemon that the command
        left behind, such as a worker of the queue, has ended too."""
        with tempfile.TemporaryFile("w+") as stdout, tempfile.TemporaryFile("w+") as stderr:
            process = subprocess.Popen(
                command,
                cwd=folder,
                env=variables(**environment),
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
                start_new_session=True,
            )
            try:
                code = process.wait(LIMIT_S)
            except BaseException as why:  # Ctrl+C does not reach another session either
                end([each for each in psutil.process_iter() if session(each) == process.pid])
                process.wait()
                if not isinstance(why, subprocess.TimeoutExpired):
                    raise
                code = None
            told = []
            for file in (stdout, stderr):
                file.seek(0)
                told.append(file.read())
        if code is None:
            pytest.fail(f"{' '.join(command)}: not done after {LIMIT_S} s\n{told[0][-3000:]}\n{told[1][-3000:]}")
        return subprocess.CompletedProcess(command, code, *told)


def variables(**more: str) -> dict[str, str]:
    """The environment, with the tests' interpreter first on the path and without what would steer the pipeline."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("FEWLABEL", "MLFLOW", "DVC_", "GIT_"))}
    return kept | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{kept['PATH']}"} | more


def session(process: psutil.Process) -> int | None:
    with contextlib.suppress(OSError):
        return os.getsid(process.pid)
    return None


def end(processes: Sequence[psutil.Process]) -> None:
    for process in processes:
        with contextlib.suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(processes, timeout=10)


MAKEFILE = (ROOT / "Makefile").read_text()
(SMOKE,) = (shlex.split(line.partition("--name demo")[2]) for line in MAKEFILE.splitlines() if "--name demo" in line)


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clone]:
    """A clone in which the whole DAG has run once, as `make demo` runs it."""
    with Clone(tmp_path_factory.mktemp("finished")).alone() as clone:
        clone.run(["dvc", "exp", "run", "--name", "smoke", *SMOKE])
        yield clone


@pytest.fixture
def clone(tmp_path: Path) -> Iterator[Clone]:
    """A clone in which nothing has run, set to the smoke budget on embedded data."""
    with Clone(tmp_path / "clone").alone() as fresh:
        fresh.set(**{"budget: cpu": "budget: smoke", "source: official": "source: embedded"})
        yield fresh
