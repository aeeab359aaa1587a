"""Evaluation on fixed test episodes, batched: per-episode accuracy, and which class was taken for which."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fewlabel import episodes
from fewlabel.episodes import Indices
from fewlabel.methods.base import Method
from fewlabel.progress import Progress

CHUNK_IMAGES = 10_000  # images in flight, or embeddings; bounds the memory
CHUNK_PAIRS = 20_000_000  # of a query and a support drawing, as many as a Siamese network compares at once


@dataclass(frozen=True)
class Result:
    """
    Attributes:
        accuracies: (E,).
        confusion: (m, 3), true class, predicted class, how often; indices into the test classes.
        first: (way, queries), what the queries of the first episode were taken for, positions along its way axis.
    """

    accuracies: NDArray[np.float64]
    confusion: NDArray[np.int64]
    first: NDArray[np.int64]


def evaluate(
    method: Method, embedded: Tensor, indices: Indices, transductive: bool, name: str = "evaluation"
) -> Result:
    """`method` on fixed episodes, in one of its modes of predicting. Leaves the method as it was.

    Args:
        embedded: what `method.embed_table` makes of the drawings (classes, drawings, ...): once for all tasks.
    """
    count, way, shot = indices.support.shape
    queries = indices.query.shape[2]
    size = max(1, CHUNK_IMAGES // (way * (shot + queries)))
    # Without transduction a query knows nothing of the others, so those of a large episode can be taken in parts.
    part = queries if transductive else max(1, min(queries, CHUNK_PAIRS // (way * way * shot)))
    classes = len(embedded)
    pairs = torch.zeros(classes * classes, dtype=torch.int64)
    right: list[Tensor] = []
    first = torch.empty(0)
    with Progress(name, count) as bar:
        for chunk in indices.chunks(size):
            support, query = episodes.gather(embedded, chunk)
            with torch.no_grad():
                logits = [method.predict(support, some, transductive) for some in query.split(part, dim=2)]
            found = [each.argmax(-1).cpu().unflatten(1, (way, -1)) for each in logits]
            position = torch.cat(found, dim=2)  # (E, way, queries), of the class along the way axis
            first = first if right else position[0]
            right.append((position == torch.arange(way)[:, None]).double().mean((1, 2)))
            predicted = chunk.classes.long().gather(1, position.flatten(1))
            true = chunk.classes.long().repeat_interleave(queries, dim=1)
            pairs += torch.bincount((true * classes + predicted).flatten(), minlength=classes * classes)
            bar.update(len(chunk.classes), accuracy=torch.cat(right).mean().item())
    which = pairs.nonzero()[:, 0]
    confusion = torch.stack([which // classes, which % classes, pairs[which]], dim=1)
    return Result(torch.cat(right).numpy(), confusion.numpy(), first.numpy())
