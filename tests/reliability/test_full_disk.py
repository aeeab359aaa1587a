"""A disk that is full, or may not be written to: one line, exit code 2, and the last good state stays whole."""

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from fewlabel.data import download
from fewlabel.data.sources import Source
from fewlabel.errors import UserError
from fewlabel.results import whole_folder
from fewlabel.stage import launch
from fewlabel.training.checkpoint import Checkpoint
from tests.reliability.bench import Bench, ended, refused
from tests.reliability.sizes import LONG

pytestmark = pytest.mark.pipeline


def mounted(*arguments: str) -> None:
    if subprocess.run(["mount", *arguments], capture_output=True).returncode:
        (pytest.fail if LONG else pytest.skip)(
            "mounting a file system takes root, or `unshare --user --map-root-user -m`"
        )


@contextlib.contextmanager
def disk(folder: Path, spare: int, options: str = "rw") -> Iterator[None]:
    """A file system in the place of a folder: with what the folder held, and so many spare bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    held = folder.with_name(f".held-{folder.name}")
    shutil.copytree(folder, held)
    mounted("-t", "tmpfs", "tmpfs", str(folder))
    try:
        shutil.copytree(held, folder, dirs_exist_ok=True)
        now = os.statvfs(folder)
        size = max(4096, (now.f_blocks - now.f_bfree) * now.f_frsize + spare)  # 0 would mean no limit
        mounted("-o", f"remount,{options},size={size}", str(folder))
        yield
    finally:
        subprocess.run(["umount", "-l", folder], check=True)
        shutil.rmtree(held)


@pytest.mark.parametrize(
    ("spare", "options", "reason"), [(0, "rw", "No space left on device"), (2**20, "ro", "Read-only file system")]
)
@pytest.mark.parametrize("name", ["prepare", "prototypes"] if LONG else ["prepare"])
def test_no_room_for_a_result(bench: Bench, name: str, spare: int, options: str, reason: str) -> None:
    before, folder = bench.made(name), bench.out(name).parent
    with disk(folder, spare, options):
        _, errors = ended(bench.start(name), code=2)
        refused(errors, reason)
        assert "while writing" not in errors  # but the file
        assert bench.digests(name) == before
        assert not [path for path in folder.iterdir() if path.name.startswith(".") and path.name != ".gitignore"]


def test_no_room_for_a_checkpoint(bench: Bench) -> None:
    before, folder = bench.made("prototypes"), bench.folder / ".checkpoints"
    shutil.rmtree(folder, ignore_errors=True)
    with disk(folder, 0):
        _, errors = ended(bench.start("prototypes"), code=2)
        refused(errors, ".pt: cannot be written (No space left on device)")
        assert bench.digests("prototypes") == before
        mounted("-o", "remount,size=1g", str(folder))
        ended(bench.start("prototypes"))
    assert bench.digests("prototypes") == before


def test_no_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A checkout that belongs to somebody else."""
    monkeypatch.chdir(tmp_path)
    tmp_path.chmod(0o555)
    user = os.geteuid()

    def result() -> None:
        with whole_folder("results/training"):
            pass

    def download_a_file() -> None:
        download.obtain(Source("file.bin", "http://127.0.0.1:9/file.bin", "0" * 64), Path("data/raw"), None)

    if user == 0:  # who may do anything
        os.seteuid(65534)
    try:
        with pytest.raises(UserError, match=r"\.pt: cannot be written \(Permission denied\)"):
            Checkpoint("training", {}).save({"step": 0})
        for work, place in ((result, "results"), (download_a_file, ".checkpoints")):
            with pytest.raises(SystemExit):
                launch(work)
            refused(capsys.readouterr().err, f"Permission denied: {place}")
    finally:
        os.seteuid(user)
        tmp_path.chmod(0o755)
    assert not list(tmp_path.iterdir())


def test_no_room_for_a_download(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.data.test_download import BODY, Server, serving, wanted

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with serving(Server()) as server:
        with disk(download.DOWNLOADS, len(BODY) // 2):
            with pytest.raises(UserError, match=r"file\.bin\.part: cannot be written \(No space left on device\)"):
                download.obtain(wanted(server.url), Path("out"), None)
            assert not Path("out").exists()
            had = (download.DOWNLOADS / "file.bin.part").stat().st_size
            mounted("-o", "remount,size=100m", str(download.DOWNLOADS))
            assert download.obtain(wanted(server.url), Path("out"), None)[1].read_bytes() == BODY
        assert server.ranges == [None, f"bytes={had}-"]


def test_no_room_for_the_store(bench: Bench, tmp_path: Path) -> None:
    before = bench.made("download")
    tracked = {"FEWLABEL_TRACKING": "on", "MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/store/mlflow.db"}
    with disk(tmp_path / "store", 64 * 1024):
        out, _ = ended(bench.start("download", **tracked))
    assert out.count("not whole in MLflow") == 1
    assert bench.digests("download") == before
