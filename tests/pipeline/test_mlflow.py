"""What a person finds in MLflow after the whole DAG has run: the execution's numbers, and models that answer."""

import json

import mlflow.pyfunc
import numpy as np
import pandas as pd
import pytest
from mlflow import MlflowClient

from fewlabel import tracking

pytestmark = pytest.mark.pipeline


@pytest.fixture
def client(finished, monkeypatch, tmp_path) -> MlflowClient:
    monkeypatch.chdir(tmp_path)  # loading a model leaves a store in the working directory
    return MlflowClient(tracking_uri=f"sqlite:///{finished.folder / 'mlflow.db'}")


def test_the_execution_has_the_numbers_that_dvc_shows(finished, client) -> None:
    experiment = client.get_experiment_by_name(tracking.EXPERIMENT)
    (parent,) = client.search_runs([experiment.experiment_id], "tags.`fewlabel.stage` = 'pipeline'")
    summary = json.loads((finished.folder / "metrics" / "summary.json").read_text())
    numbers = {f"{f}.{m}.{p}": v for f, methods in summary.items() for m, n in methods.items() for p, v in n.items()}
    assert parent.data.metrics == pytest.approx(numbers, abs=1e-4)
    assert {file.path for file in client.list_artifacts(parent.info.run_id)} >= {"params.yaml", "dvc.yaml"}


def answer(model: mlflow.pyfunc.PyFuncModel, queries: int) -> np.ndarray:
    """Probabilities for images of noise, after the labelled ones that a few-shot model needs."""
    shape = model.metadata.signature.inputs.to_dict()[0]["tensor-spec"]["shape"][1:]
    params = {each.name: each.default for each in model.metadata.signature.params or ()}
    labelled = params.get("way", 0) * params.get("shot", 0)
    images = np.random.default_rng(1).integers(0, 256, (labelled + queries, *shape), dtype=np.uint8)
    return model.predict(images)


def test_every_model_answers(client) -> None:
    experiment = client.get_experiment_by_name(tracking.EXPERIMENT)
    for logged in client.search_logged_models([experiment.experiment_id], max_results=100):
        probabilities = answer(mlflow.pyfunc.load_model(logged.artifact_location), 1)
        assert len(probabilities) == 1, logged.name
        np.testing.assert_allclose(probabilities.sum(1), 1, rtol=1e-5, err_msg=logged.name)


@pytest.mark.parametrize(("family", "classes"), [("few-shot", 5), ("label-efficiency", 10)])
def test_the_best_model_of_each_family_answers(finished, client, family, classes, monkeypatch) -> None:
    version = client.get_model_version_by_alias(f"fewlabel-{family}", "best")
    assert "-validation/" in version.tags["protocol"]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{finished.folder / 'mlflow.db'}")
    assert answer(mlflow.pyfunc.load_model(f"models:/fewlabel-{family}@best"), 3).shape == (3, classes)


def test_the_numbers_of_a_run_are_those_of_the_leaderboard(finished, client) -> None:
    table = pd.read_csv(finished.folder / "metrics" / "comparison.csv", dtype={"seed": str})
    experiment = client.get_experiment_by_name(tracking.EXPERIMENT)
    checked = 0
    for run in client.search_runs([experiment.experiment_id], "tags.protocol != ''", max_results=1000):
        names = [run.data.tags[name] for name in ("family", "method", "protocol", "seed")]
        for row in table[(table[["family", "method", "protocol", "seed"]] == names).all(axis=1)].to_dict("records"):
            name = "test_accuracy" if row["metric"] == "accuracy" else row["metric"]
            name += "_transductive" if row["transductive"] else ""
            if run.data.tags["fewlabel.stage"] not in ("metric_train", "meta_train"):
                assert run.data.metrics[name] == pytest.approx(row["value"], abs=1e-4), names
                checked += 1
            assert run.data.metrics["train_seconds"] == pytest.approx(row["train_seconds"], rel=1e-3), names
    assert checked > 15


def test_every_training_left_its_model_and_every_stage_its_data_and_params(client) -> None:
    experiment = client.get_experiment_by_name(tracking.EXPERIMENT)
    runs = client.search_runs([experiment.experiment_id], "tags.`fewlabel.stage` != 'pipeline'", max_results=1000)
    for run in runs:
        kind, name = run.data.tags["fewlabel.stage"], run.info.run_name
        trains = kind in ("metric_train", "meta_train") or (
            kind.startswith(("finetune", "transfer")) and kind != "transfer_features"
        )
        assert bool(run.outputs and run.outputs.model_outputs) == trains, name
        assert {"train_seconds", "peak_memory_mib"} <= set(run.data.metrics) or not trains, name
        assert run.data.params, name
        if kind not in ("download", "download_backbone", "prepare", "episodes", "compare"):
            assert [data.dataset.digest for data in run.inputs.dataset_inputs if len(data.dataset.digest) == 32], name
        assert run.data.tags["params.digest"], name
        assert run.data.tags["git.commit"], name
