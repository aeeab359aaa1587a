import pytest
import torch

from fewlabel.labels.rotation import four_copies


def corner_marked() -> torch.Tensor:
    image = torch.zeros(1, 3, 4, 4, dtype=torch.uint8)
    image[0, :, 0, 0] = 255  # top left
    return image


def test_labels_count_quarter_turns_counter_clockwise() -> None:
    turned, labels = four_copies(corner_marked())
    assert labels.tolist() == [0, 1, 2, 3]
    where = [tuple(copy[0].nonzero()[0].tolist()) for copy in turned]
    assert where == [(0, 0), (3, 0), (3, 3), (0, 3)]  # top left, bottom left, bottom right, top right
    for copy, label in zip(turned, labels.tolist(), strict=True):
        assert torch.equal(copy, torch.rot90(corner_marked()[0], label, (-2, -1)))


def test_the_four_copies_of_an_image_stay_in_one_batch() -> None:
    images = torch.randint(256, (5, 3, 8, 8), dtype=torch.uint8)
    turned, labels = four_copies(images)
    assert turned.shape == (20, 3, 8, 8)
    assert turned.dtype == torch.uint8
    for number, image in enumerate(images):
        copies, turns = turned[number::5], labels[number::5]
        assert turns.tolist() == [0, 1, 2, 3]
        for copy, turn in zip(copies, turns.tolist(), strict=True):
            assert torch.equal(torch.rot90(copy, -turn, (-2, -1)), image)


def test_an_image_that_is_not_square_is_refused() -> None:
    with pytest.raises(ValueError, match="square"):
        four_copies(torch.zeros(1, 3, 4, 5))
