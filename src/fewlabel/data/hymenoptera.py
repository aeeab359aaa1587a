"""hymenoptera_data (the PyTorch transfer-learning tutorial): photographs of ants and bees, 244 to train, 153 to
validate. Its ``train/ants/imageNotFound.gif`` is a web server's placeholder, no photograph, and is left out."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fewlabel.data import images, prepared
from fewlabel.data.archives import members
from fewlabel.errors import DamagedFile, UserError

CLASSES = ("ants", "bees")
SIZE = 256  # pixels
NO_PHOTOGRAPH = "hymenoptera_data/train/ants/imageNotFound.gif"


@dataclass(frozen=True)
class Hymenoptera:
    """The prepared data.

    Attributes:
        images: uint8 (images, 3, 256, 256), red, green, blue.
        labels: uint8 (images,), an index into `CLASSES`.
        is_train: bool (images,); the others are the validation photographs.
        names: (images,) the path in the archive, below ``hymenoptera_data/``; sorted.
        origin: ``archive``, or ``embedded`` for the stand-ins.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.uint8]
    is_train: NDArray[np.bool_]
    names: NDArray[np.str_]
    origin: str


def pack(raw: Path, origin: str) -> dict[str, NDArray[np.generic]]:
    """Read the archive in ``raw`` into the arrays of the prepared file. Raises `UserError`."""
    path = raw / "hymenoptera_data.zip"
    found = {
        name.removeprefix("hymenoptera_data/"): _photograph(data, f"{path}: {name}")
        for name, data in members(path, r"hymenoptera_data/(train|val)/(ants|bees)/[^/]+")
        if name != NO_PHOTOGRAPH
    }
    names = sorted(found)
    is_train = np.array([name.startswith("train/") for name in names], dtype=bool)
    labels = np.array([CLASSES.index(name.split("/")[1]) for name in names], dtype=np.uint8)
    if origin == "archive" and (is_train.sum(), (~is_train).sum()) != (244, 153):
        raise UserError(f"{path}: {is_train.sum()} + {(~is_train).sum()} photographs, not 244 + 153")
    for part in (is_train, ~is_train):
        if len(np.unique(labels[part])) != len(CLASSES):
            raise UserError(f"{path}: lacks photographs of ants or bees in train or val; get the archive again")
    return {
        "images": np.stack([found[name] for name in names]),
        "labels": labels,
        "is_train": is_train,
        "names": np.array(names),
        "origin": np.array(origin),
    }


def load(path: str | Path) -> Hymenoptera:
    """Read the prepared file. Raises `DamagedFile`."""
    path = Path(path)
    arrays = prepared.read(
        path,
        {
            "images": ("u1", (None, 3, SIZE, SIZE)),
            "labels": ("u1", (None,)),
            "is_train": ("?", (None,)),
            "names": ("U", (None,)),
            "origin": ("U", ()),
        },
    )
    count = len(arrays["images"])
    if any(len(arrays[name]) != count for name in ("labels", "is_train", "names")) or arrays["labels"].max() > 1:
        raise DamagedFile(path, "its arrays do not fit together")
    return Hymenoptera(**arrays | {"origin": str(arrays["origin"])})


def _photograph(data: bytes, what: str) -> NDArray[np.uint8]:
    """Shorter side to 256 pixels, centre crop; grey and CMYK become RGB, what is transparent white. → (3, 256, 256)."""
    try:
        image = images.decode(io.BytesIO(data), ("JPEG", "PNG", "GIF"))
        return images.square(image, SIZE, colour=True, filter=Image.Resampling.BICUBIC)
    except images.Unreadable as reason:
        raise UserError(f"{what}: not a readable image ({reason}); the archive is damaged, get it again") from None
