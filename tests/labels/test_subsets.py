import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fewlabel.errors import UserError
from fewlabel.labels.subsets import nested_subset

LABELS = torch.randint(10, (3000,), generator=torch.Generator().manual_seed(0))


@settings(max_examples=30, deadline=None)
@given(few=st.integers(1, 100), more=st.integers(1, 100), seed=st.integers(0, 2**31 - 1))
def test_subsets_are_nested_and_balanced(few: int, more: int, seed: int) -> None:
    few, more = sorted((few, more))
    small, large = (nested_subset(LABELS, count, seed) for count in (few, more))
    assert set(small.tolist()) <= set(large.tolist())
    for count, subset in ((few, small), (more, large)):
        assert LABELS[subset].bincount(minlength=10).tolist() == [count] * 10
        assert len(set(subset.tolist())) == len(subset)


def test_the_seed_decides() -> None:
    assert torch.equal(nested_subset(LABELS, 20, 1), nested_subset(LABELS, 20, 1))
    assert not torch.equal(nested_subset(LABELS, 20, 1), nested_subset(LABELS, 20, 2))


def test_more_labels_than_there_are() -> None:
    with pytest.raises(UserError, match=r"5000 labels per class: class 0 has only .* cells\.label_cells"):
        nested_subset(LABELS, 5000, 0)
