"""The fixed test episodes, and episodes sampled on the device.

An episode is a small classification problem: `way` classes, `shot` labelled support drawings of each, and query
drawings to classify. Everything is index arithmetic on uint8 drawings that live on the device whole.
"""

from __future__ import annotations

import hashlib
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fewlabel.data import prepared
from fewlabel.errors import DamagedFile, UserError


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


def check(shape: Shape, classes: int, drawings: int, way_parameter: str, shot_parameter: str) -> None:
    """Refuse an episode shape that `drawings` of each of `classes` cannot fill. Raises `UserError` naming the
    parameter to lower."""
    if shape.way > classes:
        raise UserError(f"{way_parameter}: {shape.way}-way episodes and only {classes} classes: lower the way")
    needed = shape.shot + shape.queries
    if needed > drawings:
        raise UserError(
            f"{shot_parameter}: {shape.shot} shots + {shape.queries} queries need {needed} drawings of a class, and "
            f"there are {drawings}: lower one of them"
        )


def fixed(shape: Shape, classes: int, drawings: int, seed: int, name: str) -> Indices:
    """Episodes that never change: the same for every method. `name` tells one task's draws from another's.

    As compact as they can be kept: an all-way episode names thousands of drawings.
    """
    rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
    chosen = np.stack([rng.permutation(classes)[: shape.way] for _ in range(shape.tasks)]).astype(np.int32)
    order = np.stack([rng.random((shape.way, drawings)).argsort(kind="stable").astype(np.int16) for _ in chosen])
    return _indices(torch.from_numpy(chosen), torch.from_numpy(order), shape)


def sample(
    shape: Shape,
    classes: int,
    drawings: int,
    generator: torch.Generator,
    groups: Tensor | None = None,
    hard_share: float = 0.0,
) -> Indices:
    """Random episodes: classes and drawings without replacement, so support and query never overlap.

    Args:
        groups: (classes,) int64, the group of each class, such as its alphabet in one turn.
        hard_share: share of an episode's classes that come from whole groups, one after another in random order, the
            last one in part: classes of one alphabet are the hardest to tell apart.
    """
    random = torch.rand(shape.tasks, classes, generator=generator)
    hard = round(shape.way * hard_share)
    if groups is not None and hard:
        order = torch.rand(shape.tasks, int(groups.max()) + 1, generator=generator).argsort(dim=1)
        first = (order[:, groups] + random).topk(hard, dim=1, largest=False).indices
        random = random.scatter(1, first, 2.0)  # chosen in any case
    chosen = random.topk(shape.way, dim=1).indices
    order = torch.rand(shape.tasks, shape.way, drawings, generator=generator).argsort(dim=-1)
    return _indices(chosen, order, shape)


def save(path: Path, indices: Indices) -> None:
    np.savez(path, **{name: tensor.numpy() for name, tensor in vars(indices).items()})


def load(path: Path, classes: int, drawings: int) -> Indices:
    """Read what `save` wrote. Raises `DamagedFile`, also where the episodes are not of these data."""
    shapes = {"classes": ("i4", (None, None)), **dict.fromkeys(("support", "query"), ("i2", (None, None, None)))}
    arrays = prepared.read(path, shapes)
    for name, array in arrays.items():
        limit = classes if name == "classes" else drawings
        if array.shape[:2] != arrays["classes"].shape or not array.size:
            raise DamagedFile(path, f"{name} is not of as many episodes and classes as the other arrays")
        if not 0 <= array.min() <= array.max() < limit:
            raise DamagedFile(path, f"{name} is not of the classes and images in data.npz beside it")
    return Indices(**{name: torch.from_numpy(array) for name, array in arrays.items()})


def digest(table: Tensor, indices: Indices) -> str:
    """A digest of the episodes, drawings included: equal digests mean equal episodes."""
    found = hashlib.sha256()
    for tensor in (table, *vars(indices).values()):
        found.update(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
        found.update(tensor.cpu().contiguous().numpy())
    return found.hexdigest()[:16]


def _indices(classes: Tensor, order: Tensor, shape: Shape) -> Indices:
    return Indices(classes, order[..., : shape.shot], order[..., shape.shot : shape.shot + shape.queries])


def generator(seed: int, step: int) -> torch.Generator:
    """Randomness of one step, from nothing but the seed and the step: a resumed training repeats it exactly."""
    state = np.random.SeedSequence([seed, step]).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state >> np.uint64(1)))


def table(images: NDArray[np.uint8], classes: NDArray[np.int64], device: torch.device) -> Tensor:
    """The drawings of `classes`, turned.

    Args:
        images: (kinds, drawings, channels, size, size).
        classes: (n, 2), kind and quarter turns counter-clockwise.

    Returns:
        uint8 (n, drawings, channels, size, size) on the device.
    """
    found = torch.empty(len(classes), *images.shape[1:], dtype=torch.uint8)
    for place, (kind, turns) in enumerate(classes):
        found[place] = torch.from_numpy(np.rot90(images[kind], turns, axes=(-2, -1)).copy())
    return found.to(device)


def as_float(images: Tensor) -> Tensor:
    """uint8 0 to 255 → float32 0 to 1."""
    return images.float().div_(255)


def gather(table: Tensor, indices: Indices) -> tuple[Tensor, Tensor]:
    """Support (E, way, shot, ...) and query (E, way, queries, ...) out of a table (classes, drawings, ...)."""
    classes, support, query = (part.to(table.device).long() for part in vars(indices).values())
    rows = classes[..., None] * table.shape[1]
    return _take(table, rows + support), _take(table, rows + query)


def _take(table: Tensor, rows: Tensor) -> Tensor:
    """``table.flatten(0, 1)[rows]``, six times faster on a CPU."""
    return table.flatten(0, 1).index_select(0, rows.flatten()).unflatten(0, rows.shape)
