"""Which training images keep their labels: the same number of each class, and more labels only ever add to fewer."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fewlabel.data.cifar10 import Cifar10
from fewlabel.errors import UserError
from fewlabel.training.augment import generator

VALIDATION_IMAGES = 1000


def nested_subset(labels: Tensor, per_class: int, seed: int) -> Tensor:
    """Indices (classes × per_class,) of a balanced subset: the first so many of a seeded shuffle of each class.

    With one seed the subsets are nested: the one of 20 labels per class lies within the one of 100.

    Raises:
        UserError: a class has too few images.
    """
    chosen = []
    for number in labels.unique().tolist():
        members = (labels == number).nonzero().flatten()
        if len(members) < per_class:
            raise UserError(
                f"{per_class} labels per class: class {number} has only {len(members)} training images; "
                "ask for fewer in cells.label_cells"
            )
        chosen.append(members[torch.randperm(len(members), generator=generator(seed, number))[:per_class]])
    return torch.cat(chosen)


@dataclass(frozen=True)
class Division:
    """Images, uint8 (n, 3, 32, 32), and their labels, int64 (n,): to train on; to measure, which choose nothing; and of
    validation, by which models may be compared. The last are training images whose labels the training does not get."""

    images: Tensor
    labels: Tensor
    test_images: Tensor
    test_labels: Tensor
    validation_images: Tensor
    validation_labels: Tensor


def divide(data: Cifar10, per_class: int, seed: int, held_out: int = 0) -> Division:
    """Take ``per_class`` labels of each class by `nested_subset`.

    Args:
        held_out: so many of the last training images take the place of the test images, and are not trained on.
    """
    images, labels = torch.from_numpy(data.train_images), torch.from_numpy(data.train_labels).long()
    test_images, test_labels = torch.from_numpy(data.test_images), torch.from_numpy(data.test_labels).long()
    if held_out:
        test_images, test_labels = images[-held_out:], labels[-held_out:]
        images, labels = images[:-held_out], labels[:-held_out]
    chosen = nested_subset(labels, per_class, seed)
    others = torch.ones(len(labels), dtype=torch.bool).index_fill_(0, chosen, False).nonzero()[:, 0]
    validation = others[-VALIDATION_IMAGES:]
    return Division(images[chosen], labels[chosen], test_images, test_labels, images[validation], labels[validation])
