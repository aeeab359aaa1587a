"""The stage `compare` on made-up results: all or nothing, the same bytes again, own images kept out of git."""

import json
import random
import re
import shutil
import signal
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pytest
import yaml
from PIL import Image

from fewlabel import params
from fewlabel.errors import UserError
from fewlabel.report import leaderboard
from stages import common, compare
from tests.conftest import ROOT, result_row
from tests.reliability.sizes import DAMAGES, SEED
from tests.reliability.test_damaged import arrays_changed

FEW_SHOT_CURVE = "step,loss,accuracy,val_loss,val_accuracy\n1,2,0.2,,\n2,1,0.4,1.5,0.3\n3,0.5,0.6,1,0.5\n"
SUPERVISED_CURVE = "step,epoch,train_loss,train_accuracy,test_loss,test_accuracy\n1,1,2,0.1,2,0.1\n2,2,1,0.5,1.5,0.3\n"


def evaluated(folder: Path, dataset: str, tasks: list[str]) -> None:
    """What `evaluate` writes, of a method that tells the first class from the others and no more."""
    method, split = folder.name.split("-")[:2]
    modes = (True, False) if method in ("maml", "reptile") else (False,)
    rows = [
        result_row("few-shot", method, dataset, f"{split}/{task}", transductive=mode)
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
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder as the stages before `compare` leave it, with two splits: Omniglot's and a person's own."""
    raw = yaml.safe_load((ROOT / "params.yaml").read_text())
    raw["budget"] = "smoke"
    raw["cells"] |= {"splits": ["lake", "flowers"], "metric_methods": ["siamese"], "gradient_methods": ["maml"]}
    raw["cells"] |= {"tasks": ["5w1s"], "few_shot_seeds": [0], "label_cells": ["20-0"], "transfer_seeds": [0]}
    raw["own_images"] = {"flowers": {"folder": "x", "tasks": ["5w1s"]}}
    raw["episodes"]["tasks"] = ["5w1s", "all-5s"]
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(raw))
    monkeypatch.chdir(tmp_path)
    settings = params.load()
    for dataset in ("omniglot", "cifar10", "hymenoptera"):
        folder = tmp_path / "data" / "raw" / dataset
        folder.mkdir(parents=True)
        (folder / "source.json").write_text(json.dumps({"source": "mirror"}))
    for cell in leaderboard.cells(settings, tmp_path / "results"):
        stage = cell.trained[-1].parent.name
        for folder in (*cell.trained, cell.measured):
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "run.json").write_text(json.dumps({"seconds": 10.0, "device": "abacus"}))
        start = cell.measured.name.removesuffix("-20-0").removesuffix("-0")
        if stage in ("metric_train", "meta_train"):
            (cell.trained[-1] / "curve.csv").write_text(FEW_SHOT_CURVE)
            tasks = ["5w1s"] if stage == "meta_train" else settings.test_tasks(cell.measured.name.split("-")[1])
            evaluated(cell.measured, cell.dataset, tasks)
            continue
        protocol = "hymenoptera/train-val" if cell.dataset == "hymenoptera" else "cifar10/20-per-class"
        family = "transfer" if cell.dataset == "hymenoptera" else "label-efficiency"
        made = [result_row(family, start, cell.dataset, protocol)]
        (cell.measured / "metrics.json").write_text(json.dumps({"origin": "archive", "rows": made}))
        (cell.measured / "curve.csv").write_text(SUPERVISED_CURVE)
        for name in ("predictions.png", "most_wrong.png"):
            Image.new("RGB", (40, 30), "green").save(cell.measured / name)
    return tmp_path / "results"


def contents(*folders: str) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for name in folders for path in Path(name).rglob("*") if path.is_file()}


def test_it_is_all_or_nothing_and_the_same_again(results) -> None:
    compare.main()
    first = contents("metrics", "reports")
    drawn = {path.stem for path in Path("metrics/figures").iterdir()}
    numbers = {"accuracy_by_method", "paired_differences", "label_efficiency", "training_time", "few_shot_curves"}
    assert drawn == numbers | {"rotation_against_supervised", "episode_lake", "confusion_lake"}  # none of flowers
    curve = first["metrics/curves/few_shot/maml-lake-5w1s-0.csv"].decode()
    assert curve == "step,loss,accuracy,val_loss,val_accuracy\n2,1.5,0.3,1.5,0.3\n3,0.5,0.6,1,0.5\n"
    page = first["reports/index.html"].decode()
    assert page.count("<img ") == len(drawn) + 2 + 2  # and own images' two, and the photographs' two
    assert "flowers/5w1s" in page

    compare.main()
    assert contents("metrics", "reports") == first

    shutil.rmtree("metrics/figures")
    (Path("metrics") / ".draft-killed").mkdir()
    last = results / "transfer" / "finetune-0" / "most_wrong.png"  # what is read last
    last.unlink()
    before = contents("metrics", "reports")
    with pytest.raises(UserError, match=r"most_wrong\.png: cannot be read"):
        compare.main()
    assert contents("metrics", "reports") == before
    assert not list(Path("metrics").glob(".draft-*"))


def test_a_variant_of_maml_has_its_name_everywhere(results) -> None:
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


def test_a_kill_while_results_are_replaced_leaves_the_rest_to_the_next_run(results, monkeypatch) -> None:
    compare.main()
    first = contents("metrics", "reports")
    path = results / "transfer" / "frozen-0" / "metrics.json"
    path.write_text(path.read_text().replace("0.6", "0.65"))

    class Killed(BaseException):
        pass

    def killed(path: Path) -> None:
        if path == Path("metrics/figures"):
            (path / "training_time.png").unlink()
            raise Killed
        common.delete(path)

    with monkeypatch.context() as context:
        context.setattr(compare, "delete", killed)
        with pytest.raises(Killed):
            compare.main()
    assert not Path("metrics/figures/training_time.png").exists()
    (results / "transfer" / "finetune-0" / "most_wrong.png").unlink()
    with pytest.raises(UserError):
        compare.main()
    second = contents("metrics", "reports")
    assert second.keys() == first.keys()
    assert b"0.65" in second["metrics/comparison.csv"]
    assert second["reports/index.html"] != first["reports/index.html"]


def changed(value: Any, draw: random.Random) -> Any:
    """JSON with one value, at any depth, of another kind, out of range or gone."""
    if isinstance(value, dict) and value and draw.random() < 0.9:
        key = draw.choice(sorted(value))
        rest = {name: each for name, each in value.items() if name != key}
        return rest if draw.random() < 0.3 else rest | {key: changed(value[key], draw)}
    if isinstance(value, list) and value and draw.random() < 0.9:
        return [changed(value[0], draw), *value[1:]]
    return draw.choice([None, "", "x", -1, 0.5, 1e300, True, [], [1], {}, {"x": 1}, float("nan")])


def damaged(path: Path, content: bytes, draw: random.Random) -> bytes:
    at = draw.randrange(len(content))
    if draw.random() < 0.5 and path.suffix == ".json":
        return json.dumps(changed(json.loads(content), draw)).encode()
    if draw.random() < 0.5 and path.suffix == ".csv":  # one field, or one line
        fields = content.split(b",")
        fields[draw.randrange(len(fields))] = draw.choice([b"", b"x", b"nan", b"1\n2", b"\xff"])
        return draw.choice([b",".join(fields), b"\n".join(content.split(b"\n")[: draw.randrange(3)])])
    if draw.random() < 0.5 and path.suffix == ".npz":
        return arrays_changed(content, draw)
    return draw.choice([content[:at], content[:at] + draw.randbytes(3) + content[at + 3 :], b"", b"\0\0", b"[]"])


def test_ctrl_c_while_results_are_replaced_comes_after_all_of_them(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    compare.MADE.mkdir(parents=True)
    for name in ("comparison.csv", "index.html", "summary.json"):
        (compare.MADE / name).write_text("new")
    move = shutil.move

    def interrupted_move(made: Path, place: Path) -> None:
        if made.name == "comparison.csv":
            signal.raise_signal(signal.SIGINT)
        move(made, place)

    monkeypatch.setattr(compare.shutil, "move", interrupted_move)
    with pytest.raises(KeyboardInterrupt):
        compare.put_in_place()
    left = sorted(str(path) for path in Path().rglob("*") if path.is_file())
    assert left == ["metrics/comparison.csv", "metrics/summary.json", "reports/index.html"]
    assert not compare.MADE.exists()


@pytest.mark.parametrize(
    "file",
    [
        "data/raw/omniglot/source.json",
        "results/evaluate/maml-lake-5w1s-0/metrics.json",
        "results/evaluate/maml-lake-5w1s-0/episodes.csv",
        "results/evaluate/maml-lake-5w1s-0/examples.npz",
        "results/meta_train/maml-lake-5w1s-0/run.json",
        "results/meta_train/maml-lake-5w1s-0/curve.csv",
        "results/finetune/scratch-20-0/metrics.json",
        "results/finetune/scratch-20-0/curve.csv",
        "results/transfer/frozen-0/predictions.png",
    ],
)
def test_a_damaged_result_is_refused_by_name_or_does_no_harm(results, file, monkeypatch) -> None:
    def save(figure, path: Path) -> None:  # the slow part left away
        plt.close(figure)
        Image.new("L", (9, 9)).save(path)

    monkeypatch.setattr(compare.figures, "save", save)
    path = Path(file)
    content = path.read_bytes()
    compare.main()
    before = contents("metrics", "reports")
    refused = []
    for number in range(DAMAGES):
        path.write_bytes(damaged(path, content, random.Random(f"{SEED} {file} {number}")))
        try:
            compare.main()
        except UserError as error:
            refused.append(common._one_line(error) or "")
            assert contents("metrics", "reports") == before, number
        else:
            before = contents("metrics", "reports")
    assert len(refused) > DAMAGES / 4
    for said in refused:
        assert str(path) in said or str(path.parent) in said
        assert "\n" not in said
