"""Pipelines at once, with one MLflow store and one DVC cache: each ends as it would alone, and no run is lost."""

import hashlib
import re
from pathlib import Path

import pytest
from mlflow import MlflowClient

from fewlabel import tracking
from tests.reliability.bench import Bench, ended
from tests.reliability.sizes import LONG, PIPELINES

pytestmark = pytest.mark.pipeline


def test_pipelines_at_once_share_a_store_and_a_cache(tmp_path: Path) -> None:
    store, cache = tmp_path / "mlflow.db", tmp_path / "cache"
    target = [] if LONG else ["episodes@lake"]
    clones = [Bench(tmp_path / f"clone{number}") for number in range(PIPELINES)]
    for number, clone in enumerate(clones):  # the downloads in common, the rest not
        seeds = {"cells.few_shot_seeds": [number], "cells.transfer_seeds": [number], "episodes.seed": number}
        labels = {"cells.label_cells": [f"20-{number}"], "cells.frozen_cells": [f"20-{number}"]}
        clone.configure(seeds | labels | {"pretrain.seed": number})
        clone.run(["dvc", "cache", "dir", "--local", str(cache)])
    uri = {"FEWLABEL_TRACKING": "on", "MLFLOW_TRACKING_URI": f"sqlite:///{store}"}
    ran = 0
    for process in [clone.popen(["dvc", "repro", *target], **uri) for clone in clones]:
        out, _ = ended(process)
        assert "not whole in MLflow" not in out
        ran += len(re.findall(r"^Running stage ", out, re.MULTILINE))
    for clone in clones:
        assert "up to date" in clone.run(["dvc", "status", "--with-deps", *target]).stdout
    client = MlflowClient(tracking_uri=uri["MLFLOW_TRACKING_URI"])
    experiment = client.get_experiment_by_name(tracking.EXPERIMENT)
    runs = client.search_runs([experiment.experiment_id], max_results=10_000)
    assert {run.info.status for run in runs} == {"FINISHED"}
    parents = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    assert len(parents) == PIPELINES
    assert len(runs) - len(parents) == ran  # each stage that ran, once
    files = [path for path in (cache / "files" / "md5").rglob("*") if path.is_file()]
    assert files
    for path in files:
        digest = hashlib.md5(path.read_bytes()).hexdigest()
        assert path.parent.name + path.name.removesuffix(".dir") == digest
