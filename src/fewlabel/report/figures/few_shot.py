"""Few-shot learning: curves, and paired differences."""

from __future__ import annotations

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fewlabel.report.figures import style


def few_shot_curves(curves: dict[str, pd.DataFrame], table: pd.DataFrame) -> Figure:
    """Loss and accuracy of meta-training: smoothed, each step faint behind, validation as dots.

    Args:
        curves: by the cell's name, e.g. ``maml-lake-5w1s-0``: columns step, loss, accuracy, val_loss, val_accuracy.
        table: the leaderboard.
    """
    columns = min(3, len(curves))
    rows = 2 * -(-len(curves) // columns)  # loss above accuracy, for each line of methods
    figure, axes = plt.subplots(rows, columns, figsize=(3.2 * columns, 2.3 * rows), squeeze=False, layout="constrained")
    for axis in axes.flat[len(curves) :]:
        axis.set_visible(False)
    for place, (name, curve) in enumerate(curves.items()):
        line, column = divmod(place, columns)
        loss, accuracy = axes[2 * line : 2 * line + 2, column]
        for axis, what in ((loss, "loss"), (accuracy, "accuracy")):
            axis.set_visible(True)
            _curve(axis, curve, what, style.style(name)[0])
            if column == 0:
                axis.set_ylabel(what)
        loss.set_title(name, fontsize=10)
        loss.set_ylim(bottom=0, top=style.top(curve["loss"], curve["val_loss"]))
        accuracy.yaxis.set_major_formatter(style.percent())
        accuracy.set_xlabel("meta-training step")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=columns, fontsize=9)
    note = style.data_note(table[table["family"] == "few-shot"])
    figure.suptitle(f"Few-shot learning curves\n{note}", fontweight="bold")
    return figure


def _curve(axis: Axes, curve: pd.DataFrame, what: str, colour: str) -> None:
    """Loss or accuracy of one training."""
    training, held_out = (curve[["step", name]].dropna() for name in (what, f"val_{what}"))
    smooth = style.smooth(training[what])
    axis.plot(training["step"], smooth, color=colour, lw=1.5, label="training on its own task, smoothed")
    axis.plot(training["step"], training[what], ".", ms=2, color=colour, alpha=0.15, label="each step")
    label = "validation: 20w1s, or the task a panel names"
    axis.plot(held_out["step"], held_out[f"val_{what}"], "k.-", ms=4, lw=0.7, label=label)


def accuracy_per_second(progress: pd.DataFrame, table: pd.DataFrame) -> Figure:
    """Validation accuracy against the seconds of training until then, on a log axis: a panel a task, a line a method.

    Args:
        progress: columns task, method, seconds, accuracy: a row a validation.
        table: the leaderboard.
    """
    tasks = list(dict.fromkeys(progress["task"]))
    figure, axes = plt.subplots(1, len(tasks), figsize=(3.7 * len(tasks), 3.9), squeeze=False, layout="constrained")
    for axis, task in zip(axes[0], tasks, strict=True):
        for method, rows in progress[progress["task"] == task].groupby("method", sort=False):
            colour, marker = style.style(str(method))
            axis.plot(rows["seconds"], rows["accuracy"], color=colour, marker=marker, ms=4, label=method)
        axis.set_title(f"validation {task}", loc="left", fontsize=10)
        style.log_seconds(axis)
        axis.set_xlabel("seconds of training (log scale)")
        axis.yaxis.set_major_formatter(style.percent())
        axis.legend(loc="lower right", fontsize=9)
    axes[0, 0].set_ylabel("accuracy on validation classes")
    figure.suptitle(f"Accuracy per second\n{style.data_note(table[table['family'] == 'few-shot'])}", fontweight="bold")
    return figure


def paired_differences(differences: pd.DataFrame, table: pd.DataFrame) -> Figure:
    """For each protocol, by how many points each method falls short of the best one on the same episodes.

    Args:
        differences: of `paired.to_the_best`, a row per protocol and each method but its best.
        table: the leaderboard.
    """
    parts = [part for _, part in differences.groupby("protocol", sort=False)]
    columns = min(2, max(1, len(parts)))
    lines = -(-len(parts) // columns)
    heights = [max(len(part) for part in parts[line * columns :][:columns]) + 1.2 for line in range(lines)]
    size = (4.8 * columns, 1.2 + 0.27 * sum(heights) + 0.45 * lines)
    figure, axes = plt.subplots(
        max(1, lines), columns, figsize=size, height_ratios=heights or [1], squeeze=False, layout="constrained"
    )
    for axis in axes.flat[len(parts) :]:
        axis.set_visible(False)
    for axis, part in zip(axes.flat, parts, strict=False):
        _differences_of(axis, part)
    for axis in axes.flat[max(0, len(parts) - columns) : len(parts)]:  # the lowest of each column
        axis.set_xlabel("difference to the best, percentage points")
    if differences["other_transductive"].any() or differences["transductive"].any():
        axes[0, 0].plot([], [], "o", color="#444444", label="each query on its own")
        axes[0, 0].plot([], [], "o", color="#444444", mfc="white", label="transductive")
        figure.legend(loc="outside lower center", ncols=2, fontsize=9)
    note = style.data_note(table[table["family"] == "few-shot"])
    figure.suptitle(f"Paired differences on the same test episodes, with 95 % interval\n{note}", fontweight="bold")
    return figure


def _differences_of(axis: Axes, part: pd.DataFrame) -> None:
    """One protocol, a line for each method but its best."""
    axis.axvline(0, color="#444444", lw=1)
    for y, row in enumerate(part.to_dict("records")):
        centre, low, high = (-100 * row[name] for name in ("difference", "ci95_high", "ci95_low"))
        bars = [[centre - low], [high - centre]]
        style.point(axis, centre, y, row["other"], row["other_transductive"], xerr=bars)
    entries = zip(part["other"], part["other_transductive"], strict=True)
    axis.set_yticks(range(len(part)), [style.entry(*each) for each in entries])
    axis.set_ylim(len(part) - 0.5, -0.5)
    axis.set_xlim(right=max(0.0, axis.get_xlim()[1]))
    first = part.iloc[0]
    best = style.entry(first["method"], first["transductive"])
    axis.set_title(f"{first['protocol']}: best is {best}, {first['accuracy']:.1%}", loc="left", fontsize=9.5)
