"""Checkpoints: found again by the same training, by no other; whole or absent."""

import errno

import pytest
import torch

from fewlabel.errors import UserError
from fewlabel.training import checkpoint
from fewlabel.training.checkpoint import Checkpoint


@pytest.fixture(autouse=True)
def _folder(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(checkpoint, "FOLDER", tmp_path / "checkpoints")


def test_a_saved_state_is_found_by_the_same_training_only() -> None:
    assert Checkpoint("a", {"lr": 1}).load() is None
    Checkpoint("a", {"lr": 1}).save({"step": 3, "weights": torch.arange(4)})
    state = Checkpoint("a", {"lr": 1}).load()
    assert state is not None
    assert state["step"] == 3
    assert torch.equal(state["weights"], torch.arange(4))
    assert Checkpoint("a", {"lr": 2}).load() is None
    assert Checkpoint("b", {"lr": 1}).load() is None


def test_of_several_processes_the_first_one_saves_and_all_load() -> None:
    first, other = (Checkpoint("a", {"lr": 1}, saves=saves) for saves in (True, False))
    other.save({"step": 1})
    assert other.load() is None
    first.save({"step": 2})
    assert other.load() == {"step": 2}


def test_saving_removes_those_with_other_dependencies_and_ending_removes_all() -> None:
    Checkpoint("a", {"lr": 1}).save({"step": 1})
    new = Checkpoint("a", {"lr": 2})
    new.save({"step": 2})
    assert Checkpoint("a", {"lr": 1}).load() is None
    new.end()
    assert new.load() is None
    assert not list(checkpoint.FOLDER.rglob("*.*"))


def test_under_dvc_it_stays_until_the_next_training_begins(monkeypatch) -> None:
    monkeypatch.setenv("DVC_STAGE", "meta_train@a")
    Checkpoint("a", {}).save({"step": 9})
    Checkpoint("a", {}).end()
    for _ in range(2):  # DVC was killed before it recorded the training, and runs it again
        again = Checkpoint("a", {})
        assert again.load() == {"step": 9}
        again.end()
    Checkpoint("b", {})
    assert Checkpoint("a", {}).load() is None
    assert not list(checkpoint.FOLDER.rglob("*.*"))


def test_a_failed_save_leaves_the_last_good_one() -> None:
    kept = Checkpoint("a", {})
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
    broken = Checkpoint("a", {})
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


def test_what_a_kill_left_half_written_is_removed() -> None:
    new = Checkpoint("a", {})
    new.save({"step": 1})
    (next(checkpoint.FOLDER.rglob("*.pt")).parent / "half.4711.tmp").write_bytes(b"half")
    new.save({"step": 2})
    assert len(list(checkpoint.FOLDER.rglob("*.*"))) == 1


def test_a_checkpoint_that_cannot_be_written_is_named_and_the_one_before_stays(monkeypatch) -> None:
    kept = Checkpoint("a", {})
    kept.save({"step": 1})

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(UserError, match=r"\.pt: cannot be written \(No space left"):
        kept.save({"step": 2})
    assert kept.load() == {"step": 1}
    assert not list(checkpoint.FOLDER.rglob("*.tmp"))
