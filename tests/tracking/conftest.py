"""A store made once, a repository without `dvc`, and a folder as a stage leaves it."""

import json
import shutil
from pathlib import Path

import pytest
from mlflow import MlflowClient

from fewlabel import tracking
from fewlabel.tracking import execution

ROW = {"family": "few-shot", "method": "maml", "metric": "accuracy", "transductive": False, "seed": 0}
ROW |= {"dataset": "omniglot", "n": 9, "budget": "smoke", "network": "conv4", "ci95_low": 0.25, "ci95_high": 1.0}


@pytest.fixture(scope="session")
def migrated(tmp_path_factory) -> Path:
    """An empty store; making one takes seconds."""
    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    MlflowClient(tracking_uri=f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def repo(migrated, root, tmp_path, monkeypatch) -> Path:
    """A repository with an empty store, in which no `dvc` runs."""
    for name in ("FEWLABEL_TRACKING", "MLFLOW_TRACKING_URI", "DVC_EXP_NAME", "DVC_EXP_BASELINE_REV", "DVC_STAGE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    monkeypatch.setattr(execution.psutil.Process, "parents", lambda self: [])
    monkeypatch.chdir(tmp_path)
    shutil.copy(migrated, tmp_path / "mlflow.db")
    for name in ("params.yaml", "dvc.yaml"):
        shutil.copy(root / name, tmp_path)
    return tmp_path


def client_of(repo: Path) -> MlflowClient:
    return MlflowClient(tracking_uri=f"sqlite:///{repo}/mlflow.db")


def runs(repo: Path, where: str = "") -> list:
    client = client_of(repo)
    experiment = client.get_experiment_by_name(tracking.EXPERIMENT)
    return client.search_runs([experiment.experiment_id], where, order_by=["attributes.start_time"])


def result(folder: str, rows: list[dict] | None = None, **facts: object) -> Path:
    """A folder as a stage leaves it."""
    made = Path(folder)
    made.mkdir(parents=True, exist_ok=True)
    if rows:
        measured = {"origin": "embedded", "rows": [ROW | row for row in rows]}
        (made / "metrics.json").write_text(json.dumps(measured))
    (made / "run.json").write_text(json.dumps({"device": "a computer", "seconds": 2.5} | facts))
    return made
