"""The MLflow store: its address, its experiment, and opening and ending runs."""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock

from fewlabel import params
from fewlabel.errors import UserError
from fewlabel.tracking import execution

EXPERIMENT = "fewlabel"
EXECUTION = "fewlabel.execution"  # tag of the run of a pipeline execution: which one
MLFLOW_SETTINGS = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",  # seconds
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # the address may hold a password
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}
NOISY_LOGS = ("alembic", "mlflow.store.db.utils", "mlflow.pyfunc", "urllib3.connectionpool")


def root() -> Path:
    """The repository, also where a stage runs in a temporary copy of it."""
    return Path(os.environ.get("DVC_ROOT", ".")).resolve()


def address(root: Path) -> str:
    """``$MLFLOW_TRACKING_URI``, or ``mlflow.db`` in the repository; a relative SQLite path is relative to that too."""
    kind, slashes, path = (os.environ.get("MLFLOW_TRACKING_URI") or "sqlite:///mlflow.db").partition(":///")
    return f"{kind}:///{root / path}" if kind.startswith("sqlite") and path else kind + slashes + path


def explain(error: Exception) -> str:
    """The error in one line. MLflow's own words are left out where the store's address may hold a password."""
    secret = re.search("[@?]", os.environ.get("MLFLOW_TRACKING_URI", "")) and not isinstance(error, UserError)
    text = type(error).__name__ if secret else " ".join(str(error).split())[:300]
    return re.sub(r"(?<=//)\S*@", "***@", text)  # a proxy's address


class Store:
    """A connection. Every method raises whatever MLflow raises: the caller decides what a broken store costs."""

    def __init__(self, root: Path) -> None:
        for name, value in MLFLOW_SETTINGS.items():
            os.environ.setdefault(name, value)
        for name in NOISY_LOGS:
            logging.getLogger(name).setLevel(logging.ERROR)
        from mlflow import MlflowClient

        uri = address(root)
        kind, _, database = uri.partition("?")[0].partition(":///")  # an SQLite file may be other checkouts' store too
        lock = Path(f"{database}.lock") if kind.startswith("sqlite") else root / ".dvc" / "tmp" / "mlflow.lock"
        lock.parent.mkdir(parents=True, exist_ok=True)
        self.lock = FileLock(lock, timeout=60)
        with self.lock:  # two processes that create the tables of an SQLite store at once crash
            self.client = MlflowClient(tracking_uri=uri)
            found = self.client.get_experiment_by_name(EXPERIMENT)
            if found and found.lifecycle_stage == "deleted":
                command = f"`mlflow experiments restore --experiment-id {found.experiment_id}`"
                raise UserError(f"the experiment {EXPERIMENT} is deleted in MLflow: {command} brings it back")
            artifacts = None if uri.startswith("http") else (root / "mlartifacts").as_uri()
            self.experiment = found.experiment_id if found else self.client.create_experiment(EXPERIMENT, artifacts)

    def find(self, tag: str, value: str) -> str | None:
        """The run with that tag."""
        found = self.client.search_runs([self.experiment], f"tags.`{tag}` = '{value}'", max_results=1)
        return found[0].info.run_id if found else None

    def create(self, name: str, settings: dict[str, Any], began: float, tags: dict[str, str]) -> str:
        """A run with its parameters; → its id."""
        from mlflow.entities import Param

        tags = {"fewlabel.stage": name.partition("@")[0], "mlflow.source.name": name} | tags
        run = self.client.create_run(self.experiment, int(began * 1000), tags, run_name=name).info.run_id
        self.client.log_batch(run, params=[Param(key, str(value)[:500]) for key, value in flat(settings)])
        return run

    def open(self, stage: str, settings: dict[str, Any], began: float) -> tuple[str, str | None]:
        """Create the run of a stage; → its id and that of its execution's run, which is found or created."""
        with self.lock:
            parent = self._execution(began)
            tags = execution.tags() | ({"mlflow.parentRunId": parent} if parent else {})
            return self.create(stage, settings, began, tags), parent

    def _execution(self, began: float) -> str | None:
        told = execution.execution()
        if told is None:
            return None
        if run := self.find(EXECUTION, told[0]):
            self.client.update_run(run, status="RUNNING")
            return run
        everything = params.load()
        origin = "embedded" if everything.data.source == "embedded" else "archive"  # as the stages' runs say
        tags = {EXECUTION: told[0], "fewlabel.stage": "pipeline", "budget": everything.budget, "origin": origin}
        run = self.create(told[1], everything.model_dump(), began, execution.tags() | tags)
        for path in ("params.yaml", "dvc.yaml"):
            self.client.log_artifact(run, path)
        return run

    def log(self, run: str, numbers: dict[str, float], tags: dict[str, str]) -> None:
        from mlflow.entities import Metric, RunTag

        now = int(time.time() * 1000)
        metrics = [Metric(name, value, now, 0) for name, value in numbers.items()]
        self.client.log_batch(run, metrics, tags=[RunTag(key, value) for key, value in tags.items()])

    def end(self, run: str, parent: str | None, status: str, stage: str, ended: float) -> None:
        self.client.set_terminated(run, status, int(ended * 1000))
        if parent:
            self.client.set_terminated(parent, status, int(ended * 1000))
            if status != "FINISHED":  # stays visible when a later stage of this execution ends well
                self.client.set_tag(parent, "fewlabel.failed_stage", stage)


def flat(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Nested values under dotted names."""
    for key, value in values.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
