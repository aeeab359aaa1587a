"""The two splits of Omniglot: its characters divided into training, validation and test."""

from __future__ import annotations

import numpy as np

from fewlabel.data.few_shot import FewShotData, turned
from fewlabel.data.omniglot import LISTS, Omniglot
from fewlabel.errors import UserError


def divide(data: Omniglot, split: str, validation_alphabets: int, seed: int) -> FewShotData:
    """The `lake` or `vinyals` split.

    lake: of the background alphabets, `validation_alphabets` are for validation and the others for training; the
    evaluation alphabets are for test. Each quarter turn of a training character is a class of its own; validation
    and test characters are upright. vinyals: the published class lists.
    """
    if split == "vinyals":
        train, validation, test = (data.vinyals[name] for name in LISTS)
    else:
        alphabets = data.alphabets
        background = np.unique(alphabets[data.background])
        if validation_alphabets >= len(background):
            raise UserError(
                f"episodes.validation_alphabets = {validation_alphabets}: there are {len(background)} background "
                "alphabets and at least one must be left for training"
            )
        held_out = np.random.default_rng(seed).permutation(background)[:validation_alphabets]
        is_held_out = data.background & np.isin(alphabets, held_out)
        train = turned(np.flatnonzero(data.background & ~is_held_out), 4)
        validation, test = (turned(np.flatnonzero(each), 1) for each in (is_held_out, ~data.background))
    return FewShotData(data.images[:, :, None], data.names, train, validation, test, data.origin)
