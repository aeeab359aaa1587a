"""A picture of photographs with what the network says of each: true class, predicted class, confidence."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from numpy.typing import NDArray

RIGHT, WRONG = "#0072B2", "#D55E00"  # Okabe and Ito 2008: told apart by the colour-blind
COLUMNS, ROWS = 6, 4


def draw(
    path: Path,
    title: str,
    images: NDArray[np.uint8],
    labels: NDArray[np.integer],
    probabilities: NDArray[np.floating],
    classes: Sequence[str],
) -> None:
    """Write a PNG: up to half the places to the most confident mistakes, the rest to right answers spread evenly.

    Args:
        images: (n, 3, H, W).
        labels: (n,) true classes.
        probabilities: (n, classes).
    """
    predicted, confidence = probabilities.argmax(1), probabilities.max(1)
    wrong = np.flatnonzero(predicted != labels)
    wrong = wrong[np.argsort(-confidence[wrong], kind="stable")]
    right = np.flatnonzero(predicted == labels)
    places = min(COLUMNS * ROWS, len(images))
    shown_wrong = wrong[: max(places // 2, places - len(right))]
    spread = np.linspace(0, len(right) - 1, min(places - len(shown_wrong), len(right))).astype(int)
    chosen = np.concatenate([shown_wrong, right[spread]])

    figure, axes = plt.subplots(ROWS, COLUMNS, figsize=(1.75 * COLUMNS, 2.15 * ROWS))
    for axis in axes.flat:
        axis.axis("off")
    for axis, which in zip(axes.flat, chosen, strict=False):
        is_right = predicted[which] == labels[which]
        colour = RIGHT if is_right else WRONG
        height, width = images.shape[-2:]
        axis.imshow(images[which].transpose(1, 2, 0))
        axis.add_patch(plt.Rectangle((0, 0), width - 1, height - 1, fill=False, lw=2 if is_right else 6, ec=colour))
        said = f"{classes[predicted[which]]} {confidence[which]:.0%}"
        text = f"✓ {said}" if is_right else f"✗ {said}\ntrue: {classes[labels[which]]}"
        axis.set_title(text, fontsize=9, color=colour, fontweight="normal" if is_right else "bold")
    figure.suptitle(f"{title}: {len(wrong)} of {len(images)} wrong, {len(shown_wrong)} of them shown first", y=0.985)
    figure.subplots_adjust(left=0.01, right=0.99, bottom=0.01, top=0.9, wspace=0.08, hspace=0.32)
    figure.savefig(path, dpi=100, metadata={"Software": None})
    plt.close(figure)
