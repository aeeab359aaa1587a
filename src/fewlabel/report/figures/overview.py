"""All families: accuracy, and what it costs."""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure

from fewlabel.report.figures import style

USUAL_TASKS = ("5w1s", "5w5s", "20w1s", "20w5s")
LEAST_SECONDS = 0.1  # what is shown of a training that took none: the axis is logarithmic


def accuracy_by_method(table: pd.DataFrame) -> Figure:
    """Accuracy with its 95 % interval, one line per method and protocol; the published value as a hollow diamond.

    Args:
        table: of `leaderboard.over_seeds`.
    """
    table = table[table["metric"] == "accuracy"]
    parts = {str(family): part for family, part in table.groupby("family", sort=False)}
    heights = [len(part) for part in parts.values()]
    size = (8, 1.2 + 0.24 * sum(heights) + 0.7 * len(parts))
    figure, axes = plt.subplots(len(parts), 1, figsize=size, height_ratios=heights, squeeze=False, layout="constrained")
    for axis, (family, part) in zip(axes[:, 0], parts.items(), strict=True):
        _accuracies_of(axis, part)
        axis.set_title(f"{family}: {style.data_note(part)}", loc="left", fontsize=10)
    over = "\n(over seeds where there are several, else over test episodes or images)"
    axes[-1, 0].set_xlabel("accuracy with 95 % interval" + (over if table["seeds"].max() > 1 else ""))
    figure.suptitle("Accuracy by method and protocol", fontweight="bold")
    return figure


def _accuracies_of(axis: Axes, part: pd.DataFrame) -> None:
    """One family, a line for each method and protocol."""
    labels = []
    for y, row in enumerate(part.to_dict("records")):
        labels.append(f"{style.entry(row['method'], row['transductive'])}  {row['protocol']}")
        style.point(axis, row["value"], y, row["method"], row["transductive"], xerr=style.bar(row))
        if pd.notna(row["reference"]):
            axis.plot(row["reference"], y, "D", ms=8, mfc="none", mec="#444444")
    axis.set_yticks(range(len(labels)), labels)
    axis.set_ylim(len(labels) - 0.4, -0.6)
    axis.xaxis.set_major_formatter(style.percent())
    if part["reference"].notna().any():
        axis.plot([], [], "D", ms=8, mfc="none", mec="#444444", label="published")
        axis.legend(loc="lower right", bbox_to_anchor=(1, 0.97))  # above the panel, clear of the points


def training_time(table: pd.DataFrame) -> Figure:
    """Accuracy against the seconds of training behind it, on a log axis: a panel a protocol, a point a method.

    Of a split with many tasks those that everybody reports are shown.

    Args:
        table: of `leaderboard.over_seeds`.
    """
    table = table[table["metric"] == "accuracy"].copy()
    table["split"] = table["protocol"].str.partition("/")[0]
    parts = []
    for (family, split), rows in table.groupby(["family", "split"], sort=False):
        usual = rows[rows["protocol"].isin([f"{split}/{task}" for task in USUAL_TASKS])]
        parts.append((family, rows if family != "few-shot" or usual.empty else usual))
    panels = [-(-rows["protocol"].nunique() // 2) for _, rows in parts]  # lines of two panels each
    heights = [2.3 * lines + 0.75 for lines in panels]
    figure = plt.figure(figsize=(7.4, sum(heights) + 0.6), layout="constrained")
    figure.suptitle("Accuracy against training time", fontweight="bold")
    inner = figure.subfigures(len(parts), 1, height_ratios=heights, squeeze=False)
    for place, (family, rows), lines in zip(inner[:, 0], parts, panels, strict=True):
        place.suptitle(f"{family}: {style.data_note(rows)}", x=0.01, ha="left", fontsize=10)
        _training_time_of(place, rows, place.subplots(lines, 2, squeeze=False, sharex=True))
    return figure


def _training_time_of(place: SubFigure, table: pd.DataFrame, axes: Any) -> None:
    """One family's panels, and the legend of its methods: in the last place where that is empty, else below."""
    table = table.assign(train_seconds=table["train_seconds"].clip(lower=LEAST_SECONDS))
    named: dict[str, Any] = {}
    for axis, (protocol, rows) in zip(axes.flat, table.groupby("protocol", sort=False), strict=False):
        for row in rows.to_dict("records"):
            entry = (row["method"], row["transductive"])
            drawn = style.point(axis, row["train_seconds"], row["value"], *entry, yerr=style.bar(row))
            named.setdefault(style.entry(*entry), drawn)
        axis.set_title(protocol, loc="left", fontsize=9.5)
        style.log_seconds(axis)
        axis.yaxis.set_major_formatter(style.percent())
    axes[0, 0].set_xlim(table["train_seconds"].min() / 1.6, table["train_seconds"].max() * 1.6)
    for axis in axes[:, 0]:
        axis.set_ylabel("accuracy")
    last_is_empty = table["protocol"].nunique() % 2
    lowest = [axes[-1, 0], *(axes[-2:-1, 1] if last_is_empty else axes[-1:, 1])]
    for axis in lowest:
        axis.set_xlabel("seconds of training (log scale)")
        axis.tick_params(labelbottom=True)
    if last_is_empty:
        axes[-1, 1].axis("off")
        axes[-1, 1].legend(named.values(), named.keys(), loc="center left", fontsize=9)
    else:
        place.legend(named.values(), named.keys(), loc="outside lower center", ncols=3, fontsize=9)
