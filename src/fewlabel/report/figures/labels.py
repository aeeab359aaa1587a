"""Label efficiency: how few labels are enough, and how the trainings went."""

from __future__ import annotations

import itertools

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator, ScalarFormatter

from fewlabel.grammar import labels_per_class
from fewlabel.report.figures import style


def rotation_against_supervised(curves: dict[str, pd.DataFrame], labels: int, seed: int, table: pd.DataFrame) -> Figure:
    """Train and test, loss and accuracy, of every start on one choice of labels, on shared axes.

    Args:
        curves: by start: columns step, train_loss, train_accuracy, test_loss, test_accuracy.
        labels, seed: labels per class, and which of them.
        table: the leaderboard.
    """
    figure, axes = plt.subplots(2, 2, figsize=(9, 6), sharex=True, layout="constrained")
    for axis, (what, part) in zip(axes.flat, itertools.product(("loss", "accuracy"), ("train", "test")), strict=True):
        for start, curve in curves.items():
            line, (colour, marker) = curve[["step", f"{part}_{what}"]].dropna(), style.style(start)
            axis.plot(line["step"], line[f"{part}_{what}"], color=colour, marker=marker, ms=4, label=start)
        axis.set_title(f"{part} {what}", fontsize=10)
        axis.set_ylabel(what)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes[0, 0].set_ylim(bottom=0)
    axes[0, 1].set_ylim(bottom=0, top=style.top(*(curve["test_loss"] for curve in curves.values()), share=0.85))
    for axis in axes[1]:
        axis.yaxis.set_major_formatter(style.percent())
        axis.set_xlabel("training step")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    title = f"Rotation pretraining against supervised from scratch: {labels} labels per class, seed {seed}"
    figure.suptitle(f"{title}\n{style.data_note(table[table['family'] == 'label-efficiency'])}", weight="bold")
    return figure


def label_efficiency(table: pd.DataFrame) -> Figure:
    """Test accuracy against labels per class on a log axis, one line per start.

    The line is the mean over seeds. Where there are several, a small point is each; where there is one, its interval
    over the test images is shown.
    """
    table = table.assign(labels=table["protocol"].map(labels_per_class)).dropna(subset="labels")
    figure, axis = plt.subplots(figsize=(7, 4.5), layout="constrained")
    for start, rows in table.groupby("method", sort=False):
        colour, marker = style.style(str(start))
        means = rows.groupby("labels")["value"].mean()
        axis.plot(means.index, means, color=colour, marker=marker, label=str(start))
        seeds = rows.groupby("labels")["seed"].transform("nunique")
        axis.plot(rows["labels"][seeds > 1], rows["value"][seeds > 1], ".", color=colour, alpha=0.6, ms=5)
        one = rows[seeds == 1]
        span = [one["value"] - one["ci95_low"], one["ci95_high"] - one["value"]]
        axis.errorbar(one["labels"], one["value"], yerr=span, fmt="none", color=colour, capsize=3)
    axis.set_xscale("log")
    axis.xaxis.set_major_locator(FixedLocator(sorted(table["labels"].unique())))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.xaxis.set_major_formatter(ScalarFormatter())
    axis.yaxis.set_major_formatter(style.percent())
    axis.set_xlabel("labels per class (log scale)")
    axis.set_ylabel("test accuracy: mean over seeds; points: each seed;\nbars: 95 % interval where there is one seed")
    axis.set_title(f"How few labels are enough? {style.data_note(table)}", fontsize=10)
    axis.legend()
    return figure
