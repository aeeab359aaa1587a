"""Omniglot's class splits, the fixed test episodes, and episodes sampled on the device.

An episode is a small classification problem: `way` classes, `shot` labelled support drawings of each, and query
drawings to classify. A class is a pair (character, quarter turns counter-clockwise): a turned character is another
class. Everything is index arithmetic on uint8 drawings that live on the device whole.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fewlabel.data.omniglot import DRAWINGS, Omniglot
from fewlabel.errors import UserError


@dataclass(frozen=True)
class Split:
    """Three disjoint sets of classes, each (n, 2): character, quarter turns counter-clockwise."""

    train: NDArray[np.int64]
    validation: NDArray[np.int64]
    test: NDArray[np.int64]


@dataclass(frozen=True)
class Shape:
    """What a batch of episodes looks like."""

    tasks: int
    way: int
    shot: int
    queries: int  # per class


@dataclass(frozen=True)
class Indices:
    """Episodes as indices: classes (E, way) into a table; support (E, way, shot) and query (E, way, queries) say
    which drawings. The label of a drawing is its position along the way axis."""

    classes: Tensor
    support: Tensor
    query: Tensor

    def part(self, which: slice) -> Indices:
        """Some of the episodes."""
        return Indices(self.classes[which], self.support[which], self.query[which])

    def chunks(self, size: int) -> list[Indices]:
        parts = (self.classes.split(size), self.support.split(size), self.query.split(size))
        return [Indices(*part) for part in zip(*parts, strict=True)]


def make_split(data: Omniglot, name: str, validation_alphabets: int, seed: int) -> Split:
    """The `lake` or `vinyals` split.

    lake: background alphabets for training, every rotation a class, except `validation_alphabets` of them held out
    whole; the evaluation alphabets are the test. Validation and test are not rotated. vinyals: the published lists.
    """
    if name == "vinyals":
        return Split(data.vinyals["train"], data.vinyals["val"], data.vinyals["test"])
    alphabets = data.alphabets
    background = np.unique(alphabets[data.background])
    if validation_alphabets >= len(background):
        raise UserError(
            f"episodes.validation_alphabets = {validation_alphabets}: there are {len(background)} background "
            "alphabets and at least one must be left for training"
        )
    held_out = np.random.default_rng(seed).permutation(background)[:validation_alphabets]
    validation = data.background & np.isin(alphabets, held_out)
    train = np.flatnonzero(data.background & ~validation)
    rotated = np.stack([np.repeat(train, 4), np.tile(np.arange(4), len(train))], axis=1)
    upright = [np.flatnonzero(chosen) for chosen in (validation, ~data.background)]
    return Split(rotated, *(np.stack([each, np.zeros_like(each)], axis=1) for each in upright))


def check(shape: Shape, classes: int, way_parameter: str, shot_parameter: str) -> None:
    """Refuse an episode shape that the data cannot fill. Raises `UserError` naming the parameter to lower."""
    if shape.way > classes:
        raise UserError(f"{way_parameter}: {shape.way}-way episodes and only {classes} classes: lower the way")
    needed = shape.shot + shape.queries
    if needed > DRAWINGS:
        raise UserError(
            f"{shot_parameter}: {shape.shot} shots + {shape.queries} queries need {needed} drawings of a class, and "
            f"there are {DRAWINGS}: lower one of them"
        )


def fixed(shape: Shape, classes: int, seed: int, name: str) -> Indices:
    """Episodes that never change: the same for every method. `name` tells one protocol's draws from another's."""
    rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
    chosen = np.stack([rng.permutation(classes)[: shape.way] for _ in range(shape.tasks)])
    order = rng.random((shape.tasks, shape.way, DRAWINGS)).argsort(axis=-1, kind="stable")
    return _indices(torch.from_numpy(chosen), torch.from_numpy(order), shape)


def sample(shape: Shape, classes: int, generator: torch.Generator) -> Indices:
    """Random episodes: classes and drawings without replacement, so support and query never overlap."""
    chosen = torch.rand(shape.tasks, classes, generator=generator).topk(shape.way, dim=1).indices
    order = torch.rand(shape.tasks, shape.way, DRAWINGS, generator=generator).argsort(dim=-1)
    return _indices(chosen, order, shape)


def _indices(classes: Tensor, order: Tensor, shape: Shape) -> Indices:
    return Indices(classes, order[..., : shape.shot], order[..., shape.shot : shape.shot + shape.queries])


def generator(seed: int, step: int) -> torch.Generator:
    """Randomness of one step, from nothing but the seed and the step: a resumed training repeats it exactly."""
    state = np.random.SeedSequence([seed, step]).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state >> np.uint64(1)))


def table(images: NDArray[np.uint8], classes: NDArray[np.int64], device: torch.device) -> Tensor:
    """The drawings of `classes`, turned: uint8 (n, 20, 1, 28, 28) on the device."""
    turned = np.stack([np.rot90(images[character], turns, axes=(1, 2)) for character, turns in classes])
    return torch.from_numpy(turned).unsqueeze(2).to(device)


def as_float(images: Tensor) -> Tensor:
    """uint8 0 to 255 → float32 0 to 1."""
    return images.float().div_(255)


def gather(table: Tensor, indices: Indices) -> tuple[Tensor, Tensor]:
    """Support (E, way, shot, ...) and query (E, way, queries, ...) out of a table (classes, drawings, ...)."""
    classes = indices.classes.to(table.device)[..., None]
    return table[classes, indices.support.to(table.device)], table[classes, indices.query.to(table.device)]
