"""Results are written whole or not at all."""

import os
import signal
from pathlib import Path

import pytest

from fewlabel import results
from fewlabel.results import whole_folder, write_json


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_finished_folder_takes_the_place_of_the_old_one(tmp_path) -> None:
    target = tmp_path / "results" / "cell"
    with whole_folder(target) as out:
        (out / "model").write_text("one")
        (out / "left-over").write_text("one")
    with whole_folder(target) as out:
        (out / "model").write_text("two")
        assert (target / "model").read_text() == "one"
    assert names(target) == ["model"]
    assert (target / "model").read_text() == "two"
    assert names(target.parent) == ["cell"]


def test_a_link_is_replaced_and_what_it_leads_to_stays(tmp_path) -> None:
    target, far = tmp_path / "cell", tmp_path / "far"
    far.mkdir()
    (far / "model").write_text("old")
    target.symlink_to(far)
    with whole_folder(target) as out:
        (out / "model").write_text("new")
    assert not target.is_symlink()
    assert ((target / "model").read_text(), (far / "model").read_text()) == ("new", "old")
    assert names(tmp_path) == ["cell", "far"]


def test_a_failure_leaves_the_old_folder_and_no_draft(tmp_path) -> None:
    target = tmp_path / "cell"
    with whole_folder(target) as out:
        (out / "model").write_text("one")
    with pytest.raises(NotADirectoryError), whole_folder(target) as out:
        (out / "model").write_text("half") and (out / "model" / "more").mkdir()
    assert (target / "model").read_text() == "one"
    assert names(tmp_path) == ["cell"]


def test_a_signal_while_the_old_folder_is_replaced_waits_until_the_new_one_is_there(tmp_path, monkeypatch) -> None:
    target, move = tmp_path / "cell", results.shutil.move
    with whole_folder(target) as out:
        (out / "model").write_text("old")

    def interrupted_move(*paths: Path) -> None:
        signal.raise_signal(signal.SIGINT)
        move(*paths)

    monkeypatch.setattr(results.shutil, "move", interrupted_move)
    with pytest.raises(KeyboardInterrupt), whole_folder(target) as out:
        (out / "model").write_text("new")
    assert (target / "model").read_text() == "new"
    assert names(tmp_path) == ["cell"]


def test_drafts_of_killed_processes_are_removed_and_those_of_others_stay(tmp_path) -> None:
    Path(tmp_path, ".cell.4194305.draft").mkdir()  # above Linux's largest process number
    Path(tmp_path, f".cell.{os.getppid()}.draft").mkdir()
    with whole_folder(tmp_path / "cell"):
        pass
    assert names(tmp_path) == [f".cell.{os.getppid()}.draft", "cell"]


def test_json_refuses_what_is_no_number(tmp_path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "x.json", {"accuracy": float("nan")})
