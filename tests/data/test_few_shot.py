"""The one form of few-shot data: Omniglot's two splits in it, and its file."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fewlabel.data import few_shot
from fewlabel.data.omniglot import Omniglot, Runs
from fewlabel.errors import DamagedFile, UserError
from fewlabel.fewshot import splits


def some_data(background_alphabets: int = 6, test_alphabets: int = 4, characters: int = 5) -> Omniglot:
    count = (background_alphabets + test_alphabets) * characters
    names = np.array([f"A{i // characters:02d}/character{i % characters + 1:02d}" for i in range(count)])
    images = np.random.default_rng(0).integers(0, 256, (count, 20, 28, 28), dtype=np.uint8)
    background = np.arange(count) < background_alphabets * characters
    lists = [np.array([[i, turns] for turns in range(4)]) for i in range(3)]
    runs = Runs(np.zeros((20, 20, 28, 28), np.uint8), np.zeros((20, 20, 28, 28), np.uint8), np.zeros((20, 20), int))
    return Omniglot(
        images, names, background, "embedded", dict(zip(("train", "val", "test"), lists, strict=True)), runs
    )


@given(alphabets=st.integers(2, 8), held_out=st.integers(1, 10), characters=st.integers(1, 4), seed=st.integers(0, 99))
@settings(max_examples=25, deadline=None)
def test_lake_never_shares_a_class_or_validation_alphabet(
    alphabets: int, held_out: int, characters: int, seed: int
) -> None:
    data = some_data(alphabets, 3, characters)
    if held_out >= alphabets:
        with pytest.raises(UserError, match="validation_alphabets"):
            splits.divide(data, "lake", held_out, seed)
        return
    split = splits.divide(data, "lake", held_out, seed)
    parts = [set(part[:, 0].tolist()) for part in (split.train, split.validation, split.test)]
    assert sum(map(len, parts)) == len(set.union(*parts)) == len(data.names)
    assert parts[2] == set(np.flatnonzero(~data.background))
    alphabet = data.alphabets
    assert not set(alphabet[split.train[:, 0]]) & set(alphabet[split.validation[:, 0]])
    assert len(set(alphabet[split.validation[:, 0]])) == held_out
    assert len(split.train) == 4 * len(parts[0])
    assert not split.validation[:, 1].any()
    assert not split.test[:, 1].any()


def test_vinyals_is_the_published_lists() -> None:
    data = some_data()
    split = splits.divide(data, "vinyals", 1, 0)
    assert split.test is data.vinyals["test"]
    assert split.train is data.vinyals["train"]


def test_the_file_comes_back_and_a_damaged_one_is_refused(tmp_path: Path) -> None:
    data = splits.divide(some_data(), "lake", 1, 0)
    path = tmp_path / "lake" / "data.npz"
    few_shot.save(path, data)
    again = few_shot.load(path)
    assert again.drawings == 20
    assert again.origin == "embedded"
    for name in ("images", "names", "train", "validation", "test"):
        assert np.array_equal(getattr(again, name), getattr(data, name)), name
    few_shot.save(path, few_shot.FewShotData(**vars(data) | {"names": data.names[1:]}))
    with pytest.raises(DamagedFile, match="do not fit together"):
        few_shot.load(path)
