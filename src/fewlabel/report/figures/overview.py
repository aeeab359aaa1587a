"""All families: accuracy, and what it costs."""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure, SubFigure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from fewlabel.report.figures import style

USUAL_TASKS = ("5w1s", "5w5s", "20w1s", "20w5s")


def accuracy_by_method(table: pd.DataFrame) -> Figure:
    """Accuracy with its 95 % interval, one line per method and protocol; the published value as a hollow diamond.

    Args:
        table: of `leaderboard.over_seeds`.
    """
    table = table[table["metric"] == "accuracy"]
    families = list(dict.fromkeys(table["family"]))
    heights = [
        len(table[table["family"] == family].groupby(["protocol", "method", "transductive"])) for family in families
    ]
    figure, axes = plt.subplots(
        len(families),
        1,
        figsize=(8, 1.2 + 0.24 * sum(heights) + 0.7 * len(families)),
        gridspec_kw={"height_ratios": heights},
        squeeze=False,
        layout="constrained",
    )
    for axis, family in zip(axes[:, 0], families, strict=True):
        part = table[table["family"] == family]
        labels: list[str] = []
        for (protocol, method, transductive), rows in part.groupby(["protocol", "method", "transductive"], sort=False):
            y = len(labels)
            labels.append(f"{method}{', transductive' if transductive else ''}  {protocol}")
            low, high = rows["value"] - rows["ci95_low"], rows["ci95_high"] - rows["value"]
            axis.errorbar(
                rows["value"], y, xerr=[low, high], fmt="o", ms=5, color=style.colour(method), capsize=3, lw=1.5
            )
            reference = rows["reference"].dropna()
            if len(reference):
                axis.plot(reference.iloc[0], y, "D", ms=7, mfc="none", mec="#444444")
        axis.set_yticks(range(len(labels)), labels)
        axis.set_ylim(len(labels) - 0.4, -0.6)
        axis.xaxis.set_major_formatter(style.percent())
        if part["reference"].notna().any():
            axis.plot([], [], "D", ms=7, mfc="none", mec="#444444", label="published")
            axis.legend(loc="lower right", bbox_to_anchor=(1, 0.97))  # above the panel, clear of the points
        axis.set_title(f"{family}: {style.data_note(part)}", loc="left", fontsize=10)
    over = "\n(over seeds where there are several, else over test episodes or images)"
    axes[-1, 0].set_xlabel("accuracy with 95 % interval" + (over if table["seeds"].max() > 1 else ""))
    figure.suptitle("Accuracy by method and protocol", fontweight="bold")
    return figure


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
    lines = [-(-rows["protocol"].nunique() // 2) for _, rows in parts]
    figure = plt.figure(figsize=(7.4, sum(2.3 * line + 0.75 for line in lines) + 0.6), layout="constrained")
    figure.suptitle("Accuracy against training time", fontweight="bold")
    inner = figure.subfigures(len(parts), 1, height_ratios=[2.3 * line + 0.75 for line in lines], squeeze=False)
    for place, (family, rows), line in zip(inner[:, 0], parts, lines, strict=True):
        _training_time_of(place, f"{family}: {style.data_note(rows)}", rows, line)
    return figure


def _training_time_of(place: SubFigure, title: str, table: pd.DataFrame, lines: int) -> None:
    """One family's panels, and the legend of its methods: in the last place where that is empty, else below."""
    place.suptitle(title, x=0.01, ha="left", fontsize=10)
    axes = place.subplots(lines, 2, squeeze=False, sharex=True)
    named: dict[str, Any] = {}
    for axis, (protocol, rows) in zip(axes.flat, table.groupby("protocol", sort=False), strict=False):
        for row in rows.to_dict("records"):
            method = row["method"]
            drawn = axis.errorbar(
                max(row["train_seconds"], 0.1),
                row["value"],
                yerr=[[row["value"] - row["ci95_low"]], [row["ci95_high"] - row["value"]]],
                fmt=style.marker(method),
                color=style.colour(method),
                mfc="white" if row["transductive"] else style.colour(method),
                ms=6,
                capsize=3,
                lw=1.2,
            )
            named.setdefault(f"{method}, transductive" if row["transductive"] else method, drawn)
        axis.set_xscale("log")
        axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.xaxis.set_minor_locator(NullLocator())
        axis.xaxis.set_major_formatter(FuncFormatter(lambda seconds, _: f"{seconds:g}"))
        axis.yaxis.set_major_formatter(style.percent())
        axis.set_title(protocol, loc="left", fontsize=9.5)
    low, high = table["train_seconds"].clip(lower=0.1).min(), table["train_seconds"].clip(lower=0.1).max()
    axes[0, 0].set_xlim(low / 1.6, high * 1.6)
    for axis in axes[:, 0]:
        axis.set_ylabel("accuracy")
    odd = table["protocol"].nunique() % 2
    lowest = [axes[-1, 0], *(axes[-2:-1, 1] if odd else axes[-1:, 1])]
    for axis in lowest:
        axis.set_xlabel("seconds of training (log scale)")
        axis.tick_params(labelbottom=True)
    if odd:
        axes[-1, 1].axis("off")
        axes[-1, 1].legend(named.values(), named.keys(), loc="center left", fontsize=9)
    else:
        place.legend(named.values(), named.keys(), loc="outside lower center", ncols=3, fontsize=9)
