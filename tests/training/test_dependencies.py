"""The digest of a stage's dependencies changes with what dvc.yaml names, and with nothing else."""

from pathlib import Path
from typing import Any

import pytest

from fewlabel import params
from fewlabel.errors import UserError
from fewlabel.training import dependencies
from tests.conftest import ROOT

DAG = """
stages:
  train:
    matrix: {start: [a, b], seed: [0]}
    cmd: ${launch} -m stages.train ${item.start} --seed ${item.seed}
    deps: [code, "data/${item.start}.npz"]
    params: [budget, train.lr, "${item.start}"]
  train_c:
    matrix: {seed: [0]}
    cmd: python -m stages.train c --seed ${item.seed}
    deps: [code]
"""


@pytest.fixture
def digest(tmp_path: Path):
    (tmp_path / "dvc.yaml").write_text(DAG)
    (tmp_path / "data").mkdir()
    (tmp_path / "code" / "deep").mkdir(parents=True)
    for name in ("data/a.npz", "data/b.npz", "code/deep/x.py", "other.py"):
        (tmp_path / name).write_text("one")

    def digest(command: str = "stages.train a --seed 0", lr: float = 0.1, b: int = 1) -> str:
        values: dict[str, Any] = {"budget": "cpu", "train": {"lr": lr, "other": 1}, "a": {"x": 1}, "b": b}
        return dependencies.digest(command, values, tmp_path / "dvc.yaml")

    return digest


def test_it_changes_with_the_stages_own_files_and_parameters_alone(digest, tmp_path: Path) -> None:
    before = digest()
    (tmp_path / "other.py").write_text("two")
    (tmp_path / "data" / "b.npz").write_text("two")
    assert digest(b=2) == before
    assert digest(lr=0.2) != before
    for name in ("data/a.npz", "code/deep/x.py"):
        (tmp_path / name).write_text("two")
        assert digest() != before
        (tmp_path / name).write_text("one")
    assert digest() == before


def test_a_stage_for_one_value_is_preferred_to_one_for_all(digest, tmp_path: Path) -> None:
    before = digest("stages.train c --seed 0")
    (tmp_path / "code" / "deep" / "x.py").write_text("two")
    assert digest("stages.train c --seed 0") != before


def test_a_command_of_no_stage_is_refused(digest) -> None:
    with pytest.raises(UserError, match=r"no stage runs `stages\.train d`"):
        digest("stages.train d")


@pytest.mark.parametrize(
    "command",
    [
        "stages.pretrain rotation",
        "stages.meta_train prototypes lake --seed 0",
        "stages.meta_train maml lake --task 5w1s --seed 0",
        *(f"stages.finetune {cell}" for cell in ("scratch 20-0", "rotation 20-0", "rotation 20-0 --frozen 2")),
        *(f"stages.transfer {start} --seed 0" for start in ("scratch", "frozen", "small-scratch", "small-rotation")),
    ],
)
def test_every_training_is_found_and_its_parameters_are_there(command: str, monkeypatch) -> None:
    monkeypatch.setattr(dependencies, "_files", lambda path: [])
    assert dependencies.digest(command, params.load(ROOT / "params.yaml").model_dump(), ROOT / "dvc.yaml")
