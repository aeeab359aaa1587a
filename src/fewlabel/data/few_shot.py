"""A few-shot data set: images of named classes, and which classes are for training, validation and test.

Omniglot's splits and a user's own images have this one form, so that training and evaluation know neither.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fewlabel.data import prepared
from fewlabel.errors import DamagedFile


@dataclass(frozen=True)
class FewShotData:
    """A class is a pair (kind, quarter turns counter-clockwise): a turned drawing is of another class.

    Attributes:
        images: uint8 (kinds, drawings of each, channels, size, size).
        names: (kinds,) ``class`` or ``group/class``.
        train, validation, test: int (classes, 2), kind and turns; no kind is in two of them.
        origin: ``archive`` or ``own``, or ``embedded`` for stand-ins.
    """

    images: NDArray[np.uint8]
    names: NDArray[np.str_]
    train: NDArray[np.int64]
    validation: NDArray[np.int64]
    test: NDArray[np.int64]
    origin: str

    @property
    def drawings(self) -> int:
        """Of each class."""
        return self.images.shape[1]


def groups(data: FewShotData, classes: NDArray[np.int64]) -> NDArray[np.int64]:
    """The group of each of `classes` (n, 2), numbered from 0: its alphabet, or group of own images, in one turn."""
    named = [f"{data.names[kind].rpartition('/')[0]} {turns}" for kind, turns in classes]
    return np.unique(named, return_inverse=True)[1]


def turned(kinds: NDArray[np.integer], turns: int) -> NDArray[np.int64]:
    """Classes of `kinds` in each of the first `turns` quarter turns; 1: upright alone."""
    return np.stack([np.repeat(kinds, turns), np.tile(np.arange(turns), len(kinds))], axis=1).astype(np.int64)


def save(path: Path, data: FewShotData) -> None:
    prepared.write(path, vars(data) | {"origin": np.array(data.origin)})


def load(path: str | Path) -> FewShotData:
    """Read what `save` wrote. Raises `DamagedFile`."""
    path = Path(path)
    parts = ("train", "validation", "test")
    arrays = prepared.read(
        path,
        {
            "images": ("u1", (None, None, None, None, None)),
            "names": ("U", (None,)),
            "origin": ("U", ()),
            **dict.fromkeys(parts, ("i8", (None, 2))),
        },
    )
    kinds = len(arrays["images"])
    within = all(((arrays[part] >= 0) & (arrays[part] < (kinds, 4))).all() for part in parts)
    if len(arrays["names"]) != kinds or not within:
        raise DamagedFile(path, "its arrays do not fit together")
    return FewShotData(**arrays | {"origin": str(arrays["origin"])})
