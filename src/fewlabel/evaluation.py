"""Evaluation on fixed test episodes, batched: per-episode accuracy, and which class was taken for which."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fewlabel import episodes
from fewlabel.episodes import Indices
from fewlabel.methods.base import Method, accuracies
from fewlabel.progress import Progress

CHUNK_IMAGES = 10_000  # images in flight, or embeddings; bounds the memory


@dataclass(frozen=True)
class Result:
    """accuracies (E,); confusion (m, 3): true class, predicted class, how often, indices into the test classes."""

    accuracies: NDArray[np.float64]
    confusion: NDArray[np.int64]


def evaluate(method: Method, table: Tensor, indices: Indices, name: str = "evaluation") -> Result:
    """`method` on episodes of a table uint8 (classes, 20, 1, 28, 28). Each drawing is embedded once.

    Leaves the method as it was.
    """
    embedded = method.embed_table(table)
    count, way, shot = indices.support.shape
    size = max(1, CHUNK_IMAGES // (way * (shot + indices.query.shape[2])))
    right, pairs = [], []
    with Progress(name, count) as bar:
        for chunk in indices.chunks(size):
            with torch.no_grad():
                logits = method.predict(*episodes.gather(embedded, chunk), method.modes[0])
            right.append(accuracies(logits).cpu())
            predicted = chunk.classes.gather(1, logits.argmax(-1).cpu())
            true = chunk.classes.repeat_interleave(chunk.query.shape[2], dim=1)
            pairs.append(torch.stack([true, predicted], dim=-1).flatten(0, 1))
            bar.update(len(chunk.classes), accuracy=torch.cat(right).mean().item())
    which, counts = np.unique(torch.cat(pairs).numpy(), axis=0, return_counts=True)
    return Result(torch.cat(right).double().numpy(), np.column_stack([which, counts]))
