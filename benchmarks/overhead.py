"""What the pipeline costs beside the training.

``python -m benchmarks.overhead [folder] [--experiments 50] [--runs 2000] [--dag]``. The folder is a checkout in which
the pipeline has run at the smoke budget; ``make demo`` leaves one at ``.demo``. It stays as it is: stages, experiments,
runs and pipelines are made in copies.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SMOKE = ["budget=smoke", "data.source=embedded", "cells.label_cells=[20-0]", "cells.transfer_seeds=[0]"]
STAGE = ["stages.meta_train", "maml", "lake", "--task", "5w1s", "--seed", "0"]
FIRST_PAGE = 100  # runs that the UI's list asks for


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, default=Path(".demo"))
    parser.add_argument("--experiments", type=int, default=0, help="time `dvc exp show` with so many")
    parser.add_argument("--runs", type=int, default=0, help="time MLflow's list of runs with so many")
    parser.add_argument("--dag", action="store_true", help="time the whole pipeline at the smoke budget")
    arguments = parser.parse_args()
    if not (arguments.folder / "results" / "meta_train").is_dir():
        parser.error(f"{arguments.folder}: no finished pipeline; run `make demo` first")
    print(f"{os.cpu_count()} cores, Python {sys.version.split()[0]}; wall seconds")
    with tempfile.TemporaryDirectory() as scratch:
        stage_overhead(arguments.folder, Path(scratch) / "stage")
        print(f"dvc repro, nothing to do: {seconds(arguments.folder, 'dvc', 'repro'):.1f}")
        if arguments.experiments:
            experiments(arguments.folder, Path(scratch) / "experiments", arguments.experiments)
        if arguments.runs:
            runs(Path(scratch) / "mlflow.db", arguments.runs)
        if arguments.dag:
            dag(arguments.folder, Path(scratch) / "dag")


def stage_overhead(folder: Path, copy: Path) -> None:
    """A training stage but for its training: start, reading data, tracking, saving, the served model."""
    copy.mkdir()
    for name in ("src", "stages", "data/episodes"):
        shutil.copytree(folder / name, copy / name)
    for name in ("params.yaml", "dvc.yaml"):
        shutil.copy(folder / name, copy / name)
    for what, tracking in (("the first of a store", ""), ("the next", ""), ("tracking off", "off")):
        began = time.perf_counter()
        run(copy, sys.executable, "-m", *STAGE, FEWLABEL_TRACKING=tracking)
        wall = time.perf_counter() - began
        trained = json.loads((copy / "results/meta_train/maml-lake-5w1s-0/run.json").read_text())["seconds"]
        print(f"overhead of a stage, {what}: {wall - trained:.1f}")


def experiments(folder: Path, copy: Path, count: int) -> None:
    shutil.copytree(folder, copy, ignore=shutil.ignore_patterns("cache", "mlartifacts", "mlflow.db", "plots"))
    seconds(copy, "dvc", "cache", "dir", "--local", str((folder / ".dvc/cache").resolve()))
    seconds(copy, "git", "add", "--all")
    seconds(copy, "git", "commit", "--quiet", "--allow-empty", "--message", "results")
    params = (copy / "params.yaml").read_text()
    for number in range(count):
        (copy / "params.yaml").write_text(params.replace("inner_lr: 0.4", f"inner_lr: 0.{400 + number}"))
        seconds(copy, "dvc", "exp", "save", "--force", "--name", f"bench-{number}")
    (copy / "params.yaml").write_text(params)
    for when in ("first", "again"):
        print(f"dvc exp show, {count} experiments, {when}: {seconds(copy, 'dvc', 'exp', 'show', '--no-pager'):.1f}")


def runs(store: Path, count: int) -> None:
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Param, RunTag

    client = MlflowClient(tracking_uri=f"sqlite:///{store}")
    experiment = client.create_experiment("fewlabel")
    for number in range(count):
        created = client.create_run(experiment, run_name=f"run-{number}").info.run_id
        client.log_batch(
            created,
            metrics=[Metric(name, number / count, number, 0) for name in ("loss", "accuracy", "test_accuracy")],
            params=[Param(f"parameter_{i}", str(number)) for i in range(15)],
            tags=[RunTag(f"tag_{i}", str(number)) for i in range(12)],
        )
    for order in ("attributes.start_time DESC", "metrics.test_accuracy DESC"):
        began = time.perf_counter()
        found = client.search_runs([experiment], max_results=FIRST_PAGE, order_by=[order])
        print(f"MLflow, first {len(found)} of {count} runs by {order}: {time.perf_counter() - began:.2f}")


def dag(folder: Path, copy: Path) -> None:
    subprocess.run(["git", "clone", "--quiet", folder.resolve(), copy], check=True)
    (copy / "dvc.lock").unlink(missing_ok=True)  # from nothing, as `make demo`
    wall = seconds(copy, "dvc", "exp", "run", *(word for setting in SMOKE for word in ("-S", setting)))
    print(f"the whole pipeline at the smoke budget: {wall:.0f}")


def seconds(folder: Path, *command: str) -> float:
    """Wall seconds."""
    began = time.perf_counter()
    run(folder, *command)
    return time.perf_counter() - began


def run(folder: Path, *command: str, **environment: str) -> str:
    """Run it there, with this interpreter's tools first; → what it said."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("FEWLABEL", "MLFLOW", "DVC_", "PYTHONPATH"))}
    kept["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{kept['PATH']}"
    return subprocess.run(
        command, cwd=folder, env=kept | environment, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ).stdout.decode()


if __name__ == "__main__":
    main()
