"""A folder of a person's own images, from one entry in params.yaml to its row, by the real stages."""

import functools
import json
import re
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from fewlabel import params
from tests.conftest import ROOT
from tests.pipeline.test_refusals import nothing_in, refused

pytestmark = pytest.mark.pipeline


def draw(folder: Path, classes: list[str], images: int = 10) -> Path:
    """Photographs of several sizes and formats; each class a blot of its own on a noisy ground."""
    for number, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        rng = np.random.default_rng(number)
        blot = rng.integers(0, 256, (6, 6, 3))
        for i in range(images):
            noisy = np.clip(blot + rng.normal(0, 25, blot.shape), 0, 255).astype(np.uint8)
            size = [(60, 40), (33, 71), (48, 48), (90, 30)][i % 4]
            picture = Image.fromarray(noisy).resize(size, Image.Resampling.BICUBIC)
            mode, suffix = [("RGB", "jpg"), ("RGBA", "png"), ("CMYK", "jpeg"), ("L", "png")][i % 4]
            picture.convert(mode).save(folder / name / f"{i}.{suffix}")
    return folder


def enter(clone, folder: Path, task: str = "2w1s", **entry: object) -> None:
    """The one entry, and the cells that it makes."""
    path = clone.folder / "params.yaml"
    raw = yaml.safe_load(path.read_text())
    raw["own_images"] = {"blots": {"folder": str(folder), "tasks": ["2w1s3q", "2w2s3q", "all-2s3q"], **entry}}
    raw["cells"] |= {"splits": ["blots"], "tasks": [task]}
    path.write_text(yaml.safe_dump(raw))


@pytest.mark.parametrize("grouped", [False, True])
def test_a_folder_becomes_a_row(clone, tmp_path: Path, grouped: bool) -> None:
    names = [f"group{i % 4}/class{i}" if grouped else f"class{i}" for i in range(12)]
    folder = draw(tmp_path / "blots", names)
    look = {"size": 40 if grouped else 16, "colour": True}
    enter(clone, folder, **look, rotations=grouped, by="group" if grouped else "class", test=0.3, validation=0.2)
    stages = ("own_episodes@blots", "metric_train@prototypes-blots-0", "evaluate_metric@prototypes-blots-0")
    said = clone.run(["dvc", "repro", stages[-1]], FEWLABEL_TRACKING="off").stdout
    fewer = "blots: 6 training classes, so prototypes.way is 6 here, not 10"
    assert (fewer in said) == (not grouped)  # of two groups, turned, there are 24
    results = clone.folder / "results" / "evaluate" / "prototypes-blots-0"
    rows = json.loads((results / "metrics.json").read_text())["rows"]
    assert [(row["dataset"], row["protocol"]) for row in rows] == [
        ("blots", f"blots/{task}") for task in ("2w1s3q", "2w2s3q", "all-2s3q")
    ]
    assert [row["n"] for row in rows] == [20, 20, 2]
    assert json.loads((results / "run.json").read_text())["peak_memory_mib"] > 50
    with np.load(clone.folder / "data" / "episodes" / "blots" / "data.npz") as data:
        parts = [set(data[part][:, 0].tolist()) for part in ("train", "validation", "test")]
        assert sum(map(len, parts)) == len(set.union(*parts)) == 12
    status = json.loads(clone.run(["dvc", "status", "--with-deps", "--json", stages[-1]]).stdout)
    assert status == {}
    Image.new("RGB", (30, 30)).save(folder / names[0] / "0.jpg")  # one image changed
    assert stages[0] in json.loads(clone.run(["dvc", "status", "--with-deps", "--json", stages[-1]]).stdout)


def test_the_entry_of_the_docs_is_all_it_takes(clone, tmp_path: Path) -> None:
    """No other setting than those it shows, on the smallest folder that it says it takes."""
    shown = re.search(r"```yaml\n(own_images:.*?)```", (ROOT / "docs/own-images.md").read_text(), re.DOTALL)
    assert shown
    folder = draw(tmp_path / "flowers", [f"class{i}" for i in range(15)], images=20)
    entry = shown[1].replace("/data/flowers", str(folder))
    clone.set(**{"own_images: {}": entry, "splits: [lake]": "splits: [flowers]"})
    cells = params.load(ROOT / "params.yaml").cells
    metric = [f"evaluate_metric@{method}-flowers-0" for method in cells.metric_methods]
    gradient = [f"evaluate@{method}-flowers-5w5s-0" for method in cells.gradient_methods]
    said = clone.run(["dvc", "repro", *metric, *gradient], FEWLABEL_TRACKING="off").stdout
    assert "flowers: 5 training, 5 validation, 5 test classes, 20 images of each" in said
    for parameter in ("prototypes.way is 5 here, not 10", "siamese.classes is 5", "nearest_mean.classes is 5"):
        assert f"flowers: 5 training classes, so {parameter}" in said
    for results in (clone.folder / "results" / "evaluate").iterdir():
        rows = json.loads((results / "metrics.json").read_text())["rows"]
        tasks = ("5w5s",) if results.name.endswith("-5w5s-0") else ("5w1s", "5w5s")
        assert {row["protocol"] for row in rows} == {f"flowers/{task}" for task in tasks}


def test_mistakes_are_one_line(clone, tmp_path: Path) -> None:
    folder = draw(tmp_path / "blots", [f"class{i}" for i in range(8)], images=10)
    stage = functools.partial(clone.stage, "stages.episodes", "blots", ok=False)
    enter(clone, folder, task="3w1s", tasks=["3w1s"])
    classes = ("2 validation classes, and maml for 3w1s takes 3", "2 test classes, and test task 3w1s takes 3")
    refused(stage(), "own_images.blots: class class0 has 10 images, and test task 3w1s takes 16", *classes)
    for name in ("2.jpeg", "3.png"):
        (folder / "class3" / name).write_text("no photograph")
    enter(clone, folder)
    refused(stage(), "own_images.blots: 2 files that cannot be read", "class3/2.jpeg", "class3/3.png")
    nothing_in(clone.folder / "data" / "episodes")


def test_a_gradient_method_without_its_task(clone) -> None:
    refused(clone.stage("stages.meta_train", "maml", "lake", ok=False), "maml needs a fixed way", "--task 5w1s")
    refused(clone.stage("stages.evaluate", "reptile", "lake", ok=False), "reptile needs a fixed way")
    refused(clone.stage("stages.evaluate", "prototypes", "lake", "--task", "5w1s", ok=False), "leave --task out")
    refused(clone.stage("stages.meta_train", "maml", "lake", "--task", "5w1s1q", ok=False), "5w1s1q")
