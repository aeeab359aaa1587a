"""Which photographs are trained on and which are measured, and what a network said of them."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fewlabel.data import hymenoptera
from fewlabel.results import PREDICTIONS

FOLDS = 4  # of the training photographs, to choose settings by


def split(is_train: NDArray[np.bool_], fold: int | None) -> tuple[Tensor, Tensor]:
    """Rows to train on and rows to measure: train and validation, or three quarters of train and the fourth."""
    train, validation = (torch.from_numpy(np.flatnonzero(part)) for part in (is_train, ~is_train))
    if fold is None:
        return train, validation
    held_out = torch.arange(len(train)) % FOLDS == fold  # names are sorted, so every fold has both classes
    return train[~held_out], train[held_out]


def write_predictions(
    path: Path, names: NDArray[np.str_], labels: NDArray[np.integer], probabilities: NDArray[np.floating]
) -> None:
    """predictions.csv: each photograph's name, its class and the predicted one, with its probability."""
    classes = hymenoptera.CLASSES
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(PREDICTIONS)
        for name, label, row in zip(names, labels, probabilities, strict=True):
            writer.writerow([name, classes[label], classes[row.argmax()], f"{row.max():.4f}"])
