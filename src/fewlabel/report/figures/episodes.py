"""One test episode as a method met it."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from fewlabel.report.examples import Entry, Episode
from fewlabel.report.figures import style
from fewlabel.report.figures.style import RIGHT, WRONG

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def confusion(episode: Episode, entry: Entry) -> Figure:
    """What the queries of one episode were taken for: a row a true class, a column a class it was taken for, each
    shown by its first support image."""
    way, predicted = episode.way, episode.predicted[entry]
    queries = predicted.shape[1]
    counts = np.stack([np.bincount(row, minlength=way)[:way] for row in predicted])
    side = min(max(0.36 * (way + 1.3) + 0.6, 4.2), 8.2)
    figure, axis = plt.subplots(figsize=(side, side + 0.5), layout="constrained")
    for true in range(way):
        _show(axis, episode.support[true, 0], -1.25, true, 1)
        _show(axis, episode.support[true, 0], true, -1.25, 1)
        for taken in range(way):
            if not counts[true, taken]:
                continue
            share = counts[true, taken] / queries
            colour = RIGHT if true == taken else WRONG
            axis.add_patch(plt.Rectangle((taken, true), 1, 1, fc=colour, alpha=0.15 + 0.85 * share, lw=0))
            axis.text(
                taken + 0.5,
                true + 0.5,
                str(counts[true, taken]),
                ha="center",
                va="center",
                fontsize=9,
                fontweight="normal" if true == taken else "bold",
                color="white" if true == taken and share > 0.55 else "black",
            )
    for at in range(way + 1):
        axis.plot([0, way], [at, at], color="#cccccc", lw=0.5)
        axis.plot([at, at], [0, way], color="#cccccc", lw=0.5)
    _bare(axis, (-1.3, way + 0.05), (-1.3, way + 0.05))
    axis.set_xlabel("class it was taken for", labelpad=6)
    axis.set_ylabel("true class", labelpad=4)
    axis.xaxis.set_label_position("top")
    right, of = episode.right(entry)
    axis.set_title(
        f"{style.entry(*entry)}: {right} of {of} queries right, {queries} of each class\n"
        "blue diagonal: right; orange elsewhere, bold: taken for another class",
        fontsize=9.5,
    )
    figure.suptitle(_about("Confusion in one test episode", episode), fontweight="bold", fontsize=11)
    return figure


def episode_picture(episode: Episode, entries: list[Entry]) -> Figure:
    """One episode, once for each of `entries`: the support images of each class above, some of its queries below, each
    with what it was taken for. A mistake has a thick frame, a cross and the letter of the class it was taken for."""
    way, shot, queries = episode.way, episode.support.shape[1], episode.query.shape[1]
    step_x, step_y, below = 1.12, 1.42, shot * 1.12 + 0.65  # in widths of an image
    width, height = way * step_x + 0.1, below + queries * step_y
    wide = 0.62 if way > 10 else 0.72
    lines = len(entries) if way > 6 else 1
    figure, axes = plt.subplots(
        lines,
        len(entries) // lines,
        figsize=(max(4.2, wide * (width + 0.8) * (len(entries) // lines)), wide * (height + 0.9) * lines + 0.9),
        squeeze=False,
        layout="constrained",
    )
    for axis, entry in zip(axes.flat, entries, strict=True):
        for column in range(way):
            x = column * step_x
            axis.text(x + 0.5, -0.12, LETTERS[column], ha="center", va="bottom", fontweight="bold")
            for row in range(shot):
                _show(axis, episode.support[column, row], x, row * 1.12, 1)
            for row in range(queries):
                taken = int(episode.predicted[entry][column, row])
                is_right, y = taken == column, below + row * step_y
                colour = RIGHT if is_right else WRONG
                _show(axis, episode.query[column, row], x, y, 1, colour, 1.2 if is_right else 3.5)
                axis.text(
                    x + 0.5,
                    y + 1.06,
                    "✓" if is_right else f"✗ {LETTERS[taken]}",
                    ha="center",
                    va="top",
                    fontsize=9,
                    fontweight="normal" if is_right else "bold",
                    color=colour,
                )
        axis.plot([0, width - 0.2], [below - 0.38] * 2, color="#444444", lw=0.8, ls=(0, (4, 3)))
        _bare(axis, (-0.6, width), (-0.55, height))
        for what, y in (("support", shot * 1.12 / 2), ("queries", below + queries * step_y / 2)):
            axis.text(-0.25, y, what, ha="right", va="center", rotation=90, fontsize=9)
        right, of = episode.right(entry)
        axis.set_title(f"{style.entry(*entry)}: {right} of {of} queries right", fontsize=10)
    figure.suptitle(_about("One test episode", episode), fontweight="bold", fontsize=11)
    shown = f"the first {queries} queries of each class" if queries < episode.predicted[entries[0]].shape[1] else ""
    note = "above: the labelled images of each class; below: " + (shown or "the queries of each class")
    figure.supxlabel(f"{note}\n✓ right    ✗ B, thick frame: taken for class B", fontsize=9)
    return figure


def _show(
    axis: Axes, image: NDArray[np.uint8], x: float, y: float, side: float, colour: str = "#999999", lw: float = 0.6
) -> None:
    """One image (channels, size, size) of an Axes whose y runs downwards, with a frame."""
    extent = (x, x + side, y + side, y)
    channels_last = np.moveaxis(image, 0, -1)
    picture = channels_last if image.shape[0] == 3 else np.repeat(channels_last[..., :1], 3, axis=2)
    axis.imshow(picture, extent=extent, interpolation="antialiased", zorder=2)
    axis.add_patch(plt.Rectangle((x, y), side, side, fill=False, ec=colour, lw=lw, zorder=3))


def _bare(axis: Axes, x: tuple[float, float], y: tuple[float, float]) -> None:
    """Limits, square cells, y downwards, no ticks or frame."""
    axis.set_xlim(*x)
    axis.set_ylim(max(y), min(y))
    axis.set_aspect("equal")
    axis.set_xticks([])
    axis.set_yticks([])
    axis.grid(False)
    for spine in axis.spines.values():
        spine.set_visible(False)


def _about(what: str, episode: Episode) -> str:
    stand_in = " (embedded stand-in data)" if episode.stand_in else ""
    return f"{what}: {episode.protocol}{stand_in}"
