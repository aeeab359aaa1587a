"""Checkpoints: found again by the same training, by no other; whole or absent."""

import errno
from pathlib import Path

import pytest
import torch

from fewlabel.errors import UserError
from fewlabel.training import checkpoint
from fewlabel.training.checkpoint import Checkpoint


@pytest.fixture(autouse=True)
def _folder(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(checkpoint, "FOLDER", tmp_path / "checkpoints")


def test_a_saved_state_is_found_by_the_same_training_only(tmp_path) -> None:
    data = tmp_path / "data"
    data.write_bytes(b"one")
    assert Checkpoint("a", {"lr": 1}, [data]).load() is None
    Checkpoint("a", {"lr": 1}, [data]).save({"step": 3, "weights": torch.arange(4)})
    state = Checkpoint("a", {"lr": 1}, [data]).load()
    assert state is not None
    assert state["step"] == 3
    assert torch.equal(state["weights"], torch.arange(4))
    assert Checkpoint("a", {"lr": 2}, [data]).load() is None
    assert Checkpoint("b", {"lr": 1}, [data]).load() is None
    data.write_bytes(b"two")
    assert Checkpoint("a", {"lr": 1}, [data]).load() is None


def test_of_several_processes_the_first_one_saves_and_all_load() -> None:
    first, other = (Checkpoint("a", {"lr": 1}, [], saves=saves) for saves in (True, False))
    other.save({"step": 1})
    assert other.load() is None
    first.save({"step": 2})
    assert other.load() == {"step": 2}


def test_saving_removes_the_stale_ones_and_remove_removes_all() -> None:
    Checkpoint("a", {"lr": 1}, []).save({"step": 1})
    new = Checkpoint("a", {"lr": 2}, [])
    new.save({"step": 2})
    assert Checkpoint("a", {"lr": 1}, []).load() is None
    new.remove()
    assert new.load() is None
    assert not list(checkpoint.FOLDER.rglob("*.pt"))


def test_under_dvc_it_stays_until_the_training_is_recorded(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DVC_STAGE", "meta_train@a")
    lock = Path("dvc.lock")
    lock.write_text("stages:\n  meta_train@a:\n    outs: [{md5: of an earlier training}]\n")
    done = Checkpoint("a", {}, [])
    done.save({"step": 9})
    done.remove()
    checkpoint.sweep()
    assert done.load() == {"step": 9}  # DVC was killed before it recorded the training
    done.remove()
    lock.write_text(lock.read_text() + "  meta_train@b: {}\n")  # another one is recorded, or all are checked out anew
    checkpoint.sweep()
    assert done.load() == {"step": 9}
    done.remove()
    lock.write_text("half a lo")
    checkpoint.sweep()
    assert done.load() == {"step": 9}
    done.remove()
    next(checkpoint.FOLDER.rglob("done")).write_bytes(b"meta_train@\xe1\n")  # damaged
    checkpoint.sweep()
    assert done.load() == {"step": 9}
    lock.write_text("stages:\n  meta_train@b: {}\n")
    done.remove()
    lock.write_text("stages:\n  meta_train@a:\n    outs: [{md5: of this one}]\n")
    checkpoint.sweep()
    assert done.load() is None
    assert not list(checkpoint.FOLDER.rglob("*.*"))


def test_two_stages_may_sweep_at_once(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DVC_STAGE", "meta_train@a")
    done = Checkpoint("a", {}, [])
    done.save({"step": 9})
    done.remove()
    found = list(checkpoint.FOLDER.rglob("done"))
    done.load()  # takes the mark away
    monkeypatch.setattr(Path, "rglob", lambda *_: found)
    checkpoint.sweep()
    assert done.load() == {"step": 9}


def test_a_failed_save_leaves_the_last_good_one() -> None:
    kept = Checkpoint("a", {}, [])
    kept.save({"step": 1})

    class Refuses:
        def __reduce__(self) -> str:
            raise OSError("no space left on device")

    with pytest.raises(OSError, match="no space"):
        kept.save({"step": Refuses()})
    state = kept.load()
    assert state == {"step": 1}
    assert not list(checkpoint.FOLDER.rglob("*.tmp"))


@pytest.mark.parametrize("damage", ["empty", "cut", "a flipped bit of a weight", "foreign"])
def test_a_damaged_one_is_dropped_not_fatal(damage, capsys) -> None:
    broken = Checkpoint("a", {}, [])
    broken.save({"step": 1, "weights": torch.arange(1000.0)})
    path = next(checkpoint.FOLDER.rglob("*.pt"))
    content = bytearray(path.read_bytes())
    flipped = content.copy()
    flipped[content.index(torch.tensor([500.0]).numpy().tobytes()) + 1] ^= 1
    path.write_bytes(
        {"empty": b"", "cut": content[:-1], "a flipped bit of a weight": flipped, "foreign": b"x" * 99}[damage]
    )
    assert broken.load() is None
    assert capsys.readouterr().out == f"{path}: damaged, starting again\n"
    assert not path.exists()
    broken.save({"step": 2})
    assert broken.load() == {"step": 2}


def test_other_code_finds_no_checkpoint(tmp_path, monkeypatch) -> None:
    for folder in ("src/fewlabel", "stages"):
        (tmp_path / folder).mkdir(parents=True)
    monkeypatch.setattr(checkpoint, "_SOURCES", tmp_path / "src/fewlabel")
    Checkpoint("a", {}, []).save({"step": 1})
    assert Checkpoint("a", {}, []).load() == {"step": 1}
    (tmp_path / "stages" / "new.py").write_text("")
    assert Checkpoint("a", {}, []).load() is None


def test_what_a_kill_left_half_written_is_removed() -> None:
    new = Checkpoint("a", {}, [])
    new.save({"step": 1})
    (next(checkpoint.FOLDER.rglob("*.pt")).parent / "half.4711.tmp").write_bytes(b"half")
    new.save({"step": 2})
    assert len(list(checkpoint.FOLDER.rglob("*.*"))) == 1


def test_a_checkpoint_that_cannot_be_written_is_named_and_the_one_before_stays(monkeypatch) -> None:
    kept = Checkpoint("a", {}, [])
    kept.save({"step": 1})

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(UserError, match=r"\.pt: cannot be written \(No space left"):
        kept.save({"step": 2})
    assert kept.load() == {"step": 1}
    assert not list(checkpoint.FOLDER.rglob("*.tmp"))
