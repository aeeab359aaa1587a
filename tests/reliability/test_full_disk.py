"""A disk that is full, or may not be written to: one line, exit code 2, the last good state whole."""

import contextlib
import os
import random
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from fewlabel.data import download as acquire
from fewlabel.data.sources import Source
from fewlabel.errors import UserError
from fewlabel.training.checkpoint import Checkpoint
from stages import common
from tests.reliability.bench import KINDS, Bench, ended
from tests.reliability.sizes import DISKS, LONG, SEED

pytestmark = pytest.mark.pipeline
SHORT = ("prepare", "prototypes")


def mounted(*arguments: str) -> None:
    if subprocess.run(["mount", *arguments], capture_output=True).returncode:
        (pytest.fail if LONG else pytest.skip)(
            "mounting a file system takes root, or `unshare --user --map-root-user -m`"
        )


@contextlib.contextmanager
def disk(folder: Path, scratch: Path, spare: int, options: str = "rw") -> Iterator[None]:
    """A file system in the place of a folder: with what the folder held, and so many spare bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copytree(folder, scratch)
    mounted("-t", "tmpfs", "tmpfs", str(folder))
    try:
        shutil.copytree(scratch, folder, dirs_exist_ok=True)
        now = os.statvfs(folder)
        size = max(4096, (now.f_blocks - now.f_bfree) * now.f_frsize + spare)  # 0 would mean no limit
        mounted("-o", f"remount,{options},size={size}", str(folder))
        yield
    finally:
        subprocess.run(["umount", "-l", folder], check=True)
        shutil.rmtree(scratch)


def refused(errors: str, *words: str) -> None:
    assert errors.startswith("error: "), errors
    assert errors.count("\n") == 1, errors
    assert any(word in errors for word in words), errors


@pytest.mark.parametrize("name", KINDS if LONG else SHORT)
def test_no_room_for_a_result(bench: Bench, tmp_path: Path, name: str) -> None:
    bench.ready(name)
    ended(bench.start(name))
    before = bench.digests(name)
    out = bench.out(name)
    size = sum(path.stat().st_size for path in out.rglob("*")) if out.is_dir() else out.stat().st_size
    draw = random.Random(f"{SEED} {name}")
    folder = out if name == "compare" else out.parent
    for _ in range(DISKS):
        with disk(folder, tmp_path / "held", int(size * draw.uniform(0, 0.9))):
            _, errors = ended(bench.start(name), code=2)
            refused(errors, "No space left on device")
            assert "while writing" not in errors  # but the file
            assert bench.digests(name) == before
            assert not [path for path in folder.iterdir() if path.name.startswith(".") and path.name != ".gitignore"]
    with disk(folder, tmp_path / "held", 2**20, "ro"):
        _, errors = ended(bench.start(name), code=2)
        refused(errors, "Read-only file system")
        assert bench.digests(name) == before
    ended(bench.start(name))
    assert bench.digests(name) == before


@pytest.mark.parametrize("name", [n for n in KINDS if KINDS[n].every] if LONG else ["prototypes"])
def test_no_room_for_a_checkpoint(bench: Bench, tmp_path: Path, name: str) -> None:
    bench.ready(name)
    ended(bench.start(name))
    before = bench.digests(name)
    checkpoints = bench.folder / ".checkpoints"
    shutil.rmtree(checkpoints, ignore_errors=True)
    with disk(checkpoints, tmp_path / "held", 0):  # for none at all
        _, errors = ended(bench.start(name), code=2)
        refused(errors, ".pt: cannot be written (No space left on device)")
        assert bench.digests(name) == before
        # for one, but not for the next one beside it
        size = checkpoint_size(bench, name)
        mounted("-o", f"remount,size={size * 3 // 2048}k", str(checkpoints))
        _, errors = ended(bench.start(name, tmp_path / "steps"), code=2)
        refused(errors, ".pt: cannot be written (No space left on device)")
        left = [path for path in checkpoints.rglob("*") if path.is_file() and path.suffix != ".lock"]
        assert [path.suffix for path in left] == [".pt"]
        mounted("-o", "remount,size=1g", str(checkpoints))
        out, _ = ended(bench.start(name, tmp_path / "steps"))
        assert "continuing from" in out
    assert bench.digests(name) == before
    starts = [line for line in (tmp_path / "steps").read_text().splitlines() if line.startswith("start")]
    assert starts == ["start 0", f"start {KINDS[name].every}"]


def checkpoint_size(bench: Bench, name: str) -> int:
    """Of a checkpoint of this stage, in bytes; leaves none."""
    checkpoints = bench.folder / ".checkpoints"
    mounted("-o", "remount,size=1g", str(checkpoints))
    process = bench.start(name)
    while not (found := list(checkpoints.rglob("*.pt"))):
        assert process.poll() is None
    process.kill()
    process.communicate()
    size = found[0].stat().st_size
    shutil.rmtree(found[0].parent)
    return size


def test_no_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A checkout that belongs to somebody else."""
    monkeypatch.chdir(tmp_path)
    tmp_path.chmod(0o555)
    planned, user = Checkpoint("cell", {}, []), os.geteuid()

    def result() -> None:
        with common.whole_folder("results/cell"):
            pass

    def download() -> None:
        acquire.obtain(Source("file.bin", "http://127.0.0.1:9/file.bin", "0" * 64), Path("data/raw"), None)

    if user == 0:  # who may do anything
        os.seteuid(65534)
    try:
        with pytest.raises(UserError, match=r"\.pt: cannot be written \(Permission denied\)"):
            planned.save({"step": 0})
        for work, place in ((result, "results"), (download, ".checkpoints")):
            with pytest.raises(SystemExit):
                common.launch(work)
            refused(capsys.readouterr().err, f"Permission denied: {place}")
    finally:
        os.seteuid(user)
        tmp_path.chmod(0o755)
    assert not list(tmp_path.iterdir())


def test_no_room_for_a_download(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.data.test_download import BODY, Server, serving, wanted

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    server = Server()
    with serving(server):
        with disk(acquire.DOWNLOADS, tmp_path / "held", len(BODY) // 2):
            with pytest.raises(UserError, match=r"file\.bin\.part: cannot be written \(No space left on device\)"):
                acquire.obtain(wanted(server.url), Path("out"), None)
            assert not Path("out").exists()
            had = (acquire.DOWNLOADS / "file.bin.part").stat().st_size
            mounted("-o", "remount,size=100m", str(acquire.DOWNLOADS))
            assert acquire.obtain(wanted(server.url), Path("out"), None)[1].read_bytes() == BODY
        assert server.ranges == [None, f"bytes={had}-"]
        with disk(Path("full"), tmp_path / "held", 4096):
            with pytest.raises(UserError, match=r"cannot be copied to full \(No space left on device\)"):
                acquire.obtain(wanted(server.url), Path("full"), None)
            assert not list(Path("full").iterdir())


def test_no_room_for_the_queue_of_experiments(bench: Bench, tmp_path: Path) -> None:
    folder = bench.folder / ".dvc" / "tmp"
    with disk(folder, tmp_path / "held", 2**16):
        with contextlib.suppress(OSError), (folder / "filler").open("wb", buffering=0) as filler:
            while filler.write(bytes(1024)):
                pass
        _, errors = ended(bench.popen(["python", "-m", "stages.queue"]), code=2)
        refused(errors, "No space left on device", "Cannot open")


def test_no_room_for_the_store(bench: Bench, tmp_path: Path) -> None:
    name = "download"
    ended(bench.start(name))
    before = bench.digests(name)
    tracked = {"FEWLABEL_TRACKING": "on", "DVC_ROOT": str(bench.folder)}
    store = {"MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/store/mlflow.db"}
    with disk(tmp_path / "store", tmp_path / "held", 64 * 1024):
        out, _ = ended(bench.start(name, **tracked, **store))
        assert out.count("warning: the run is not whole in MLflow") == 1
        assert bench.digests(name) == before
