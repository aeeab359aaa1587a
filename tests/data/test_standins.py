"""The stand-ins: the same bytes every time, in the official formats, and learnable."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from fewlabel.data import cifar10, hymenoptera, omniglot, prepared, standins
from fewlabel.data.sources import SOURCES

PACK = {"omniglot": omniglot.pack, "cifar10": cifar10.pack, "hymenoptera": hymenoptera.pack}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """dataset → folder with its raw stand-in archives and the prepared file."""
    made = {}
    for dataset, draw in standins.DRAW.items():
        made[dataset] = tmp_path_factory.mktemp(dataset)
        draw(made[dataset])
        prepared.write(made[dataset] / f"{dataset}.npz", PACK[dataset](made[dataset], "embedded"))
    return made


@pytest.mark.parametrize("dataset", PACK)
def test_every_draw_gives_the_same_bytes(dataset: str, folders: dict[str, Path], tmp_path: Path) -> None:
    standins.DRAW[dataset](tmp_path)
    names = [path.name for path in tmp_path.iterdir()]
    assert names
    for name in names:
        assert (tmp_path / name).read_bytes() == (folders[dataset] / name).read_bytes(), name
    prepared.write(tmp_path / "again.npz", PACK[dataset](tmp_path, "embedded"))
    assert (tmp_path / "again.npz").read_bytes() == (folders[dataset] / f"{dataset}.npz").read_bytes()


def test_the_archives_have_the_official_names(folders: dict[str, Path]) -> None:
    for dataset, sources in SOURCES.items():
        assert {source.name for source in sources} < {path.name for path in folders[dataset].iterdir()}


def images_of(data: omniglot.Omniglot) -> Callable[[NDArray[np.uint8]], NDArray[np.int64]]:
    """A function from drawings (runs, n, 28, 28) to their characters (runs, n)."""
    of = {drawing.tobytes(): kind for kind, drawings in enumerate(data.images) for drawing in drawings}
    return lambda found: np.array([[of[drawing.tobytes()] for drawing in run] for run in found])


def test_glyphs(folders: dict[str, Path]) -> None:
    data = omniglot.load(folders["omniglot"] / "omniglot.npz")
    assert data.origin == "embedded"
    alphabets = data.alphabets
    background = list(dict.fromkeys(alphabets[data.background]))
    held_out = np.isin(alphabets, background[-5:])
    assert len(background) == standins.BACKGROUND_ALPHABETS
    assert held_out.sum() >= 20
    assert (data.background & ~held_out).sum() >= 32
    assert (~data.background).sum() >= 20
    assert all(len(pairs) >= 20 for pairs in data.vinyals.values())
    listed = np.concatenate(list(data.vinyals.values()))
    kinds = images_of(data)
    of_class, of_query = kinds(data.runs.support), kinds(data.runs.query)
    assert (of_query == np.take_along_axis(of_class, data.runs.answer, 1)).all()
    assert all(len(set(each)) == 20 for each in of_class.tolist())
    assert len({(c, t) for c, t in listed.tolist()}) == len(listed) == 4 * len(data.names)


def test_a_drawing_is_nearest_to_its_own_class_more_often_than_chance(folders: dict[str, Path]) -> None:
    data = omniglot.load(folders["omniglot"] / "omniglot.npz")
    images = data.images[~data.background].reshape(-1, 20, 28 * 28) / 255.0
    means = images[:, :10].mean(1)
    distance = ((images[:, 10:, None] - means[None, None]) ** 2).sum(-1)
    right = distance.argmin(-1) == np.arange(len(images))[:, None]
    assert 0.5 < right.mean() < 0.999  # learnable, and not solved by comparing pixels


def test_small_images_say_which_way_is_up(folders: dict[str, Path]) -> None:
    data = cifar10.load(folders["cifar10"] / "cifar10.npz")
    assert data.origin == "embedded"
    assert np.bincount(data.train_labels).tolist() == [400] * 10
    assert np.bincount(data.test_labels).tolist() == [100] * 10
    rows = data.train_images[:, 2].mean(-1)  # blue, row by row
    assert (rows[:, :4].mean(1) > rows[:, -4:].mean(1)).mean() > 0.95


def test_photographs(folders: dict[str, Path]) -> None:
    data = hymenoptera.load(folders["hymenoptera"] / "hymenoptera.npz")
    assert data.origin == "embedded"
    assert np.bincount(data.labels[data.is_train]).tolist() == [20, 20]
    assert np.bincount(data.labels[~data.is_train]).tolist() == [10, 10]
    assert not any("imageNotFound" in name for name in data.names)
