"""What every stage does the same way: outputs whole or not at all, mistakes in one line."""

import errno
from pathlib import Path

import pytest

from fewlabel.errors import UserError
from stages import common


def test_a_finished_folder_takes_the_place_of_the_old_one(tmp_path) -> None:
    target = tmp_path / "results" / "cell"
    with common.whole_folder(target) as out:
        (out / "model").write_text("one")
        (out / "left-over").write_text("one")
    with common.whole_folder(target) as out:
        (out / "model").write_text("two")
        assert (target / "model").read_text() == "one"
    assert [path.name for path in target.iterdir()] == ["model"]
    assert (target / "model").read_text() == "two"
    assert [path.name for path in target.parent.iterdir()] == ["cell"]


def test_a_failed_folder_leaves_the_old_one_and_nothing_else(tmp_path) -> None:
    target = tmp_path / "cell"
    with common.whole_folder(target) as out:
        (out / "model").write_text("one")

    def fill(out: Path) -> None:
        (out / "model").write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"), common.whole_folder(target) as out:
        fill(out)
    assert (target / "model").read_text() == "one"
    assert [path.name for path in tmp_path.iterdir()] == ["cell"]


def test_what_a_killed_run_left_is_removed(tmp_path) -> None:
    (tmp_path / ".cell.12345.draft").mkdir()
    with common.whole_folder(tmp_path / "cell"):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["cell"]


def test_a_mistake_is_one_line_and_exit_code_2(capsys) -> None:
    def main() -> None:
        raise UserError("data/x.npz: damaged; delete it")

    with pytest.raises(SystemExit) as exit_:
        common.launch(main)
    assert exit_.value.code == 2
    assert capsys.readouterr().err == "error: data/x.npz: damaged; delete it\n"


def test_a_full_disk_is_one_line(capsys) -> None:
    def main() -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "results/x")

    with pytest.raises(SystemExit) as exit_:
        common.launch(main)
    assert exit_.value.code == 2
    assert capsys.readouterr().err == "error: No space left on device: results/x; mend that and run again\n"


def test_a_bug_keeps_its_traceback() -> None:
    def main() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        common.launch(main)


def test_json_refuses_what_is_no_number(tmp_path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        common.write_json(tmp_path / "x.json", {"accuracy": float("nan")})
