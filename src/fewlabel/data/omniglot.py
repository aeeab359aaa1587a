"""Omniglot (Lake, Salakhutdinov and Tenenbaum, Science 2015): 1,623 characters of 50 alphabets, 20 drawings each.

The class lists of the "Vinyals split" (Vinyals et al., Matching Networks, 2016) are those published with
Prototypical Networks (Snell et al., 2017): one class a line, ``Alphabet/characterNN/rotDDD``. There ``rot090`` is
Pillow's ``image.rotate(90)``, a quarter turn counter-clockwise, which is ``np.rot90(image)`` and
``torch.rot90(image, 1, (-2, -1))``. All four turns of a character are classes of the same list.
"""

from __future__ import annotations

import io
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fewlabel.data import images as pictures
from fewlabel.data import prepared
from fewlabel.data.archives import members
from fewlabel.errors import DamagedFile, UserError

SIZE = 28  # pixels; 105 in the archives
DRAWINGS = 20
RUNS, RUN_WAY = 20, 20
LISTS = ("train", "val", "test")


@dataclass(frozen=True)
class Runs:
    """Lake's 20 one-shot classification runs: the published test of Science 2015, each of 20 evaluation characters.

    Attributes:
        support: uint8 (20 runs, 20 classes, 28, 28), one drawing of each class.
        query: uint8 (20 runs, 20, 28, 28), one drawing of each class by another person, in the published order.
        answer: int (20 runs, 20), the class of each query drawing.
    """

    support: NDArray[np.uint8]
    query: NDArray[np.uint8]
    answer: NDArray[np.int64]


@dataclass(frozen=True)
class Omniglot:
    """The prepared data.

    Attributes:
        images: uint8 (characters, 20 drawings, 28, 28); ink is 255 on 0.
        names: (characters,) ``Alphabet/characterNN``; background characters first, each part sorted.
        background: bool (characters,), of Lake's background set; the others are of the evaluation set.
        origin: ``archive``, or ``embedded`` for the stand-ins.
        vinyals: list name → int (classes, 2) of character index and quarter turns counter-clockwise.
        runs: Lake's published test episodes.
    """

    images: NDArray[np.uint8]
    names: NDArray[np.str_]
    background: NDArray[np.bool_]
    origin: str
    vinyals: dict[str, NDArray[np.int64]]
    runs: Runs

    @property
    def alphabets(self) -> NDArray[np.str_]:
        """(characters,) the alphabet of each."""
        return np.array([name.split("/")[0] for name in self.names])


def pack(raw: Path, origin: str) -> dict[str, NDArray[np.generic]]:
    """Read the archives in ``raw`` into the arrays of the prepared file. Raises `UserError`."""
    names: list[str] = []
    images: list[NDArray[np.uint8]] = []
    background: list[bool] = []
    for part in ("background", "evaluation"):
        path = raw / f"images_{part}.zip"
        drawings = _drawings(path)
        for name in sorted(drawings):
            if len(drawings[name]) != DRAWINGS:
                raise UserError(f"{path}: {name} has {len(drawings[name])} drawings, not {DRAWINGS}")
            names.append(name)
            images.append(np.stack([drawings[name][file] for file in sorted(drawings[name])]))
            background.append(part == "background")
    if origin == "archive" and (sum(background), len(names)) != (964, 1623):
        raise UserError(f"{raw}: {sum(background)} + {len(names) - sum(background)} characters, not 964 + 659")
    index = {name: number for number, name in enumerate(names)}
    lists = {f"vinyals_{name}": _class_list(raw / f"{name}.txt", index) for name in LISTS}
    return {
        "images": np.stack(images),
        "names": np.array(names),
        "background": np.array(background),
        "origin": np.array(origin),
        **lists,
        **{f"runs_{name}": array for name, array in vars(_runs(raw / "all_runs.zip")).items()},
    }


def load(path: str | Path) -> Omniglot:
    """Read the prepared file. Raises `DamagedFile`."""
    path = Path(path)
    arrays = prepared.read(
        path,
        {
            "images": ("u1", (None, DRAWINGS, SIZE, SIZE)),
            "names": ("U", (None,)),
            "background": ("?", (None,)),
            "origin": ("U", ()),
            **{f"vinyals_{name}": ("i8", (None, 2)) for name in LISTS},
            "runs_support": ("u1", (RUNS, RUN_WAY, SIZE, SIZE)),
            "runs_query": ("u1", (RUNS, RUN_WAY, SIZE, SIZE)),
            "runs_answer": ("i8", (RUNS, RUN_WAY)),
        },
    )
    count = len(arrays["images"])
    vinyals = {name: arrays[f"vinyals_{name}"] for name in LISTS}
    within = all(((pairs >= 0) & (pairs < (count, 4))).all() for pairs in vinyals.values())
    if not (len(arrays["names"]) == len(arrays["background"]) == count and within):
        raise DamagedFile(path, "its arrays do not fit together")
    runs = Runs(arrays["runs_support"], arrays["runs_query"], arrays["runs_answer"])
    return Omniglot(arrays["images"], arrays["names"], arrays["background"], str(arrays["origin"]), vinyals, runs)


def _runs(path: Path) -> Runs:
    """Read ``runNN/training/classNN.png``, ``runNN/test/itemNN.png`` and ``runNN/class_labels.txt``, whose lines name a
    test drawing and the training drawing of its class."""
    files = dict(members(path, r"run\d\d/.+"))

    def drawings(run: int, kind: str) -> list[NDArray[np.uint8]]:
        names = [f"run{run:02}/{kind}{number:02}.png" for number in range(1, RUN_WAY + 1)]
        return [_shrink(files[name], f"{path}: {name}") for name in names]

    numbers = range(1, RUNS + 1)
    try:
        answer = np.empty((RUNS, RUN_WAY), dtype=np.int64)
        for run in numbers:
            for line in files[f"run{run:02}/class_labels.txt"].decode("ascii").splitlines():
                item, match = (int(name[-6:-4]) for name in line.split())  # …/item01.png …/class08.png
                answer[run - 1, item - 1] = match - 1
        support, query = (
            np.array([drawings(run, kind) for run in numbers]) for kind in ("training/class", "test/item")
        )
    except (KeyError, ValueError, IndexError):
        raise UserError(f"{path}: does not hold Lake's {RUNS} runs of {RUN_WAY} classes; get it again") from None
    if (np.sort(answer) != np.arange(RUN_WAY)).any():
        raise UserError(f"{path}: a run does not have one test drawing of each class; get it again")
    return Runs(support, query, answer)


def _drawings(path: Path) -> dict[str, dict[str, NDArray[np.uint8]]]:
    """``Alphabet/characterNN`` → file name → image; the file name ends in the number of the person who drew it."""
    found: dict[str, dict[str, NDArray[np.uint8]]] = {}
    for name, data in members(path, r"[^/]+/[^/]+/[^/]+/[^/]+\.png"):
        _, alphabet, character, file = name.split("/")
        found.setdefault(f"{alphabet}/{character}", {})[file] = _shrink(data, f"{path}: {name}")
    return found


def _shrink(data: bytes, what: str) -> NDArray[np.uint8]:
    """A 105×105 black-on-white PNG → 28×28 with ink 255 on 0. The Lanczos filter is antialiased, as strokes two or
    three pixels wide need at a quarter of the size; it is the one MAML's authors used."""
    try:
        image = pictures.decode(io.BytesIO(data), ("PNG",))
    except pictures.Unreadable as reason:
        raise UserError(f"{what}: not a readable PNG image ({reason}); get the archive again") from None
    if image.size != (105, 105):
        raise UserError(f"{what}: {image.width}×{image.height} pixels, not 105×105")
    small = image.convert("L").resize((SIZE, SIZE), Image.Resampling.LANCZOS)
    return np.asarray(255 - np.asarray(small), dtype=np.uint8)


def _class_list(path: Path, index: dict[str, int]) -> NDArray[np.int64]:
    pairs = []
    try:
        lines = path.read_text(encoding="ascii").splitlines()
    except (OSError, ValueError):
        raise UserError(f"{path}: cannot be read; get it again") from None
    for number, line in enumerate(lines, start=1):
        found = re.fullmatch(r"([^/]+/[^/]+)/rot(000|090|180|270)", line)
        if not found or found[1] not in index:
            raise UserError(f"{path}, line {number}: {line[:60]!a} is no Alphabet/characterNN/rotDDD of the archives")
        pairs.append((index[found[1]], int(found[2]) // 90))
    if not pairs or len(set(pairs)) != len(pairs):
        raise UserError(f"{path}: empty, or names a class twice")
    return np.array(pairs, dtype=np.int64)
