"""Settings are chosen on held-out training images: no way to choose them meets a test image."""

import numpy as np

from fewlabel.data.cifar10 import Cifar10
from stages import finetune, transfer


def test_finetune_validates_on_training_images_that_it_does_not_train_on() -> None:
    train = np.zeros((5100, 3, 32, 32), np.uint8)
    train[:, 0, 0, 0] = np.arange(5100) % 256  # the number of each image, in its first two pixels
    train[:, 0, 0, 1] = np.arange(5100) // 256
    labels = (np.arange(5100) % 10).astype(np.uint8)
    data = Cifar10(train, labels, np.full((20, 3, 32, 32), 255, np.uint8), np.full(20, 3, np.uint8), "archive")

    images, image_labels, test, test_labels = finetune.split(data, validate=True)
    numbers = [(block[:, 0, 0, 0].int() + 256 * block[:, 0, 0, 1].int()).tolist() for block in (images, test)]
    assert numbers == [list(range(100)), list(range(100, 5100))]
    assert image_labels.tolist() == labels[:100].tolist()
    assert test_labels.tolist() == labels[100:].tolist()

    images, _, test, test_labels = finetune.split(data, validate=False)
    assert len(images) == 5100
    assert (test == 255).all()
    assert test_labels.tolist() == [3] * 20


def test_the_folds_of_transfer_share_out_the_training_photographs_alone() -> None:
    is_train = np.arange(397) % 5 < 3
    measured = []
    for fold in range(transfer.FOLDS):
        train, held_out = (set(rows.tolist()) for rows in transfer.split(is_train, fold))
        assert not train & held_out
        assert train | held_out == set(np.flatnonzero(is_train).tolist())
        measured += sorted(held_out)
    assert sorted(measured) == np.flatnonzero(is_train).tolist()
    train, validation = transfer.split(is_train, None)
    assert train.tolist() == np.flatnonzero(is_train).tolist()
    assert validation.tolist() == np.flatnonzero(~is_train).tolist()
