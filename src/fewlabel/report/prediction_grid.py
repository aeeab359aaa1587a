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
    wrong, right = most_wrong(labels, probabilities), np.flatnonzero(probabilities.argmax(1) == labels)
    places = min(6 * 4, len(images))
    shown_wrong = wrong[: max(places // 2, places - len(right))]
    spread = np.linspace(0, len(right) - 1, min(places - len(shown_wrong), len(right))).astype(int)
    chosen = np.concatenate([shown_wrong, right[spread]])
    title = f"{title}: {len(wrong)} of {len(images)} wrong, {len(shown_wrong)} of them shown first"
    _grid(path, title, 6, 4, chosen, images, labels, probabilities, classes, [""] * len(images))


def draw_most_wrong(
    path: Path,
    title: str,
    images: NDArray[np.uint8],
    labels: NDArray[np.integer],
    probabilities: NDArray[np.floating],
    classes: Sequence[str],
    names: Sequence[str],
) -> None:
    """Write a PNG of the ten mistakes it was surest of, or all when there are fewer, each with its file's name."""
    wrong = most_wrong(labels, probabilities)
    title = f"{title}: the {min(10, len(wrong))} surest of its {len(wrong)} mistakes"
    _grid(path, title, 5, 2, wrong[:10], images, labels, probabilities, classes, names)


def most_wrong(labels: NDArray[np.integer], probabilities: NDArray[np.floating]) -> NDArray[np.intp]:
    """Which answers (n, classes) are wrong, the surest first."""
    wrong = np.flatnonzero(probabilities.argmax(1) != labels)
    return wrong[np.argsort(-probabilities.max(1)[wrong], kind="stable")]


def _grid(
    path: Path,
    title: str,
    columns: int,
    rows: int,
    chosen: NDArray[np.intp],
    images: NDArray[np.uint8],
    labels: NDArray[np.integer],
    probabilities: NDArray[np.floating],
    classes: Sequence[str],
    names: Sequence[str],
) -> None:
    predicted, confidence = probabilities.argmax(1), probabilities.max(1)
    figure, axes = plt.subplots(rows, columns, figsize=(1.75 * columns, 2.15 * rows + 0.1))
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
        axis.text(
            0.5, -0.03, names[which].rpartition("/")[2], fontsize=6, ha="center", va="top", transform=axis.transAxes
        )
    figure.suptitle(title, y=0.985, fontsize=10)
    figure.subplots_adjust(left=0.01, right=0.99, bottom=0.03, top=1 - 0.4 / rows, wspace=0.08, hspace=0.4)
    figure.savefig(path, dpi=100, metadata={"Software": None})
    plt.close(figure)
