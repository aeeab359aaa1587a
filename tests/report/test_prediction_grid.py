from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fewlabel.report import prediction_grid


@pytest.mark.parametrize(("count", "wrong"), [(40, 3), (40, 40), (1, 0)])
def test_it_draws_any_number_of_photographs_the_same_each_time(tmp_path: Path, count: int, wrong: int) -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(256, size=(count, 3, 16, 16), dtype=np.uint8)
    labels = np.zeros(count, dtype=np.uint8)
    first = rng.uniform(0.6, 1, count)
    first[:wrong] = 1 - first[:wrong]
    probabilities = np.stack([first, 1 - first], 1)
    for name in ("a.png", "b.png"):
        prediction_grid.draw(tmp_path / name, "Ants and bees", images, labels, probabilities, ("ants", "bees"))
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert Image.open(tmp_path / "a.png").width > 500


def test_the_surest_mistakes_come_first_and_only_mistakes() -> None:
    probabilities = np.array([[0.9, 0.1], [0.4, 0.6], [0.05, 0.95], [0.2, 0.8], [0.3, 0.7]])
    labels = np.array([0, 0, 0, 1, 0])
    assert prediction_grid.most_wrong(labels, probabilities).tolist() == [2, 4, 1]


@pytest.mark.parametrize("wrong", [0, 3, 30])
def test_it_draws_up_to_ten_mistakes(tmp_path: Path, wrong: int) -> None:
    images = np.random.default_rng(0).integers(256, size=(40, 3, 16, 16), dtype=np.uint8)
    labels = np.zeros(40, dtype=np.uint8)
    first = np.where(np.arange(40) < wrong, 0.25, 0.75)
    names = [f"val/ants/{number}.jpg" for number in range(40)]
    prediction_grid.draw_most_wrong(
        tmp_path / "a.png", "Ants and bees", images, labels, np.stack([first, 1 - first], 1), ("ants", "bees"), names
    )
    assert Image.open(tmp_path / "a.png").width > 500
