"""The stage `compare` on made-up results: all or nothing, the same bytes again, own images kept out of git."""

import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import yaml

from fewlabel import params, results
from fewlabel.data import hymenoptera
from fewlabel.errors import DamagedFile, UserError
from fewlabel.report import published
from fewlabel.results import Cell
from stages import compare
from tests.conftest import ROOT, result_row

FEW_SHOT_CURVE = "step,loss,accuracy,val_loss,val_accuracy\n1,2,0.2,,\n2,1,0.4,1.5,0.3\n3,0.5,0.6,1,0.5\n"
SUPERVISED_CURVE = "step,epoch,train_loss,train_accuracy,test_loss,test_accuracy\n1,1,2,0.1,2,0.1\n2,2,1,0.5,1.5,0.3\n"


def evaluated(cell: Cell, tasks: list[str]) -> None:
    """What `evaluate` writes, of a method that tells the first class from the others and no more."""
    folder, split, dataset = cell.measured, cell.split, cell.dataset
    modes = (True, False) if cell.task else (False,)
    rows = [
        result_row("few-shot", cell.method, dataset, f"{split}/{task}", transductive=mode)
        for task in tasks
        for mode in modes
    ]
    digests = {task: f"{split} {task}" for task in tasks}
    origin = "archive" if dataset == "omniglot" else "own"
    (folder / "metrics.json").write_text(json.dumps({"origin": origin, "rows": rows, "episodes": digests}))
    rng = np.random.default_rng(len(folder.name))
    lines = [f"{task},{mode},{i},{rng.uniform():.3f}" for task in tasks for mode in modes for i in range(4)]
    (folder / "episodes.csv").write_text("\n".join(["task,transductive,episode,accuracy", *lines]) + "\n")
    kept = {}
    for task in tasks:
        way = params.Task.parse(task).way or 30
        if way > 20:
            continue
        kept[f"{task} support"] = rng.integers(256, size=(way, 1, 1, 8, 8), dtype=np.uint8)
        kept[f"{task} query"] = rng.integers(256, size=(way, 2, 1, 8, 8), dtype=np.uint8)
        for mode in modes:
            named = f"{task} transductive" if mode else task
            kept[f"{named} predicted"] = np.zeros((way, 3), dtype=np.int64)
    np.savez_compressed(folder / "examples.npz", **kept)


@pytest.fixture
def finished_stages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder as the stages before `compare` leave it, with two splits: Omniglot's and a person's own."""
    raw = yaml.safe_load((ROOT / "params.yaml").read_text())
    raw["budget"] = "smoke"
    raw["cells"] |= {"splits": ["lake", "flowers"], "metric_methods": ["siamese"], "gradient_methods": ["maml"]}
    raw["cells"] |= {"tasks": ["5w1s"], "few_shot_seeds": [0], "label_cells": ["20-0"], "transfer_seeds": [0]}
    raw["cells"]["frozen_cells"] = ["20-0"]
    raw["own_images"] = {"flowers": {"folder": "x", "tasks": ["5w1s"]}}
    raw["episodes"] |= {"tasks": ["5w1s", "all-5s"], "published_tasks": {}}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(raw))
    monkeypatch.chdir(tmp_path)
    settings = params.load()
    for dataset in ("omniglot", "cifar10", "hymenoptera"):
        folder = tmp_path / "data" / "raw" / dataset
        folder.mkdir(parents=True)
        (folder / "source.json").write_text(json.dumps({"source": "mirror"}))
    for cell in results.cells(settings):
        for folder in (*cell.trained, cell.measured):
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "run.json").write_text(json.dumps({"seconds": 10.0, "device": "abacus"}))
        if cell.family == "few-shot":
            (cell.trained[-1] / "curve.csv").write_text(FEW_SHOT_CURVE)
            evaluated(cell, [cell.task] if cell.task else settings.test_tasks(cell.split))
            continue
        protocol = "hymenoptera/train-val" if cell.family == "transfer" else "cifar10/20-per-class"
        made = [result_row(cell.family, cell.method, cell.dataset, protocol)]
        (cell.measured / "metrics.json").write_text(json.dumps({"origin": "archive", "rows": made}))
        (cell.measured / "curve.csv").write_text(SUPERVISED_CURVE)
        (cell.measured / "predictions.csv").write_text("name,true,predicted,confidence\na,ants,bees,0.9\n")
    photographs = hymenoptera.Hymenoptera(
        np.zeros((1, 3, 20, 20), np.uint8), np.zeros(1, np.uint8), np.zeros(1, bool), np.array(["a"]), "archive"
    )
    monkeypatch.setattr(hymenoptera, "load", lambda path: photographs)


def contents(*folders: str) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for name in folders for path in Path(name).rglob("*") if path.is_file()}


def test_it_is_all_or_nothing_and_the_same_again(finished_stages) -> None:
    compare.main()
    first = contents("metrics", "reports")
    drawn = {path.stem for path in Path("metrics/figures").iterdir()}
    numbers = {"accuracy_by_method", "paired_differences", "label_efficiency", "training_time", "few_shot_curves"}
    numbers |= {"accuracy_per_second"}
    assert drawn == numbers | {"rotation_against_supervised", "episode_lake", "confusion_lake"}  # none of flowers
    curve = first["metrics/curves/few_shot/maml-lake-5w1s-0.csv"].decode()
    assert curve == "step,loss,accuracy,val_loss,val_accuracy\n2,1.5,0.3,1.5,0.3\n3,0.5,0.6,1,0.5\n"
    html = first["reports/index.html"].decode()
    assert html.count("<img ") == len(drawn) + 2 + 2  # and own images' two, and the photographs' two
    assert "flowers/5w1s" in html
    Path("metrics/published.csv").write_text("kept")
    compare.main()
    first["metrics/published.csv"] = b"kept"
    assert contents("metrics", "reports") == first
    (results.RESULTS / "transfer" / "finetune-0" / "predictions.csv").write_text("name\n")
    with pytest.raises(DamagedFile, match=r"finetune-0/predictions\.csv"):
        compare.main()
    assert contents("metrics", "reports") == first
    assert not list(Path().glob(".metrics*"))


def test_what_has_not_been_made_is_left_out_and_named(finished_stages, capsys) -> None:
    few_shot = [cell.measured for cell in results.cells(params.load()) if cell.family == "few-shot"]
    for folder in (*few_shot, results.RESULTS / "transfer" / "frozen-0"):
        shutil.rmtree(folder)
    compare.main()
    said = capsys.readouterr().out
    assert all(f"left out, as `dvc repro` has not made it yet: {folder}" in said for folder in few_shot)
    drawn = {path.stem for path in Path("metrics/figures").iterdir()}
    assert drawn == {"accuracy_by_method", "label_efficiency", "training_time", "rotation_against_supervised"}
    shutil.rmtree("results")
    with pytest.raises(UserError, match=r"nothing that params\.yaml names"):
        compare.main()


def test_a_variant_of_maml_has_its_name_everywhere(finished_stages) -> None:
    raw = yaml.safe_load(Path("params.yaml").read_text())
    raw["maml"] |= {"multi_step_loss": True, "learn_inner_lr": True}
    Path("params.yaml").write_text(yaml.safe_dump(raw))
    compare.main()
    for made in ("comparison.csv", "leaderboard.md", "paired.csv", "paired.md"):
        text = (Path("metrics") / made).read_text()
        assert "maml++" in text
        assert not re.search(r"maml\b(?!\+)", text), made
    summary = json.loads(Path("metrics/summary.json").read_text())
    assert summary["few-shot"]["maml++-transductive"] == {"lake/5w1s": 0.6, "flowers/5w1s": 0.6}
    assert "maml++" in Path("reports/index.html").read_text()


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("data/raw/omniglot/source.json", b"{}"),
        ("results/evaluate/maml-lake-5w1s-0/metrics.json", b'{"origin": "archive", "rows": []}'),
        ("results/evaluate/maml-lake-5w1s-0/episodes.csv", b"task,transductive\n5w1s,True\n"),
        ("results/evaluate/maml-lake-5w1s-0/examples.npz", b"PK\x03\x04"),
        ("results/meta_train/maml-lake-5w1s-0/run.json", b'{"device": "abacus", "seconds": NaN}'),
        ("results/meta_train/maml-lake-5w1s-0/curve.csv", b"step,loss\nx,y\n"),
        ("results/transfer/frozen-0/predictions.csv", b"\xff\xfe"),
    ],
)
def test_a_damaged_result_is_refused_by_name(finished_stages, file: str, content: bytes) -> None:
    Path(file).write_bytes(content)
    with pytest.raises(DamagedFile, match=re.escape(file)):
        compare.main()
    assert not contents("metrics", "reports")


def test_numbers_of_longer_trainings_are_kept_once(finished_stages, monkeypatch) -> None:
    monkeypatch.setattr(published.subprocess, "run", lambda *_, **__: SimpleNamespace(stdout="f" * 40))
    Path("metrics").mkdir(exist_ok=True)
    first = published.keep("dvc exp run")
    assert set(first["command"]) == {"dvc exp run"}
    assert set(first["commit"]) == {"f" * 12}
    assert set(first["family"]) == {"few-shot", "label-efficiency"}
    again = published.keep("dvc exp run again")
    assert not again.duplicated(published.SAME).any()
    assert set(pd.read_csv("metrics/published.csv")["command"]) == {"dvc exp run again"}
