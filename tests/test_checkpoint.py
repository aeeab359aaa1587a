"""Checkpoints: found again by the same training, by no other; whole or absent."""

import pytest
import torch

from fewlabel import checkpoint
from fewlabel.checkpoint import Checkpoint


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


def test_saving_removes_the_stale_ones_and_remove_removes_all() -> None:
    Checkpoint("a", {"lr": 1}, []).save({"step": 1})
    new = Checkpoint("a", {"lr": 2}, [])
    new.save({"step": 2})
    assert Checkpoint("a", {"lr": 1}, []).load() is None
    new.remove()
    assert new.load() is None
    assert not list(checkpoint.FOLDER.rglob("*.pt"))


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


def test_an_unreadable_one_is_dropped_not_fatal() -> None:
    broken = Checkpoint("a", {}, [])
    broken.save({"step": 1})
    next(checkpoint.FOLDER.rglob("*.pt")).write_bytes(b"")
    assert broken.load() is None
    broken.save({"step": 2})
    assert broken.load() == {"step": 2}
