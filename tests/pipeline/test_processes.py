"""A real training that torchrun shares among processes is one training: one run, one folder, one process's numbers."""

import json
from collections.abc import Iterator

import pandas as pd
import pytest
from mlflow import MlflowClient

from tests.pipeline.conftest import Clone

pytestmark = pytest.mark.pipeline
CELL = "maml-lake-5w1s-0"


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clone]:
    """A clone in which two processes share MAML's tasks, with the embedded data ready."""
    with Clone(tmp_path_factory.mktemp("shared")).alone() as clone:
        launch = "launch: torchrun --standalone --nproc-per-node=2 #"
        clone.set(**{"budget: cpu": "budget: smoke", "source: official": "source: embedded", "launch: python": launch})
        clone.run(["dvc", "repro", "episodes@lake"], FEWLABEL_TRACKING="off")
        yield clone


def test_two_processes_leave_what_one_leaves(shared) -> None:
    shared.run(["dvc", "repro", "--single-item", f"meta_train@{CELL}"])
    client = MlflowClient(tracking_uri=f"sqlite:///{shared.folder / 'mlflow.db'}")
    names = [run.info.run_name for run in client.search_runs(["1"], "tags.`fewlabel.stage` != 'pipeline'")]
    assert names == [f"meta_train@{CELL}"]
    folder = shared.folder / "results" / "meta_train" / CELL
    assert sorted(path.name for path in folder.iterdir()) == ["curve.csv", "model.safetensors", "run.json"]
    assert json.loads((folder / "run.json").read_text())["processes"] == 2
    two = pd.read_csv(folder / "curve.csv")

    shared.stage("stages.meta_train", "maml", "lake", "--task", "5w1s", "--seed", "0")
    one = pd.read_csv(folder / "curve.csv")
    assert json.loads((folder / "run.json").read_text())["processes"] == 1
    # Gradients are summed in another order, of which inner steps and Adam make more with every step.
    assert list(one["step"]) == list(two["step"]) == list(range(1, 11))
    assert list(one["loss"][:3]) == pytest.approx(list(two["loss"][:3]), rel=1e-4)


def test_a_method_whose_step_is_one_task_refuses_to_share_it(shared) -> None:
    torchrun = ["python", "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = shared.run([*torchrun, "-m", "stages.meta_train", "prototypes", "lake"], ok=False, FEWLABEL_TRACKING="off")
    assert done.returncode != 0
    assert "error: prototypes: 2 processes cannot share the tasks of a step evenly, which are 1" in done.stderr
