"""MLflow: the only module that imports it.

Every stage run is one MLflow run, a child of the run of its pipeline execution. MLflow is a view: the results
themselves are files under DVC, so a store that cannot be reached costs a warning, never a training.

The store is ``$MLFLOW_TRACKING_URI``, or ``sqlite:///<repository>/mlflow.db``, anchored on ``DVC_ROOT`` because an
experiment may run in a temporary copy of the repository. ``FEWLABEL_TRACKING=off`` switches tracking off.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import psutil
from filelock import FileLock

EXPERIMENT = "fewlabel"
_FLUSH_EVERY = 500  # metric points; one log_batch of many costs about what one log_metric does
_MAX_BATCH = 1000  # MLflow's limit of one log_batch
T = TypeVar("T")


class Run:
    """One stage run. Every method is safe to call whether or not tracking works."""

    def __init__(self, client: Any = None, run_id: str | None = None, parent_id: str | None = None) -> None:
        self._client, self._run_id, self._parent_id = client, run_id, parent_id
        self._points: list[tuple[str, float, int, int]] = []

    def log(self, step: int, **numbers: float) -> None:
        """Points of per-step curves; buffered."""
        if self._client is None:
            return
        now = int(time.time() * 1000)
        self._points += [(key, float(value), now, step) for key, value in numbers.items()]
        if len(self._points) >= _FLUSH_EVERY:
            self._flush()

    def params(self, values: dict[str, Any]) -> None:
        """The stage's own parameters, flattened to dotted names; call once."""
        from_flat = list(_flatten(values))
        self._try(lambda c: c.log_batch(self._run_id, params=[_param(k, v) for k, v in from_flat]))

    def tags(self, **values: Any) -> None:
        self._try(lambda c: [c.set_tag(self._run_id, k, str(v)) for k, v in values.items()])

    def artifact(self, path: str | Path) -> None:
        """A file, stored with the run: a figure, a table, a model."""
        self._try(lambda c: c.log_artifact(self._run_id, str(path)))

    def finish(self, status: str) -> None:
        self._flush()
        self._try(lambda c: c.set_terminated(self._run_id, status))
        if self._parent_id:
            self._try(lambda c: c.set_terminated(self._parent_id, status))
            if status != "FINISHED":  # stays visible when a later stage of this execution ends well
                stage = os.environ.get("DVC_STAGE", "?")
                self._try(lambda c: c.set_tag(self._parent_id, "fewlabel.failed_stage", stage))

    def _flush(self) -> None:
        points, self._points = self._points, []
        for start in range(0, len(points), _MAX_BATCH):
            batch = [_metric(*point) for point in points[start : start + _MAX_BATCH]]
            self._try(functools.partial(_log_metrics, run_id=self._run_id, metrics=batch))

    def _try(self, action: Callable[[Any], Any]) -> None:
        if self._client is None:
            return
        try:
            action(self._client)
        except Exception as error:  # the store may be down, full or locked: never a reason to lose a training
            _warn(error)
            self._client = None


@contextlib.contextmanager
def start(stage: str, settings: dict[str, Any]) -> Iterator[Run]:
    """Open the MLflow run of a stage; it ends FINISHED, FAILED or KILLED with the block.

    Args:
        stage: the stage's name, used when DVC does not say one (``DVC_STAGE``).
        settings: the stage's own parameters.
    """
    run = _open(os.environ.get("DVC_STAGE", stage))
    run.params(settings)
    try:
        yield run
    except KeyboardInterrupt:
        run.finish("KILLED")
        raise
    except BaseException:
        run.finish("FAILED")
        raise
    run.finish("FINISHED")


def _open(name: str) -> Run:
    if os.environ.get("FEWLABEL_TRACKING", "").lower() in ("off", "0", "false"):
        return Run()
    root = Path(os.environ.get("DVC_ROOT", ".")).resolve()
    uri = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{root / 'mlflow.db'}"
    own_store = "MLFLOW_TRACKING_URI" not in os.environ
    try:
        os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "15")
        import logging

        logging.getLogger("alembic").setLevel(logging.WARNING)  # 50 lines of migrations on a fresh store
        logging.getLogger("mlflow.store.db.utils").setLevel(logging.WARNING)
        from mlflow import MlflowClient

        lock_folder = root / ".dvc" / "tmp"
        lock_folder.mkdir(parents=True, exist_ok=True)
        # A fresh SQLite store migrates itself on first use; two processes doing that at once crash.
        with FileLock(lock_folder / "mlflow.lock", timeout=120):
            client = MlflowClient(tracking_uri=uri)
            found = client.get_experiment_by_name(EXPERIMENT)
            if found is None:
                artifacts = (root / "mlartifacts").as_uri() if own_store else None
                experiment = client.create_experiment(EXPERIMENT, artifact_location=artifacts)
            else:
                experiment = found.experiment_id
            parent = _parent(client, experiment, root)
        tags = {"fewlabel.stage": name.split("@")[0], **_tags(root)}
        if parent:
            tags["mlflow.parentRunId"] = parent
        run = client.create_run(experiment, tags=tags, run_name=name)
        return Run(client, run.info.run_id, parent)
    except Exception as error:
        _warn(error)
        return Run()


def _parent(client: Any, experiment: str, root: Path) -> str | None:
    """The run of this pipeline execution, found by tag or created; None outside DVC."""
    execution = _execution()
    if execution is None:
        return None
    found = client.search_runs([experiment], f"tags.`fewlabel.execution` = '{execution}'", max_results=1)
    if found:
        client.update_run(found[0].info.run_id, status="RUNNING")
        return found[0].info.run_id
    tags = {"fewlabel.execution": execution, "fewlabel.stage": "pipeline", **_tags(root)}
    name = os.environ.get("DVC_EXP_NAME") or f"repro-{tags.get('git.commit', '')[:7] or 'no-commit'}"
    run_id = client.create_run(experiment, tags=tags, run_name=name).info.run_id
    for path in (Path("params.yaml"), Path("dvc.yaml")):
        if path.exists():
            client.log_artifact(run_id, str(path))
    return run_id


def _execution() -> str | None:
    """A name for the ``dvc`` process above this one: the same for all stages of one execution, and for no other.

    ``dvc repro`` hands its stages nothing that tells one execution from the next, so the process itself has to.
    """
    for process in psutil.Process().parents():
        try:
            command = process.cmdline()
        except psutil.Error:
            continue
        if any(Path(word).name == "dvc" or word == "dvc" for word in command[:3]):
            return f"{os.uname().nodename}-{process.pid}-{process.create_time():.2f}"
    return None


def _tags(root: Path) -> dict[str, str]:
    tags = {
        "git.commit": _git(root, "rev-parse", "HEAD"),
        "git.dirty": str(bool(_git(root, "status", "--porcelain", "--untracked-files=no"))).lower(),
        "dvc.experiment": os.environ.get("DVC_EXP_NAME", ""),
        "dvc.baseline": os.environ.get("DVC_EXP_BASELINE_REV", ""),
    }
    if Path("params.yaml").exists():
        tags["params.digest"] = hashlib.sha256(Path("params.yaml").read_bytes()).hexdigest()[:16]
    return {key: value for key, value in tags.items() if value}


def _git(root: Path, *arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else ""


def _flatten(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _log_metrics(client: Any, run_id: str | None, metrics: list[Any]) -> None:
    client.log_batch(run_id, metrics=metrics)


def _metric(key: str, value: float, timestamp: int, step: int) -> Any:
    from mlflow.entities import Metric

    return Metric(key, value, timestamp, step)


def _param(key: str, value: Any) -> Any:
    from mlflow.entities import Param

    return Param(key, str(value)[:500])


def _warn(error: Exception) -> None:
    text = " ".join(str(error).split())
    uri = os.environ.get("MLFLOW_TRACKING_URI", "")
    secret = urlsplit(uri).password if uri else None
    if secret:
        text = text.replace(secret, "***")
    print(f"warning: MLflow tracking is off for this run, the results are not affected: {text[:300]}", flush=True)
