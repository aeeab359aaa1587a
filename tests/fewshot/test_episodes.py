import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fewlabel.errors import UserError
from fewlabel.fewshot import episodes
from fewlabel.fewshot.episodes import Shape


@given(
    way=st.integers(1, 30), shot=st.integers(1, 19), queries=st.integers(0, 19), extra=st.integers(0, 20),
    drawings=st.integers(2, 40), seed=st.integers(0, 1000),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_no_class_twice_and_no_drawing_both_in_support_and_query(
    way: int, shot: int, queries: int, extra: int, drawings: int, seed: int
) -> None:
    shape = Shape(3, way, shot, queries)
    if shot + queries > drawings:
        with pytest.raises(UserError, match=rf"maml\.queries: {shot} shots \+ {queries} queries need {shot + queries}"):
            episodes.check(shape, way + extra, drawings, "x", "maml.queries")
        return
    episodes.check(shape, way + extra, drawings, "x", "y")
    for drawn in (
        episodes.fixed(shape, way + extra, drawings, seed, "5w1s"),
        episodes.sample(shape, way + extra, drawings, episodes.generator(seed, 1)),
    ):
        assert drawn.classes.shape == (3, way)
        assert drawn.support.shape == (3, way, shot)
        assert drawn.query.shape == (3, way, queries)
        assert 0 <= drawn.classes.min() <= drawn.classes.max() < way + extra
        assert all(len(set(row)) == way for row in drawn.classes.tolist())
        both = torch.cat([drawn.support, drawn.query], dim=-1).flatten(0, 1)
        assert all(len(set(row)) == shot + queries and set(row) <= set(range(drawings)) for row in both.tolist())


def test_a_way_beyond_the_classes_is_refused_by_name() -> None:
    with pytest.raises(UserError, match=r"prototypes\.way: 60-way episodes and only 25 classes"):
        episodes.check(Shape(1, 60, 1, 5), 25, 20, "prototypes.way", "prototypes.shot")


def test_fixed_episodes_depend_on_seed_and_protocol_only() -> None:
    shape = Shape(4, 5, 1, 15)
    first, again = episodes.fixed(shape, 50, 20, 0, "5w1s"), episodes.fixed(shape, 50, 20, 0, "5w1s")
    assert all(torch.equal(getattr(first, key), getattr(again, key)) for key in ("classes", "support", "query"))
    assert not torch.equal(first.classes, episodes.fixed(shape, 50, 20, 1, "5w1s").classes)
    assert not torch.equal(first.classes, episodes.fixed(shape, 50, 20, 0, "5w5s").classes)


def test_a_table_turns_counter_clockwise_and_gather_takes_the_drawings_named() -> None:
    images = np.random.default_rng(0).integers(0, 256, (9, 20, 3, 28, 28), dtype=np.uint8)
    table = episodes.table(images, np.array([[7, 0], [7, 1], [3, 2]]), torch.device("cpu"))
    assert table.shape == (3, 20, 3, 28, 28)
    assert np.array_equal(table[0].numpy(), images[7])
    assert np.array_equal(table[1, 4, 2].numpy(), np.rot90(images[7, 4, 2]))
    assert np.array_equal(table[2, 19, 1].numpy(), images[3, 19, 1, ::-1, ::-1])
    indices = episodes.Indices(torch.tensor([[2, 0]]), torch.tensor([[[5], [6]]]), torch.tensor([[[1, 2], [3, 4]]]))
    support, query = episodes.gather(table, indices)
    assert torch.equal(support[0, 0, 0], table[2, 5])
    assert torch.equal(query[0, 1, 1], table[0, 4])
    assert episodes.as_float(torch.tensor([0, 255], dtype=torch.uint8)).tolist() == [0.0, 1.0]


def test_saved_episodes_come_back_and_those_of_other_data_are_refused(tmp_path) -> None:
    fixed = episodes.fixed(Shape(4, 5, 1, 3), 9, 6, 0, "5w1s3q")
    path = tmp_path / "5w1s3q.npz"
    episodes.save(path, fixed)
    again = episodes.load(path, 9, 6)
    assert all(torch.equal(one, other) for one, other in zip(vars(fixed).values(), vars(again).values(), strict=True))
    with pytest.raises(UserError, match=r"not of the classes and images in data\.npz"):
        episodes.load(path, 3, 6)
    episodes.save(path, episodes.Indices(fixed.classes, fixed.support[:, :3], fixed.query))
    with pytest.raises(UserError, match="support is not of as many episodes"):
        episodes.load(path, 9, 6)
    episodes.save(path, fixed)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(UserError, match="damaged"):
        episodes.load(path, 9, 6)


def test_the_digest_knows_drawings_and_episodes() -> None:
    table = torch.zeros(9, 6, 1, 28, 28, dtype=torch.uint8)
    fixed = episodes.fixed(Shape(4, 5, 1, 3), 9, 6, 0, "5w1s")
    digest = episodes.digest(table, fixed)
    assert digest == episodes.digest(table.clone(), fixed)
    assert digest != episodes.digest(table, episodes.fixed(Shape(4, 5, 1, 3), 9, 6, 1, "5w1s"))
    table[3, 2, 0, 14, 14] = 1
    assert digest != episodes.digest(table, fixed)


def test_all_way_episodes_are_kept_small() -> None:
    fixed = episodes.fixed(Shape(10, 659, 5, 15), 659, 20, 0, "all-5s")
    size = sum(tensor.element_size() * tensor.numel() for tensor in vars(fixed).values())
    assert size == 10 * 659 * (4 + 2 * 20)  # bytes


def test_the_hard_share_of_a_batch_comes_from_whole_groups() -> None:
    groups = torch.arange(12) // 4  # three groups of four
    found = episodes.sample(Shape(50, 8, 1, 1), 12, 3, episodes.generator(0, 0), groups, hard_share=0.5)
    assert all(len(set(classes.tolist())) == 8 for classes in found.classes)
    whole = [max(groups[classes].bincount()) == 4 for classes in found.classes]
    assert all(whole)
    none = episodes.sample(Shape(50, 8, 1, 1), 12, 3, episodes.generator(0, 0), groups, hard_share=0.0)
    assert torch.equal(none.classes, episodes.sample(Shape(50, 8, 1, 1), 12, 3, episodes.generator(0, 0)).classes)
