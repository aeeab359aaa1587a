"""The kept first episodes: of the first seed, small enough to be shown, and which one explains or is hard."""

import json
from pathlib import Path

import numpy as np
import pytest
import yaml

from fewlabel import params, results
from fewlabel.errors import UserError
from fewlabel.report import examples
from tests.conftest import ROOT, result_row


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> params.Params:
    monkeypatch.chdir(tmp_path)
    raw = yaml.safe_load((ROOT / "params.yaml").read_text())
    raw["cells"] |= {"metric_methods": ["siamese"], "gradient_methods": ["maml"], "tasks": ["5w1s"]}
    raw["cells"] |= {"splits": ["lake", "flowers"], "few_shot_seeds": [3, 0]}
    raw["own_images"] = {"flowers": {"folder": "x", "tasks": ["5w1s", "2w1s"]}}
    return params.parse(raw)


def write(folder: Path, method: str, split: str, tasks: dict[str, int], modes: tuple[bool, ...], seed: int) -> None:
    """What `evaluate` leaves: ``tasks`` are names and ways. The predictions are those of seed + class."""
    folder.mkdir(parents=True)
    rows = [
        result_row("few-shot", method, split, f"{split}/{task}", transductive=mode, seed=seed)
        for task in tasks
        for mode in modes
    ]
    (folder / "metrics.json").write_text(json.dumps({"origin": "archive", "rows": rows}))
    kept = {}
    for task, way in tasks.items():
        if way > 20:
            continue
        shot = params.Task.parse(task).shot
        kept[f"{task} support"] = np.full((way, shot, 1, 8, 8), 255, dtype=np.uint8)
        kept[f"{task} query"] = np.zeros((way, 2, 1, 8, 8), dtype=np.uint8)
        for mode in modes:
            name = f"{task} transductive" if mode else task
            kept[f"{name} predicted"] = (np.arange(way)[:, None] + seed + np.zeros((1, 4), dtype=np.int64)) % way
    np.savez_compressed(folder / "examples.npz", **kept)


def fill() -> None:
    lake = {"5w1s": 5, "20w1s": 20, "20w5s": 20, "all-5s": 30}
    for seed in (3, 0):
        write(results.RESULTS / "evaluate" / f"siamese-lake-{seed}", "siamese", "lake", lake, (False,), seed)
        write(
            results.RESULTS / "evaluate" / f"siamese-flowers-{seed}",
            "siamese",
            "flowers",
            {"5w1s": 5, "2w1s": 2},
            (False,),
            seed,
        )
        for split in ("lake", "flowers"):
            cell = results.RESULTS / "evaluate" / f"maml-{split}-5w1s-{seed}"
            write(cell, "maml", split, {"5w1s": 5}, (True, False), seed)


def test_they_are_of_the_first_seed_and_hold_every_method_and_mode(settings) -> None:
    fill()
    found = examples.read(settings)
    names = [(episode.split, episode.task) for episode in found]
    assert names == [("lake", "5w1s"), ("lake", "20w1s"), ("lake", "20w5s"), ("flowers", "5w1s"), ("flowers", "2w1s")]
    first = found[0]
    assert set(first.predicted) == {("siamese", False), ("maml", True), ("maml", False)}
    assert first.predicted["siamese", False][0, 0] == 3  # of seed 3, which stands first in params.yaml
    assert first.right(("siamese", False)) == (0, 20)
    assert [episode.public for episode in found] == [True, True, True, False, False]


def test_omniglot_is_ink_on_paper_and_own_images_are_as_they_are(settings) -> None:
    fill()
    by_split = {episode.split: episode for episode in examples.read(settings)}
    assert (by_split["lake"].support.max(), by_split["lake"].query.min()) == (0, 255)
    assert (by_split["flowers"].support.min(), by_split["flowers"].query.max()) == (255, 0)


def test_five_classes_explain_a_task_and_many_with_one_shot_are_hard(settings) -> None:
    fill()
    found = examples.read(settings)
    lake = [episode for episode in found if episode.split == "lake"][::-1]
    assert (examples.plainest(lake).task, examples.hardest(lake).task) == ("5w1s", "20w1s")
    two = [episode for episode in found if episode.task == "2w1s"]
    assert examples.plainest(two) is examples.hardest(two) is two[0]


def test_a_damaged_or_missing_file_is_named(settings) -> None:
    fill()
    path = results.RESULTS / "evaluate" / "siamese-lake-3" / "examples.npz"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(UserError, match=r"siamese-lake-3/examples\.npz: damaged .*`dvc repro`"):
        examples.read(settings)
    path.unlink()
    with pytest.raises(UserError, match=r"siamese-lake-3/examples\.npz: damaged"):
        examples.read(settings)
