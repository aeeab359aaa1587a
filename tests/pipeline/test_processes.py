"""A real training that several processes share is one training: one run, one folder, the numbers of one process."""

import json
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
from mlflow import MlflowClient

from tests.pipeline.conftest import Clone

pytestmark = pytest.mark.pipeline
CELL = "maml-lake-5w1s-0"
ARGUMENTS = ("maml", "lake", "--task", "5w1s", "--seed", "0")


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clone]:
    """A clone in which two processes share MAML's tasks, with the embedded data ready."""
    with Clone(tmp_path_factory.mktemp("shared")).alone() as clone:
        clone.set(**{"budget: cpu": "budget: smoke", "source: official": "source: embedded"})
        clone.set(**{"  processes: 1            # that share": "  processes: 2            # that share"})
        clone.run(["dvc", "repro", "episodes@lake"], FEWLABEL_TRACKING="off")
        yield clone


def curve(clone: Clone) -> pd.DataFrame:
    return pd.read_csv(clone.folder / "results" / "meta_train" / CELL / "curve.csv")


def files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_two_processes_leave_what_one_leaves(shared) -> None:
    shared.run(["dvc", "repro", "--single-item", f"meta_train@{CELL}"])
    client = MlflowClient(tracking_uri=f"sqlite:///{shared.folder / 'mlflow.db'}")
    names = [run.info.run_name for run in client.search_runs(["1"], "tags.`fewlabel.stage` != 'pipeline'")]
    assert names == [f"meta_train@{CELL}"]
    trained = shared.folder / "results" / "meta_train"
    assert files(trained) == [f"{CELL}/{name}" for name in ("curve.csv", "model.safetensors", "run.json")]
    assert json.loads((trained / CELL / "run.json").read_text())["processes"] == 2
    # Kept until the next stage sees that DVC has recorded it.
    kept = files(shared.folder / ".checkpoints" / "meta_train")
    assert sorted((Path(name).suffix or Path(name).name) for name in kept) == [".pt", "done"]
    two = curve(shared)

    shared.set(**{"  processes: 2            # that share": "  processes: 1            # that share"})
    shared.stage("stages.meta_train", *ARGUMENTS)
    one = curve(shared)
    assert json.loads((trained / CELL / "run.json").read_text())["processes"] == 1
    # The tasks' gradients are summed in another order. Inner steps and Adam make more of that with every step, as they
    # do in one process that sums in that order; tests/test_processes.py compares in float64.
    assert list(one["step"]) == list(two["step"]) == list(range(1, 11))
    assert list(one["loss"][:3]) == pytest.approx(list(two["loss"][:3]), rel=1e-4)
    assert list(one["accuracy"][:3]) == pytest.approx(list(two["accuracy"][:3]), abs=0.011)  # one query of 100
    assert list(one["val_accuracy"].dropna()) == pytest.approx(list(two["val_accuracy"].dropna()), abs=0.05)


def test_a_method_whose_step_is_one_task_refuses_to_share_it(shared) -> None:
    torchrun = ["python", "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = shared.run([*torchrun, "-m", "stages.meta_train", "prototypes", "lake"], ok=False, FEWLABEL_TRACKING="off")
    assert done.returncode != 0
    assert "error: prototypes: a step has one task, which 2 processes cannot share: start it without" in done.stderr
    assert not (shared.folder / "results" / "metric_train").exists()
