"""Episodes per second: index arithmetic on drawings in memory, against a loader that opens PNG files.

The reference picks class folders and drawings, opens each 105×105 PNG with Pillow, shrinks it to 28×28, makes a
tensor of it and stacks them, one episode at a time, as learn2learn and many a tutorial do. The files lie in the
operating system's cache, which flatters it. Both hand out float images of support and queries.
"""

from __future__ import annotations

import functools
import random
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from torchvision import transforms

from benchmarks import common
from benchmarks.common import Row
from fewlabel import params
from fewlabel.fewshot import episodes
from fewlabel.fewshot.episodes import Shape

TASKS = ("5w1s", "20w5s")
QUERIES = 15
BATCH = 32  # episodes that ours samples at once
CLASSES = 3136  # lake's training classes; the stand-in drawings are repeated to be as many

shrink = transforms.Compose(
    [
        transforms.Resize((28, 28), transforms.InterpolationMode.LANCZOS),
        transforms.ToTensor(),
        transforms.Lambda(lambda image: 1 - image),
    ]
)


@functools.cache
def folders() -> list[list[Path]]:
    """The PNG files of each background character of the stand-in, unpacked."""
    root = common.archives() / "unpacked"
    common.unpack(common.archives() / "images_background.zip", root)
    return [sorted(folder.glob("*.png")) for folder in sorted(root.glob("*/*/*"))]


def load(files: list[Path]) -> Tensor:
    return torch.stack([shrink(Image.open(file).convert("L")) for file in files])


def reference(way: int, shot: int) -> tuple[Tensor, Tensor]:
    """One episode out of PNG files: support (way, shot, 1, 28, 28) and query (way, queries, 1, 28, 28)."""
    drawings = [random.sample(files, shot + QUERIES) for files in random.sample(folders(), way)]
    return torch.stack([load(each[:shot]) for each in drawings]), torch.stack([load(each[shot:]) for each in drawings])


def ours(table: Tensor, shape: Shape, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    support, query = episodes.gather(table, episodes.sample(shape, len(table), table.shape[1], generator))
    return episodes.as_float(support), episodes.as_float(query)


def check(device: torch.device) -> None:
    """The same indices give the same pixels."""
    table = common.glyph_table(len(folders()), device)
    indices = episodes.sample(Shape(2, 5, 1, QUERIES), len(table), table.shape[1], torch.Generator().manual_seed(0))
    for images, which in zip(episodes.gather(table, indices), (indices.support, indices.query), strict=True):
        expected = [
            torch.stack([load([folders()[c][i] for i in row]) for c, row in zip(classes, rows, strict=True)])
            for classes, rows in zip(indices.classes.tolist(), which.tolist(), strict=True)
        ]
        common.close("pixels", episodes.as_float(images), torch.stack(expected), rtol=0, atol=1e-6)


def measure(device: torch.device, repeats: int) -> list[Row]:
    table = common.glyph_table(CLASSES, device)
    generator = torch.Generator().manual_seed(0)
    rows = []
    for task in TASKS:
        way, shot = params.parse_task(task)
        shape = Shape(BATCH, way, shot, QUERIES)
        seconds = common.alternate(
            {
                "reference": functools.partial(reference, way, shot),
                "ours": functools.partial(ours, table, shape, generator),
            },
            repeats,
            device,
        )
        once = seconds["ours"] / BATCH
        rows.append(common.against(task, seconds["reference"], once, 100, ours_episodes_per_s=1 / once))
    return rows


if __name__ == "__main__":
    common.main("episodes", __doc__, check, measure)
