"""DVC stumbles over files of its own that a kill cut short; `stages.mend` mends them, and no stage runs again."""

import pytest
from dvc.repo import Repo

from tests.pipeline.test_refusals import refused

pytestmark = pytest.mark.pipeline


def test_what_a_killed_dvc_leaves_is_mended_and_nothing_runs_again(clone) -> None:
    mend, repro = ["python", "-m", "stages.mend"], ["dvc", "repro", "prepare@omniglot"]
    clone.run(["dvc", "repro", "download@omniglot"], FEWLABEL_TRACKING="off")
    lock, runs, locks = (clone.folder / name for name in ("dvc.lock", ".dvc/cache/runs", ".dvc/tmp/rwlock"))
    first = lock.read_text()
    clone.run(repro, FEWLABEL_TRACKING="off")
    whole = lock.read_text()
    assert clone.run(mend).stdout == ""
    half = whole[: whole.rindex("path: ") + 2]
    for text, committed in (("", False), (half, False), ("", True), (half, True)):
        if committed:
            lock.write_text(first)
            clone.run(["git", "add", "dvc.lock"])
            clone.run(["git", "commit", "-qm", "lock", "--allow-empty"])
        lock.write_text(text)
        locks.write_text("")
        (runs / "ab" / "cd").mkdir(parents=True)
        assert clone.run(repro, ok=False).returncode
        mended = clone.run(mend).stdout.splitlines()
        assert [line.split()[0] for line in mended] == ["removed"] * 3 + ["put"] + ["took"] * committed
        assert (lock.read_text() == first) if committed else not lock.exists()
        assert (clone.folder / ".dvc" / "tmp" / "dvc.lock").read_text() == text
        told = clone.run(repro).stdout
        assert "Running stage" not in told, told
        assert lock.read_text() == whole
        assert clone.run(mend).stdout == ""


def test_a_merge_that_someone_is_at_is_left_alone(clone) -> None:
    conflict = "schema: '2.0'\n<<<<<<< ours\nstages: {}\n=======\n>>>>>>> theirs\n"
    (clone.folder / "dvc.lock").write_text(conflict)
    assert clone.run(["python", "-m", "stages.mend"]).stdout == ""
    assert (clone.folder / "dvc.lock").read_text() == conflict


def test_while_another_dvc_writes_it_waits_and_then_says_so(clone) -> None:
    (clone.folder / "dvc.lock").write_text("")
    with Repo(str(clone.folder)).lock:
        refused(clone.stage("stages.mend", ok=False), "acquire lock")
    assert (clone.folder / "dvc.lock").read_text() == ""
