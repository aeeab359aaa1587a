"""Evaluation on fixed test episodes, in batches: the accuracy of each episode, and how often classes are confused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fewlabel.fewshot import episodes
from fewlabel.fewshot.episodes import Indices
from fewlabel.fewshot.methods.base import Method
from fewlabel.networks.conv4 import as_many
from fewlabel.progress import Progress

CHUNK_IMAGES = 10_000  # images or embeddings at a time; bounds the memory
CHUNK_PAIRS = 20_000_000  # of a query and a support drawing at a time; bounds the memory of Siamese networks


@dataclass(frozen=True)
class Result:
    """
    Attributes:
        accuracies: (E,).
        confusion: (m, 3), true class, predicted class, count; classes are indices into the test classes.
        first: (way, queries), the predictions for the first episode, as positions along its way axis.
    """

    accuracies: NDArray[np.float64]
    confusion: NDArray[np.int64]
    first: NDArray[np.int64]


def evaluate(
    method: Method, embedded: Tensor, indices: Indices, modes: Sequence[bool], name: str = "evaluation"
) -> list[Result]:
    """Evaluate `method` on fixed episodes: one result for each of `modes`. It does not change the method.

    Args:
        embedded: the drawings (classes, drawings, ...) as `method.embed_table` returns them; they serve all tasks.
        modes: which to evaluate of `Method.modes`; True is transductive.
    """
    count, way, shot = indices.support.shape
    queries = indices.query.shape[2]
    size = max(1, as_many(CHUNK_IMAGES, embedded[0, 0]) // (way * (shot + queries)))
    # Without transduction the queries are independent, so those of a large episode can be classified in parts.
    part = max(1, min(queries, CHUNK_PAIRS // (way * way * shot)))
    taken: list[list[Tensor]] = [[] for _ in modes]
    with Progress(name, count) as bar, torch.no_grad():
        for chunk in indices.chunks(size):
            support, query = episodes.gather(embedded, chunk)
            learnt = method.learn(support)
            for transductive, positions in zip(modes, taken, strict=True):
                each = query.split(queries if transductive else part, dim=2)
                logits = [method.classify(learnt, some, transductive) for some in each]
                found = [some.argmax(-1).cpu().unflatten(1, (way, -1)) for some in logits]
                positions.append(torch.cat(found, dim=2))
            bar.update(len(chunk.classes), accuracy=_right(taken[0][-1]).mean().item())
    return [_result(torch.cat(positions), indices.classes.long(), len(embedded)) for positions in taken]


def _right(position: Tensor) -> Tensor:
    """Accuracies (E,) of predictions (E, way, queries), which are positions along the way axis."""
    return (position == torch.arange(position.shape[1])[:, None]).double().mean((1, 2))


def _result(position: Tensor, classes: Tensor, of: int) -> Result:
    predicted = classes.gather(1, position.flatten(1))
    true = classes.repeat_interleave(position.shape[2], dim=1)
    pairs = torch.bincount((true * of + predicted).flatten(), minlength=of * of)
    which = pairs.nonzero()[:, 0]
    confusion = torch.stack([which // of, which % of, pairs[which]], dim=1)
    return Result(_right(position).numpy(), confusion.numpy(), position[0].numpy())
