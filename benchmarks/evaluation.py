"""Seconds to evaluate 1,000 episodes: episodes in batches, against a loop over episodes.

The reference is the loop of easyfsl and of most scripts: per episode one forward of the support, one of the queries,
prototypes (or similarities), argmax. Of MAML and Reptile it is that of learn2learn's and the authors': per episode a
copy of the network, an optimizer, the inner steps, then all queries at once (transductive) or a forward for each. Same
untrained network. Seconds are those of `LOOPED` episodes for the reference and of `EPISODES` for ours, the embedding of
the whole test set included, scaled to 1,000.
"""

from __future__ import annotations

import copy
import functools

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks import common
from benchmarks.common import Row
from fewlabel import params
from fewlabel.fewshot import episodes
from fewlabel.fewshot.episodes import Indices, Shape
from fewlabel.fewshot.evaluate import evaluate
from fewlabel.fewshot.methods import base
from fewlabel.fewshot.methods.base import Method, Problem
from fewlabel.fewshot.methods.maml import Maml
from fewlabel.fewshot.methods.prototypes import Prototypes
from fewlabel.fewshot.methods.reptile import Reptile, minibatches
from fewlabel.fewshot.methods.siamese import Siamese

TASKS = {
    "prototypes": ("5w1s", "5w5s", "20w5s"),
    "siamese": ("5w1s", "5w5s", "20w5s"),
    "maml": ("5w1s", "5w5s"),
    "reptile": ("5w1s", "5w5s"),
}
EPISODES, LOOPED, QUERIES = {"prototypes": 1000, "siamese": 1000, "maml": 100, "reptile": 100}, 20, 15
CLASSES = 659  # lake's test classes; the stand-in drawings are repeated to be as many


def reference(method: Method, table: Tensor, indices: Indices, transductive: bool) -> Tensor:
    """Accuracy of each episode, (E,)."""
    method.model.eval()
    accuracies = []
    for one in indices.chunks(1):
        support, query = (episodes.as_float(images[0]) for images in episodes.gather(table, one))
        scores = scores_of(method, support, query, transductive)
        targets = torch.arange(len(support), device=scores.device).repeat_interleave(query.shape[1])
        accuracies.append((scores.argmax(1) == targets).float().mean())
    return torch.stack(accuracies)


@torch.no_grad()
def scores_of(method: Method, support: Tensor, query: Tensor, transductive: bool) -> Tensor:
    """Of one episode's queries, (way x queries, way)."""
    shots, (images, queries) = support.shape[1], (support.flatten(0, 1), query.flatten(0, 1))
    if isinstance(method, Prototypes):
        return -torch.cdist(method.model(queries), method.model(images).unflatten(0, support.shape[:2]).mean(1))
    if isinstance(method, Siamese):
        tower, head = method.model.tower, method.model.head
        logits = head((tower(queries)[:, None] - tower(images)).abs()).squeeze(-1)
        return logits.unflatten(1, (len(support), -1)).mean(-1)
    assert isinstance(method, Maml | Reptile)
    network = copy.deepcopy(method.model.conv4 if isinstance(method, Maml) else method.model)
    network.to(memory_format=torch.contiguous_format)
    optimizer = torch.optim.SGD(network.parameters(), lr=method.settings.inner_lr)
    batches = [torch.arange(len(images))] * method.settings.test_inner_steps
    if isinstance(method, Reptile):
        draws = (method.settings.inner_batch, method.settings.test_inner_steps, torch.Generator().manual_seed(0))
        batches = list(minibatches(len(images), *draws))
    targets = torch.arange(len(support), device=images.device).repeat_interleave(shots)
    for batch in batches:
        optimizer.zero_grad()
        with torch.enable_grad():
            F.cross_entropy(network(images[batch]), targets[batch]).backward()
        optimizer.step()
    if transductive:
        return network(queries)
    return torch.cat([network(torch.cat([images, each[None]]))[-1:] for each in queries])


def create(name: str, way: int, shot: int, device: torch.device) -> Method:
    return base.create(name, getattr(params.load(), name), Problem(way, shot, classes=100), device, seed=0)


def ours(method: Method, table: Tensor, indices: Indices, transductive: bool) -> Tensor:
    return torch.from_numpy(evaluate(method, method.embed_table(table), indices, [transductive])[0].accuracies)


def check(device: torch.device) -> None:
    """Equal accuracies of the metric methods on every episode, equal scores of the others in float64."""
    table = common.glyph_table(40, device)
    indices = episodes.fixed(Shape(3, 5, 5, QUERIES), len(table), 20, 0, "benchmark")
    for name in TASKS:
        method = create(name, 5, 5, device)
        if method.modes == (False,):
            expected = reference(method, table, indices, False)
            common.close(f"accuracies of {name}", ours(method, table, indices, False), expected)
            continue
        method.model.double()
        support, query = (episodes.as_float(images).double() for images in episodes.gather(table, indices))
        for mode in method.modes:
            for images, queries in zip(support, query, strict=True):  # Reptile's minibatches differ among episodes
                found = method.predict(images[None], queries[None], mode)[0].detach()
                expected = scores_of(method, images, queries, mode)
                common.close(f"scores of {name}, transductive {mode}", found, expected)


def measure(device: torch.device, repeats: int) -> list[Row]:
    table = common.glyph_table(CLASSES, device)
    rows = []
    for name, tasks in TASKS.items():
        for task in tasks:
            way, shot = params.parse_task(task)
            method = create(name, way, shot, device)
            count = EPISODES[name]
            indices = episodes.fixed(Shape(count, way, shot, QUERIES), len(table), 20, 0, task)
            for mode in method.modes:
                seconds = common.alternate(
                    {
                        "reference": functools.partial(reference, method, table, indices.chunks(LOOPED)[0], mode),
                        "ours": functools.partial(ours, method, table, indices, mode),
                    },
                    repeats,
                    device,
                )
                case = f"{name} {task}" + (", transductive" if mode else "")
                whole = {"reference": seconds["reference"] * 1000 / LOOPED, "ours": seconds["ours"] * 1000 / count}
                rows.append(common.against(case, whole["reference"], whole["ours"], 5))
    return rows


if __name__ == "__main__":
    common.main("evaluation", __doc__, check, measure)
