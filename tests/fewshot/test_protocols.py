import io
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.spatial.distance import cdist

from fewlabel import params
from fewlabel.data import omniglot
from fewlabel.data.few_shot import FewShotData
from fewlabel.data.omniglot import Runs
from fewlabel.errors import DamagedFile, UserError
from fewlabel.fewshot import protocols
from fewlabel.fewshot.episodes import Shape
from stages.episodes import test_episodes as episodes_of
from tests.conftest import ROOT

GROUPS = np.array([0] * 3 + [1] * 6 + [2] * 5)


def test_within_a_group_every_episode_has_classes_of_one_group_and_groups_take_turns() -> None:
    found = protocols.within(Shape(20, 5, 1, 2), GROUPS, 4, 0, "within-5w1s")
    groups = GROUPS[found.classes.numpy()]
    assert (groups == groups[:, :1]).all()
    assert set(groups[:, 0]) == {1, 2}  # the other one has too few
    drawings = torch.cat([found.support, found.query], 2)
    assert all(len(set(each.tolist())) == 3 for each in drawings.flatten(0, 1))
    assert all(len(set(each.tolist())) == 5 for each in found.classes)


def test_within_a_group_the_way_is_lowered_to_the_largest_group() -> None:
    assert protocols.within(Shape(4, 20, 1, 1), GROUPS, 4, 0, "x").classes.shape == (4, 6)


def test_the_tutorial_takes_the_first_of_all() -> None:
    found = protocols.tutorial(3, 2, 5)
    assert found.classes.tolist() == [[0, 1, 2]]
    assert found.support[0].tolist() == [[0, 1]] * 3
    assert found.query[0].tolist() == [[2, 3, 4]] * 3


def made_up_runs() -> tuple[Runs, np.ndarray]:
    images = np.random.default_rng(0).integers(256, size=(30, 4, 28, 28), dtype=np.uint8)
    rng = np.random.default_rng(1)
    classes = np.stack([rng.permutation(30)[:20] for _ in range(2)])
    answer = np.stack([rng.permutation(20) for _ in range(2)])
    query = np.stack([images[kinds[order], 3] for kinds, order in zip(classes, answer, strict=True)])
    return Runs(images[classes, 1], query, answer), images


def test_the_published_runs_are_found_among_the_drawings() -> None:
    runs, images = made_up_runs()
    found = protocols.lake_runs(runs, images)
    assert found.classes.shape == (2, 20)
    assert (found.support == 1).all()
    assert (found.query == 3).all()
    assert (images[found.classes.numpy(), 1] == runs.support).all()


def test_runs_of_other_drawings_are_refused() -> None:
    runs, images = made_up_runs()
    with pytest.raises(DamagedFile, match="one-shot runs"):
        protocols.lake_runs(runs, images[:5])


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("runs-20w1s", "that test is lake's alone"),
        ("tutorial-5w1s", "that test is lake's alone"),
        ("tutorial-99w1s", "99-way episodes and only 30 classes"),
        ("tutorial-5w4s", "lower one of them"),
    ],
)
def test_a_published_test_that_cannot_be_is_refused(name: str, told: str) -> None:
    runs, images = made_up_runs()
    kinds = np.stack([np.arange(30), np.zeros(30, np.int64)], axis=1)
    data = FewShotData(images[:, :, None], np.array([f"a/{n}" for n in range(30)]), kinds, kinds, kinds, "archive")
    settings = params.load(ROOT / "params.yaml").episodes
    with pytest.raises(UserError, match=told):
        episodes_of(name, data, settings, name, None if "alone" in told else runs)


@pytest.mark.mirror
def test_the_official_demo_s_baseline_errs_as_published(mirror) -> None:
    """The modified Hausdorff distance (Dubuisson and Jain 1994) of the ink's pixels errs in 38.8 % of 400 trials."""
    archive = zipfile.ZipFile(mirror / "all_runs.zip")
    answers = omniglot._runs(mirror / "all_runs.zip").answer
    wrong = 0
    for run in range(20):
        points = {}
        for kind in ("training/class", "test/item"):
            for number in range(20):
                image = Image.open(io.BytesIO(archive.read(f"run{run + 1:02}/{kind}{number + 1:02}.png")))
                ink = np.argwhere(~np.array(image, dtype=bool)).astype(np.float64)
                points[kind, number] = ink - ink.mean(0)
        for item in range(20):
            distances = [hausdorff(points["test/item", item], points["training/class", kind]) for kind in range(20)]
            wrong += int(np.argmin(distances) != answers[run, item])
    assert wrong == 155  # 38.75 %


def hausdorff(first: np.ndarray, second: np.ndarray) -> float:
    distances = cdist(first, second)
    return max(distances.min(1).mean(), distances.min(0).mean())
