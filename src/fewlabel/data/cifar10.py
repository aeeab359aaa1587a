"""CIFAR-10 (Krizhevsky, 2009): 60,000 colour images of 32×32 pixels, ten classes, in the official binary layout.

A record is one label byte and 3,072 pixel bytes: the red plane, then green, then blue, each row by row.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fewlabel.data import prepared
from fewlabel.data.archives import members
from fewlabel.errors import DamagedFile, UserError

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
SIZE = 32  # pixels
RECORD = 1 + 3 * SIZE * SIZE  # bytes
FOLDER = "cifar-10-batches-bin"
TRAIN_FILES = tuple(f"{FOLDER}/data_batch_{number}.bin" for number in range(1, 6))
TEST_FILE = f"{FOLDER}/test_batch.bin"


@dataclass(frozen=True)
class Cifar10:
    """The prepared data.

    Attributes:
        train_images, test_images: uint8 (images, 3, 32, 32), red, green, blue.
        train_labels, test_labels: uint8 (images,), 0 to 9, an index into `CLASSES`.
        origin: ``archive``, or ``embedded`` for the stand-ins.
    """

    train_images: NDArray[np.uint8]
    train_labels: NDArray[np.uint8]
    test_images: NDArray[np.uint8]
    test_labels: NDArray[np.uint8]
    origin: str


def pack(raw: Path, origin: str) -> dict[str, NDArray[np.generic]]:
    """Read the archive in ``raw`` into the arrays of the prepared file. Raises `UserError`."""
    name = "cifar-10-binary.tar"
    path = next(raw.glob(f"{name}.*"), raw / f"{name}.gz")  # a mirror may have it as .xz
    records: dict[str, NDArray[np.uint8]] = {}
    for name, data in members(path, rf"{FOLDER}/[^/]+\.bin"):
        if not data or len(data) % RECORD:
            raise UserError(f"{path}: {name} is not made of records of {RECORD} bytes; get the archive again")
        records[name] = np.frombuffer(data, np.uint8).reshape(-1, RECORD)
        if records[name][:, 0].max() >= len(CLASSES):
            raise UserError(f"{path}: {name} holds a label above 9; get the archive again")
    missing = [name for name in (*TRAIN_FILES, TEST_FILE) if name not in records]
    if missing:
        raise UserError(f"{path}: holds no {missing[0]}; get the archive again")
    if origin == "archive" and any(len(block) != 10_000 for block in records.values()):
        raise UserError(f"{path}: not 10,000 images in each of its files; get the archive again")
    arrays: dict[str, NDArray[np.generic]] = {"origin": np.array(origin)}
    for part, names in (("train", TRAIN_FILES), ("test", (TEST_FILE,))):
        block = np.concatenate([records[name] for name in names])
        arrays[f"{part}_images"] = block[:, 1:].reshape(-1, 3, SIZE, SIZE)
        arrays[f"{part}_labels"] = block[:, 0].copy()
    return arrays


def load(path: str | Path) -> Cifar10:
    """Read the prepared file. Raises `DamagedFile`."""
    path = Path(path)
    images, labels = ("u1", (None, 3, SIZE, SIZE)), ("u1", (None,))
    arrays = prepared.read(
        path,
        {
            "train_images": images,
            "train_labels": labels,
            "test_images": images,
            "test_labels": labels,
            "origin": ("U", ()),
        },
    )
    for part in ("train", "test"):
        found = arrays[f"{part}_labels"]
        if len(found) != len(arrays[f"{part}_images"]) or not len(found) or found.max() >= len(CLASSES):
            raise DamagedFile(path, f"{part} labels do not fit the images")
    return Cifar10(**arrays | {"origin": str(arrays["origin"])})
