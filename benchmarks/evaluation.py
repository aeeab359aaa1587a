"""Seconds to evaluate 1,000 episodes: each drawing embedded once and episodes in batches, against a loop over episodes.

The reference is the loop of easyfsl and of most scripts: per episode one forward of the support, one of the queries,
prototypes (or similarities), argmax. Its seconds are those of `LOOPED` episodes, scaled to 1,000; ours are of all
1,000, the embedding of the whole test set included. Same untrained network.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from benchmarks import common
from benchmarks.common import Row
from fewlabel import episodes, params
from fewlabel.episodes import Indices, Shape
from fewlabel.evaluation import evaluate
from fewlabel.methods import base
from fewlabel.methods.base import Method, Problem
from fewlabel.methods.prototypes import Prototypes
from fewlabel.methods.siamese import Siamese

METHODS, TASKS = ("prototypes", "siamese"), ("5w5s", "20w5s")
EPISODES, LOOPED, QUERIES = 1000, 20, 15
CLASSES = 659  # lake's test classes; the stand-in drawings are repeated to be as many


@torch.no_grad()
def reference(method: Method, table: Tensor, indices: Indices) -> Tensor:
    """Accuracy of each episode, (E,)."""
    method.model.eval()
    accuracies = []
    for one in indices.chunks(1):
        support, query = (episodes.as_float(images[0]) for images in episodes.gather(table, one))
        way = len(support)
        if isinstance(method, Prototypes):
            prototypes = method.model(support.flatten(0, 1)).unflatten(0, support.shape[:2]).mean(1)
            scores = -torch.cdist(method.model(query.flatten(0, 1)), prototypes)
        else:
            assert isinstance(method, Siamese)
            supports, queries = method.model.tower(support.flatten(0, 1)), method.model.tower(query.flatten(0, 1))
            logits = method.model.head((queries[:, None] - supports).abs()).squeeze(-1)
            scores = logits.unflatten(1, (way, -1)).mean(-1)
        targets = torch.arange(way, device=scores.device).repeat_interleave(query.shape[1])
        accuracies.append((scores.argmax(1) == targets).float().mean())
    return torch.stack(accuracies)


def create(name: str, way: int, shot: int, device: torch.device) -> Method:
    return base.create(name, getattr(params.load(), name), Problem(way, shot, classes=100), device, seed=0)


def ours(method: Method, table: Tensor, indices: Indices) -> Tensor:
    return torch.from_numpy(evaluate(method, method.embed_table(table), indices, False).accuracies)


def check(device: torch.device) -> None:
    """Equal accuracies on every episode."""
    table = common.glyph_table(40, device)
    indices = episodes.fixed(Shape(10, 5, 5, QUERIES), len(table), 20, 0, "benchmark")
    for name in METHODS:
        method = create(name, 5, 5, device)
        common.close(f"accuracies of {name}", ours(method, table, indices), reference(method, table, indices))


def measure(device: torch.device, repeats: int) -> list[Row]:
    table = common.glyph_table(CLASSES, device)
    rows = []
    for name in METHODS:
        for task in TASKS:
            way, shot = params.parse_task(task)
            method = create(name, way, shot, device)
            indices = episodes.fixed(Shape(EPISODES, way, shot, QUERIES), len(table), 20, 0, task)
            seconds = common.alternate(
                {
                    "reference": functools.partial(reference, method, table, indices.chunks(LOOPED)[0]),
                    "ours": functools.partial(ours, method, table, indices),
                },
                repeats,
                device,
            )
            whole = seconds["reference"] * EPISODES / LOOPED
            rows.append(common.against(f"{name} {task}", whole, seconds["ours"], 5))
    return rows


if __name__ == "__main__":
    common.main("evaluation", __doc__, check, measure)
