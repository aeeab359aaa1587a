import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fewlabel import episodes
from fewlabel.data.omniglot import Omniglot
from fewlabel.episodes import Shape
from fewlabel.errors import UserError


def some_data(background_alphabets: int = 6, test_alphabets: int = 4, characters: int = 5) -> Omniglot:
    count = (background_alphabets + test_alphabets) * characters
    names = np.array([f"A{i // characters:02d}/character{i % characters + 1:02d}" for i in range(count)])
    images = np.random.default_rng(0).integers(0, 256, (count, 20, 28, 28), dtype=np.uint8)
    background = np.arange(count) < background_alphabets * characters
    lists = [np.array([[i, turns] for turns in range(4)]) for i in range(3)]
    return Omniglot(images, names, background, "embedded", dict(zip(("train", "val", "test"), lists, strict=True)))


@given(alphabets=st.integers(2, 8), held_out=st.integers(1, 10), characters=st.integers(1, 4), seed=st.integers(0, 99))
@settings(max_examples=25, deadline=None)
def test_lake_never_shares_a_class_or_validation_alphabet(
    alphabets: int, held_out: int, characters: int, seed: int
) -> None:
    data = some_data(alphabets, 3, characters)
    if held_out >= alphabets:
        with pytest.raises(UserError, match="validation_alphabets"):
            episodes.make_split(data, "lake", held_out, seed)
        return
    split = episodes.make_split(data, "lake", held_out, seed)
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
    split = episodes.make_split(data, "vinyals", 1, 0)
    assert split.test is data.vinyals["test"]
    assert split.train is data.vinyals["train"]


@given(
    way=st.integers(1, 30), shot=st.integers(1, 19), queries=st.integers(0, 19), extra=st.integers(0, 20),
    seed=st.integers(0, 1000),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_no_class_twice_and_no_drawing_both_in_support_and_query(
    way: int, shot: int, queries: int, extra: int, seed: int
) -> None:
    shape = Shape(3, way, shot, queries)
    if shot + queries > 20:
        with pytest.raises(UserError, match=rf"maml\.queries: {shot} shots \+ {queries} queries need {shot + queries}"):
            episodes.check(shape, way + extra, "x", "maml.queries")
        return
    episodes.check(shape, way + extra, "x", "y")
    for drawn in (
        episodes.fixed(shape, way + extra, seed, "5w1s"),
        episodes.sample(shape, way + extra, episodes.generator(seed, 1)),
    ):
        assert drawn.classes.shape == (3, way)
        assert drawn.support.shape == (3, way, shot)
        assert drawn.query.shape == (3, way, queries)
        assert 0 <= drawn.classes.min() <= drawn.classes.max() < way + extra
        assert all(len(set(row)) == way for row in drawn.classes.tolist())
        both = torch.cat([drawn.support, drawn.query], dim=-1).flatten(0, 1)
        assert all(len(set(row)) == shot + queries and set(row) <= set(range(20)) for row in both.tolist())


def test_a_way_beyond_the_classes_is_refused_by_name() -> None:
    with pytest.raises(UserError, match=r"prototypes\.way: 60-way episodes and only 25 classes"):
        episodes.check(Shape(1, 60, 1, 5), 25, "prototypes.way", "prototypes.shot")


def test_fixed_episodes_depend_on_seed_and_protocol_only() -> None:
    shape = Shape(4, 5, 1, 15)
    first, again = episodes.fixed(shape, 50, 0, "5w1s"), episodes.fixed(shape, 50, 0, "5w1s")
    assert all(torch.equal(getattr(first, key), getattr(again, key)) for key in ("classes", "support", "query"))
    assert not torch.equal(first.classes, episodes.fixed(shape, 50, 1, "5w1s").classes)
    assert not torch.equal(first.classes, episodes.fixed(shape, 50, 0, "5w5s").classes)
    longer = episodes.fixed(Shape(9, 5, 1, 15), 50, 0, "5w1s")
    assert torch.equal(longer.classes[:4], first.classes)


def test_a_table_turns_counter_clockwise_and_gather_takes_the_drawings_named() -> None:
    data = some_data()
    table = episodes.table(data.images, np.array([[7, 0], [7, 1], [3, 2]]), torch.device("cpu"))
    assert table.shape == (3, 20, 1, 28, 28)
    assert np.array_equal(table[1, 4, 0].numpy(), np.rot90(data.images[7, 4]))
    assert np.array_equal(table[2, 19, 0].numpy(), data.images[3, 19, ::-1, ::-1])
    indices = episodes.Indices(torch.tensor([[2, 0]]), torch.tensor([[[5], [6]]]), torch.tensor([[[1, 2], [3, 4]]]))
    support, query = episodes.gather(table, indices)
    assert torch.equal(support[0, 0, 0], table[2, 5])
    assert torch.equal(query[0, 1, 1], table[0, 4])
    assert episodes.as_float(torch.tensor([0, 255], dtype=torch.uint8)).tolist() == [0.0, 1.0]
