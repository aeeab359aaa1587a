"""Results are typed, lie where dvc.yaml says, and are written whole or not at all."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from fewlabel import params, results
from fewlabel.results import Metrics, Row, read_json, whole_folder, write_json
from tests.conftest import ROOT, result_row
from tests.test_dag import EXPANDED, interpolate


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


def test_the_folders_are_those_of_dvc_yaml() -> None:
    """A name that is built differently here and there would be a result that is never read."""
    cells = list(results.cells(params.load(ROOT / "params.yaml")))
    read = {folder.as_posix() for cell in cells for folder in (cell.measured, *cell.trained)}
    outs = {interpolate(out, item) for _, stage, item in EXPANDED for out in stage["outs"] if isinstance(out, str)}
    assert read == {out for out in outs if out.startswith("results/")}


def test_metrics_are_read_as_they_were_written_with_whole_rows_and_no_more_than_was_said(tmp_path) -> None:
    about = {"family": "few-shot", "method": "siamese", "dataset": "omniglot", "protocol": "lake-within/5w1s"}
    row = Row.of((0.5, 0.25, 0.75), 8, **about, seed=1, budget="smoke", network="64-64-64-64-pool")
    metrics = Metrics(origin="archive", rows=[row], episodes={"within-5w1s": "digest"})
    metrics.write(tmp_path)
    written = json.loads((tmp_path / "metrics.json").read_text())
    assert written == {
        "origin": "archive",
        "rows": [row.model_dump(exclude_none=True)],
        "episodes": {"within-5w1s": "digest"},
    }
    assert {"transductive", "metric"} < written["rows"][0].keys()  # which `Row.of` was not told
    assert read_json(tmp_path / "metrics.json", Metrics) == metrics
    assert metrics.by_task() == [("within-5w1s", row)]


@pytest.mark.parametrize("wrong", [{"value": 60.0}, {"n": 0}, {"protocol": "5w1s"}, {"family": "other"}])
def test_a_row_that_is_no_result_is_refused(wrong: dict) -> None:
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        Row(**result_row("few-shot", "siamese", "omniglot", "lake/5w1s") | wrong)


def test_a_stage_that_writes_results_does_not_wait_for_pandas() -> None:
    code = "import sys, fewlabel.results; sys.exit('pandas' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ | {"PYTHONPATH": str(ROOT / "src")})
