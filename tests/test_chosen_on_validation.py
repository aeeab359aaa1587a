"""Settings are chosen on held-out training images: no way to choose them meets a test image."""

import numpy as np
from torch import Tensor

from fewlabel.data.cifar10 import Cifar10
from fewlabel.labels import subsets
from fewlabel.transfer import photographs


def numbered_images() -> Cifar10:
    """5,100 training images, each with its number in its first two pixels, and white test images."""
    train = np.zeros((5100, 3, 32, 32), np.uint8)
    train[:, 0, 0, 0] = np.arange(5100) % 256
    train[:, 0, 0, 1] = np.arange(5100) // 256
    labels = (np.arange(5100) % 10).astype(np.uint8)
    return Cifar10(train, labels, np.full((20, 3, 32, 32), 255, np.uint8), np.full(20, 3, np.uint8), "archive")


def numbers(images: Tensor) -> list[int]:
    return (images[:, 0, 0, 0].int() + 256 * images[:, 0, 0, 1].int()).tolist()


def test_finetune_validates_on_training_images_that_it_does_not_train_on() -> None:
    division = subsets.divide(numbered_images(), per_class=10, seed=0, held_out=5000)
    assert sorted(numbers(division.images)) == list(range(100))
    assert numbers(division.test_images) == list(range(100, 5100))
    assert division.test_labels.tolist() == [number % 10 for number in range(100, 5100)]
    assert len(division.validation_images) == 0  # the training got all that are left


def test_models_are_compared_on_training_images_whose_labels_they_did_not_get() -> None:
    division = subsets.divide(numbered_images(), per_class=20, seed=0)
    assert (division.test_images == 255).all()
    validation = numbers(division.validation_images)
    assert len(set(validation)) == subsets.VALIDATION_IMAGES
    assert not set(validation) & set(numbers(division.images))
    assert division.validation_labels.tolist() == [number % 10 for number in validation]


def test_the_folds_of_transfer_share_out_the_training_photographs_alone() -> None:
    is_train = np.arange(397) % 5 < 3
    measured = []
    for fold in range(photographs.FOLDS):
        train, held_out = (set(rows.tolist()) for rows in photographs.split(is_train, fold))
        assert not train & held_out
        assert train | held_out == set(np.flatnonzero(is_train).tolist())
        measured += sorted(held_out)
    assert sorted(measured) == np.flatnonzero(is_train).tolist()
    train, validation = photographs.split(is_train, None)
    assert train.tolist() == np.flatnonzero(is_train).tolist()
    assert validation.tolist() == np.flatnonzero(~is_train).tolist()
