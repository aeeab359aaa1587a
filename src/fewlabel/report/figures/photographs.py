"""Photographs with what a network says of each: predicted class, confidence, and where it is wrong the true class."""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import NDArray

from fewlabel.report.figures.style import RIGHT, WRONG

Images = Mapping[str, NDArray[np.uint8]]  # by name, (3, H, W)


def predictions(title: str, table: pd.DataFrame, images: Images) -> Figure:
    """A grid: up to half the places to the most confident mistakes, the rest to right answers spread evenly.

    Args:
        table: of predictions.csv: name, true, predicted, confidence.
    """
    wrong, right = surest_mistakes(table), table[table["true"] == table["predicted"]]
    places = min(6 * 4, len(table))
    shown = wrong[: max(places // 2, places - len(right))]
    spread = np.linspace(0, len(right) - 1, min(places - len(shown), len(right))).astype(int)
    title = f"{title}: {len(wrong)} of {len(table)} wrong, {len(shown)} of them shown first"
    return _grid(title, 6, 4, pd.concat([shown, right.iloc[spread]]), images, named=False)


def most_wrong(title: str, table: pd.DataFrame, images: Images) -> Figure:
    """The ten mistakes it was surest of, or all when there are fewer, each with its file's name."""
    wrong = surest_mistakes(table)
    title = f"{title}: the {min(10, len(wrong))} surest of its {len(wrong)} mistakes"
    return _grid(title, 5, 2, wrong[:10], images, named=True)


def surest_mistakes(table: pd.DataFrame) -> pd.DataFrame:
    """The rows that are wrong, the surest first."""
    wrong = table[table["true"] != table["predicted"]]
    return wrong.sort_values("confidence", ascending=False, kind="stable")


def _grid(title: str, columns: int, rows: int, chosen: pd.DataFrame, images: Images, named: bool) -> Figure:
    figure, axes = plt.subplots(rows, columns, figsize=(1.75 * columns, 2.15 * rows + 0.1))
    for axis in axes.flat:
        axis.axis("off")
    for axis, row in zip(axes.flat, chosen.to_dict("records"), strict=False):
        is_right = row["true"] == row["predicted"]
        colour = RIGHT if is_right else WRONG
        image = images[row["name"]]
        height, width = image.shape[-2:]
        axis.imshow(image.transpose(1, 2, 0))
        axis.add_patch(plt.Rectangle((0, 0), width - 1, height - 1, fill=False, lw=2 if is_right else 6, ec=colour))
        said = f"{row['predicted']} {row['confidence']:.0%}"
        text = f"✓ {said}" if is_right else f"✗ {said}\ntrue: {row['true']}"
        axis.set_title(text, fontsize=9, color=colour, fontweight="normal" if is_right else "bold")
        if named:
            file = row["name"].rpartition("/")[2]
            axis.text(0.5, -0.03, file, fontsize=6, ha="center", va="top", transform=axis.transAxes)
    figure.suptitle(title, y=0.985, fontsize=10)
    figure.subplots_adjust(left=0.01, right=0.99, bottom=0.03, top=1 - 0.4 / rows, wspace=0.08, hspace=0.4)
    return figure
