"""Tracking: one child run a stage under one parent an execution; a broken store costs a warning, not a result."""

import sqlite3
import subprocess
import sys

import pytest
from mlflow import MlflowClient

from fewlabel import tracking


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.delenv("FEWLABEL_TRACKING", raising=False)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    return f"sqlite:///{tmp_path / 'mlflow.db'}"


def runs(uri: str):
    client = MlflowClient(tracking_uri=uri)
    return client.search_runs([client.get_experiment_by_name(tracking.EXPERIMENT).experiment_id]), client


def test_a_stage_run_holds_its_params_curve_and_status(store, monkeypatch) -> None:
    monkeypatch.setenv("DVC_STAGE", "meta_train@maml-lake-5w1s-0")
    with tracking.start("meta_train", {"inner_lr": 0.4, "nested": {"a": 1}}) as run:
        for step in range(1200):
            run.log(step, loss=1 / (step + 1))
    found, client = runs(store)
    assert [r.info.run_name for r in found] == ["meta_train@maml-lake-5w1s-0"]
    assert found[0].info.status == "FINISHED"
    assert found[0].data.params == {"inner_lr": "0.4", "nested.a": "1"}
    history = client.get_metric_history(found[0].info.run_id, "loss")
    assert {m.step for m in history} == set(range(1200))


def test_stages_of_one_execution_share_a_parent(store, monkeypatch) -> None:
    monkeypatch.setattr(tracking, "_execution", lambda: "here-1-2.00")
    monkeypatch.setenv("DVC_EXP_NAME", "big-inner-lr")
    for stage in ("episodes", "compare"):
        with tracking.start(stage, {}):
            pass
    found, _ = runs(store)
    parent = [r for r in found if r.info.run_name == "big-inner-lr"]
    assert len(found) == 3
    assert len(parent) == 1
    children = [r for r in found if r.data.tags.get("mlflow.parentRunId") == parent[0].info.run_id]
    assert sorted(r.info.run_name for r in children) == ["compare", "episodes"]
    assert {r.data.tags["dvc.experiment"] for r in found} == {"big-inner-lr"}


def test_a_failing_stage_ends_failed_and_raises(store) -> None:
    with pytest.raises(ZeroDivisionError), tracking.start("episodes", {}):
        raise ZeroDivisionError
    found, _ = runs(store)
    assert [r.info.status for r in found] == ["FAILED"]


def test_a_broken_store_costs_a_warning_and_prints_no_password(store, monkeypatch, capsys) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "postgresql://me:hunter2@127.0.0.1:1/none")
    with tracking.start("episodes", {"a": 1}) as run:
        run.log(0, loss=1.0)
    out = capsys.readouterr().out
    assert "warning: MLflow tracking is off for this run" in out
    assert "hunter2" not in out


def test_a_store_that_breaks_half_way_costs_a_warning(store, tmp_path, capsys) -> None:
    with tracking.start("episodes", {}) as run:
        with sqlite3.connect(tmp_path / "mlflow.db") as db:
            db.execute("DROP TABLE metrics")
        run.log(0, loss=1.0)
    assert "warning: MLflow tracking is off" in capsys.readouterr().out


def test_four_first_users_of_a_store_do_not_crash(store, root, tmp_path) -> None:
    code = (
        "import sys; sys.path.insert(0, 'src')\n"
        "from fewlabel import tracking\n"
        "with tracking.start('episodes', {}) as run: run.log(0, loss=1.0)\n"
    )
    started = [
        subprocess.Popen([sys.executable, "-c", code], cwd=root, stdout=subprocess.PIPE, text=True) for _ in range(4)
    ]
    assert ["" for _ in started] == [process.communicate()[0] for process in started]
    found, _ = runs(store)
    assert len(found) == 4


def test_off_means_off(store, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("FEWLABEL_TRACKING", "off")
    with tracking.start("episodes", {}) as run:
        run.log(0, loss=1.0)
    assert not (tmp_path / "mlflow.db").exists()
