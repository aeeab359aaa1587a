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
STEP_X, STEP_Y = 1.12, 1.42  # from one image to the next, in widths of an image; below a query stands a mark


def confusion(episode: Episode, entry: Entry) -> Figure:
    """What the queries of one episode were taken for: a row a true class, a column a class it was taken for, each
    shown by its first support image."""
    way, predicted = episode.way, episode.predicted[entry]
    queries = predicted.shape[1]
    counts = np.stack([np.bincount(row, minlength=way)[:way] for row in predicted])
    side = min(max(0.36 * (way + 1.3) + 0.6, 4.2), 8.2)
    figure, axis = plt.subplots(figsize=(side, side + 0.5), layout="constrained")
    for each in range(way):
        _show(axis, episode.support[each, 0], -1.25, each)
        _show(axis, episode.support[each, 0], each, -1.25)
    for true, taken in np.argwhere(counts):
        _count(axis, int(true), int(taken), counts[true, taken], queries)
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


def _count(axis: Axes, true: int, taken: int, count: int, queries: int) -> None:
    """How many of a class's queries were taken for a class, the stronger in colour the more they are."""
    is_right, share = true == taken, count / queries
    colour, weight = (RIGHT, "normal") if is_right else (WRONG, "bold")
    axis.add_patch(plt.Rectangle((taken, true), 1, 1, fc=colour, alpha=0.15 + 0.85 * share, lw=0))
    ink = "white" if is_right and share > 0.55 else "black"
    where = (taken + 0.5, true + 0.5)
    axis.text(*where, str(count), ha="center", va="center", fontsize=9, fontweight=weight, color=ink)


def episode_picture(episode: Episode, entries: list[Entry]) -> Figure:
    """One episode, once for each of `entries`: the support images of each class above, some of its queries below, each
    with what it was taken for. A mistake has a thick frame, a cross and the letter of the class it was taken for."""
    lines = len(entries) if episode.way > 6 else 1
    columns = len(entries) // lines
    width, height = episode.way * STEP_X + 0.1, _queries_top(episode) + episode.query.shape[1] * STEP_Y
    wide = 0.62 if episode.way > 10 else 0.72  # inches a width of an image
    size = (max(4.2, wide * (width + 0.8) * columns), wide * (height + 0.9) * lines + 0.9)
    figure, axes = plt.subplots(lines, columns, figsize=size, squeeze=False, layout="constrained")
    for axis, entry in zip(axes.flat, entries, strict=True):
        _episode_of(axis, episode, entry)
        _bare(axis, (-0.6, width), (-0.55, height))
    figure.suptitle(_about("One test episode", episode), fontweight="bold", fontsize=11)
    queries, shown = episode.predicted[entries[0]].shape[1], episode.query.shape[1]
    which = f"the first {shown} queries" if shown < queries else "the queries"
    note = f"above: the labelled images of each class; below: {which} of each class"
    figure.supxlabel(f"{note}\n✓ right    ✗ B, thick frame: taken for class B", fontsize=9)
    return figure


def _episode_of(axis: Axes, episode: Episode, entry: Entry) -> None:
    """The episode as one method met it: a column a class."""
    (way, shot), queries, below = episode.support.shape[:2], episode.query.shape[1], _queries_top(episode)
    for column in range(way):
        x = column * STEP_X
        axis.text(x + 0.5, -0.12, LETTERS[column], ha="center", va="bottom", fontweight="bold")
        for row in range(shot):
            _show(axis, episode.support[column, row], x, row * STEP_X)
        for row in range(queries):
            taken, y = int(episode.predicted[entry][column, row]), below + row * STEP_Y
            is_right = taken == column
            colour, weight = (RIGHT, "normal") if is_right else (WRONG, "bold")
            mark = "✓" if is_right else f"✗ {LETTERS[taken]}"
            _show(axis, episode.query[column, row], x, y, colour, 1.2 if is_right else 3.5)
            axis.text(x + 0.5, y + 1.06, mark, ha="center", va="top", fontsize=9, fontweight=weight, color=colour)
    axis.plot([0, way * STEP_X - 0.1], [below - 0.38] * 2, color="#444444", lw=0.8, ls=(0, (4, 3)))
    for what, y in (("support", shot * STEP_X / 2), ("queries", below + queries * STEP_Y / 2)):
        axis.text(-0.25, y, what, ha="right", va="center", rotation=90, fontsize=9)
    right, of = episode.right(entry)
    axis.set_title(f"{style.entry(*entry)}: {right} of {of} queries right", fontsize=10)


def _queries_top(episode: Episode) -> float:
    """Where the queries begin, below the support images."""
    return episode.support.shape[1] * STEP_X + 0.65


def _show(axis: Axes, image: NDArray[np.uint8], x: float, y: float, colour: str = "#999999", lw: float = 0.6) -> None:
    """One image (channels, size, size) as a unit square of an Axes whose y runs downwards, with a frame."""
    channels_last = np.moveaxis(image, 0, -1)
    picture = channels_last if image.shape[0] == 3 else np.repeat(channels_last[..., :1], 3, axis=2)
    axis.imshow(picture, extent=(x, x + 1, y + 1, y), interpolation="antialiased", zorder=2)
    axis.add_patch(plt.Rectangle((x, y), 1, 1, fill=False, ec=colour, lw=lw, zorder=3))


def _bare(axis: Axes, x: tuple[float, float], y: tuple[float, float]) -> None:
    """Limits, squares, y downwards, no ticks or frame."""
    axis.set(xlim=x, ylim=(max(y), min(y)), aspect="equal", xticks=[], yticks=[])
    axis.grid(False)
    axis.spines[:].set_visible(False)


def _about(what: str, episode: Episode) -> str:
    stand_in = " (embedded stand-in data)" if episode.stand_in else ""
    return f"{what}: {episode.protocol}{stand_in}"
