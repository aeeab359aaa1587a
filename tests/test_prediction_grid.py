from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fewlabel import prediction_grid


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
