"""Many at once: writers of a store that does not exist yet, pipelines with one store and one cache."""

import contextlib
import hashlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from mlflow import MlflowClient

from fewlabel import tracking
from tests.conftest import ROOT
from tests.reliability.bench import Bench
from tests.reliability.sizes import LONG, PIPELINES, WRITERS

pytestmark = pytest.mark.pipeline


def runs_of(store: Path) -> list:
    client = MlflowClient(tracking_uri=f"sqlite:///{store}")
    experiment = client.get_experiment_by_name(tracking.EXPERIMENT)
    return client.search_runs([experiment.experiment_id], max_results=10_000)


# The ordinary test run has four writers in tests/test_tracking.py, and two workers of the queue in tests/pipeline.
@pytest.mark.skipif(not WRITERS, reason="one of the long forms: RELIABILITY=long, or RELIABILITY_WRITERS=8")
def test_writers_start_on_a_store_that_does_not_exist(tmp_path: Path) -> None:
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from fewlabel import tracking\n"
        "with tracking.start(sys.argv[2], {}) as run:\n"
        "    for step in range(100): run.log(step, loss=1.0 / (step + 1))\n"
    )
    command = [sys.executable, "-c", code, str(ROOT / "src")]
    tracked = os.environ | {"FEWLABEL_TRACKING": "on", "MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/mlflow.db"}
    started = [
        subprocess.Popen([*command, f"writer {number}"], stdout=subprocess.PIPE, text=True, env=tracked)
        for number in range(WRITERS)
    ]
    assert [process.communicate(timeout=600)[0] for process in started] == [""] * WRITERS
    runs = runs_of(tmp_path / "mlflow.db")
    assert sorted(run.info.run_name for run in runs) == [f"writer {number}" for number in range(WRITERS)]
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert {run.data.metrics["loss"] for run in runs} == {0.01}


def test_pipelines_at_once_share_a_store_and_a_cache(tmp_path: Path) -> None:
    store, cache = tmp_path / "mlflow.db", tmp_path / "cache"
    clones = [Bench(tmp_path / f"clone{number}") for number in range(PIPELINES)]
    targets = [[] if LONG else [f"evaluate_metric@prototypes-lake-{number}"] for number in range(PIPELINES)]
    for number, clone in enumerate(clones):  # the data in common, the trainings not
        clone.configure(**{"cells.few_shot_seeds": [number], "cells.label_cells": [f"20-{number}"]})
        clone.configure(**{"cells.transfer_seeds": [number], "pretrain_rotation.seed": number})
        clone.run(["dvc", "cache", "dir", "--local", str(cache)])
    ran = 0
    with contextlib.ExitStack() as stack:
        started = []
        for clone, target in zip(clones, targets, strict=True):
            log = stack.enter_context((clone.folder / "repro.log").open("w"))
            uri = {"FEWLABEL_TRACKING": "on", "MLFLOW_TRACKING_URI": f"sqlite:///{store}"}
            started.append(clone.popen(["dvc", "repro", *target], log, **uri))
        for process in started:
            process.wait(timeout=7200)
    for clone, process, target in zip(clones, started, targets, strict=True):
        log = (clone.folder / "repro.log").read_text()
        assert process.returncode == 0, log[-3000:]
        assert "warning: the run is not whole" not in log
        assert "up to date" in clone.run(["dvc", "status", "--with-deps", *target]).stdout
        ran += len(re.findall(r"^Running stage ", log, re.MULTILINE))
    runs = runs_of(store)
    assert {run.info.status for run in runs} == {"FINISHED"}
    parents = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    assert len(parents) == PIPELINES
    assert len(runs) - len(parents) == ran  # each stage that ran, once
    files = [path for path in (cache / "files" / "md5").rglob("*") if path.is_file()]
    assert files
    for path in files:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "md5").hexdigest()
        assert path.parent.name + path.name.removesuffix(".dir") == digest
    print(
        f"{PIPELINES} pipelines at once: {ran} stages ran, {len(runs)} runs, {len(files)} files in the cache, all whole"
    )
