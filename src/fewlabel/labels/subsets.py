"""Which training images keep their labels: the same number of each class, and more labels only ever add to fewer."""

from __future__ import annotations

import torch
from torch import Tensor

from fewlabel.errors import UserError
from fewlabel.training.augment import generator


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
