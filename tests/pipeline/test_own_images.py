"""A folder of a person's own images, from one entry in params.yaml to its row, by the real stages."""

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from tests.pipeline.test_refusals import nothing_in, refused

pytestmark = pytest.mark.pipeline


def draw(folder: Path, classes: list[str], images: int = 8) -> Path:
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


def enter(clone, folder: Path, **entry: object) -> None:
    """The one entry, and the smallest training that fits so few classes."""
    path = clone.folder / "params.yaml"
    raw = yaml.safe_load(path.read_text())
    raw["own_images"] = {"blots": {"folder": str(folder), "tasks": ["2w1s3q", "2w2s3q", "all-2s3q"], **entry}}
    raw["cells"] |= {"splits": ["blots"], "metric_methods": ["prototypes"], "tasks": ["2w1s"]}
    raw["prototypes"] |= {"way": 4, "queries": 3}
    path.write_text(yaml.safe_dump(raw))


@pytest.mark.parametrize("grouped", [False, True])
def test_a_folder_becomes_a_row(clone, tmp_path: Path, grouped: bool) -> None:
    names = [f"group{i % 4}/class{i}" if grouped else f"class{i}" for i in range(12)]
    folder = draw(tmp_path / "blots", names)
    enter(clone, folder, rotations=True, by="group" if grouped else "class", test=0.3, validation=0.2)
    stages = ("own_episodes@blots", "metric_train@prototypes-blots-0", "evaluate_metric@prototypes-blots-0")
    clone.run(["dvc", "repro", stages[-1]], FEWLABEL_TRACKING="off")
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


def test_mistakes_are_one_line(clone, tmp_path: Path) -> None:
    folder = draw(tmp_path / "blots", [f"class{i}" for i in range(8)], images=5)
    enter(clone, folder, tasks=["2w1s"])
    refused(clone.stage("stages.episodes", "blots", ok=False), "own_images.blots", "class0", "16")
    (folder / "class3" / "2.jpeg").write_text("no photograph")
    enter(clone, folder)
    refused(clone.stage("stages.episodes", "blots", ok=False), "class3/2.jpeg")
    nothing_in(clone.folder / "data" / "episodes")


def test_a_gradient_method_without_its_task(clone) -> None:
    refused(clone.stage("stages.meta_train", "maml", "lake", ok=False), "maml needs a fixed way", "--task 5w1s")
    refused(clone.stage("stages.evaluate", "reptile", "lake", ok=False), "reptile needs a fixed way")
    refused(clone.stage("stages.evaluate", "prototypes", "lake", "--task", "5w1s", ok=False), "leave --task out")
    refused(clone.stage("stages.meta_train", "maml", "lake", "--task", "5w1s1q", ok=False), "5w1s1q")
