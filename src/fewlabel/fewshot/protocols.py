"""Test episodes of papers and tutorials, beside those of random classes.

- within: all classes of an episode come from one alphabet, as in Lake et al., "Human-level concept learning through
  probabilistic program induction", Science 2015;
- runs: that paper's 20 published one-shot runs, the same for everyone: 400 trials;
- tutorial: the first classes by name, the first drawings as supports and all others as queries, as tutorials on Siamese
  networks test them.
"""

from __future__ import annotations

import zlib

import numpy as np
import torch
from numpy.typing import NDArray

from fewlabel.data.omniglot import Runs
from fewlabel.errors import DamagedFile
from fewlabel.fewshot.episodes import Indices, Shape


def within(shape: Shape, groups: NDArray[np.int64], drawings: int, seed: int, name: str) -> Indices:
    """Episodes whose classes are of one group each; the groups take turns.

    Args:
        groups: (classes,), the group of each class. Groups with fewer classes than the way are left out; where all
            have fewer, the way is that of the largest.
    """
    rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
    members = [np.flatnonzero(groups == group) for group in np.unique(groups)]
    way = min(shape.way, max(map(len, members)))
    members = [each for each in members if len(each) >= way]
    chosen = np.stack([rng.permutation(members[task % len(members)])[:way] for task in range(shape.tasks)])
    order = rng.random((shape.tasks, way, drawings)).argsort(axis=2, kind="stable")
    support, query = np.split(order[..., : shape.shot + shape.queries].astype(np.int16), [shape.shot], axis=2)
    return _indices(chosen, support, query)


def tutorial(way: int, shot: int, drawings: int) -> Indices:
    """One episode: the first `way` classes, their first `shot` drawings as supports, the others as queries."""
    order = np.tile(np.arange(drawings, dtype=np.int16), (1, way, 1))
    return _indices(np.arange(way)[None], order[..., :shot], order[..., shot:])


def lake_runs(runs: Runs, images: NDArray[np.uint8]) -> Indices:
    """The published runs, as indices of the evaluation drawings that they show.

    Args:
        images: uint8 (classes, drawings, size, size), the evaluation characters, upright.

    Raises:
        DamagedFile: a drawing of the runs is not among `images`.
    """
    drawings = images.shape[1]
    place = {image.tobytes(): number for number, image in enumerate(images.reshape(-1, *images.shape[2:]))}
    query = np.take_along_axis(runs.query, runs.answer.argsort(axis=1)[..., None, None], axis=1)  # by class
    first, second = (
        np.array([[place.get(image.tobytes(), -1) for image in run] for run in part]) for part in (runs.support, query)
    )
    if min(first.min(), second.min()) < 0 or (first // drawings != second // drawings).any():
        path, reason = "data/prepared/omniglot.npz", "its one-shot runs are not of its evaluation characters"
        raise DamagedFile(path, reason, "run `dvc repro prepare@omniglot`")
    kept = [(each % drawings)[..., None].astype(np.int16) for each in (first, second)]
    return _indices(first // drawings, *kept)


def _indices(classes: NDArray[np.integer], support: NDArray[np.int16], query: NDArray[np.int16]) -> Indices:
    arrays = (classes.astype(np.int32), support, query)
    return Indices(*(torch.from_numpy(np.ascontiguousarray(array)) for array in arrays))
