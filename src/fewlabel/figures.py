"""Figures of the comparison: colour-blind-safe (Okabe and Ito 2008), readable in print, titled, with units."""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator, PercentFormatter, ScalarFormatter

COLOURS = {
    "siamese": "#0072B2",
    "prototypes": "#D55E00",
    "maml": "#009E73",
    "reptile": "#CC79A7",
    "scratch": "#000000",
    "rotation": "#0072B2",
    "rotation-frozen-early": "#E69F00",
    "rotation-frozen-last": "#CC79A7",
    "finetune": "#0072B2",
    "frozen": "#E69F00",
    "small-scratch": "#999999",
    "small-rotation": "#56B4E9",
}
MARKERS = {"scratch": "s", "rotation": "o", "rotation-frozen-early": "^", "rotation-frozen-last": "v"}
MARKERS |= {"siamese": "o", "prototypes": "s", "maml": "^"}
SPARE = "#56B4E9"
plt.rcParams.update(
    {
        "figure.dpi": 110,
        "savefig.dpi": 110,
        "font.size": 10,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "grid.alpha": 0.3,
        "legend.frameon": False,
    }
)


def save(figure: Figure, path: Path) -> None:
    """Write a PNG without a date, so that equal figures are equal bytes."""
    figure.savefig(path, bbox_inches="tight", metadata={"Software": None})
    plt.close(figure)


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
            axis.errorbar(rows["value"], y, xerr=[low, high], fmt="o", ms=5, color=_colour(method), capsize=3, lw=1.5)
            reference = rows["reference"].dropna()
            if len(reference):
                axis.plot(reference.iloc[0], y, "D", ms=7, mfc="none", mec="#444444")
        axis.set_yticks(range(len(labels)), labels)
        axis.set_ylim(len(labels) - 0.4, -0.6)
        axis.xaxis.set_major_formatter(PercentFormatter(1.0))
        if part["reference"].notna().any():
            axis.plot([], [], "D", ms=7, mfc="none", mec="#444444", label="published")
            axis.legend(loc="lower right", bbox_to_anchor=(1, 0.97))  # above the panel, clear of the points
        axis.set_title(f"{family}: {_data_note(part)}", loc="left", fontsize=10)
    over = "\n(over seeds where there are several, else over test episodes or images)"
    axes[-1, 0].set_xlabel("accuracy with 95 % interval" + (over if table["seeds"].max() > 1 else ""))
    figure.suptitle("Accuracy by method and protocol", fontweight="bold")
    return figure


def few_shot_curves(curves: dict[str, pd.DataFrame]) -> Figure:
    """Loss and accuracy of meta-training: smoothed, the raw points faint behind, validation as dots.

    Args:
        curves: by the cell's name, e.g. ``maml-lake-5w1s-0``: columns step, loss, accuracy, val_loss, val_accuracy.
    """
    columns = min(3, len(curves))
    rows = 2 * -(-len(curves) // columns)  # loss above accuracy, for each line of methods
    figure, axes = plt.subplots(rows, columns, figsize=(3.2 * columns, 2.3 * rows), squeeze=False, layout="constrained")
    for axis in axes.flat[len(curves) :]:
        axis.set_visible(False)
    for place, (name, curve) in enumerate(curves.items()):
        line, column = divmod(place, columns)
        colour = COLOURS.get(name.split("-")[0], SPARE)
        for axis, what in zip(axes[2 * line : 2 * line + 2, column], ("loss", "accuracy"), strict=True):
            axis.set_visible(True)
            training = curve[["step", what]].dropna()
            axis.plot(training["step"], training[what], ".", ms=2, color=colour, alpha=0.15)
            axis.plot(training["step"], _smooth(training[what]), color=colour, lw=1.5, label="training, smoothed")
            held_out = curve[["step", f"val_{what}"]].dropna()
            axis.plot(held_out["step"], held_out[f"val_{what}"], "k.-", ms=4, lw=0.7, label="validation classes")
            if column == 0:
                axis.set_ylabel(what)
        axes[2 * line, column].set_title(name, fontsize=10)
        axes[2 * line, column].set_ylim(bottom=0, top=_top(curve["loss"], curve["val_loss"]))
        axes[2 * line + 1, column].yaxis.set_major_formatter(PercentFormatter(1.0))
        axes[2 * line + 1, column].set_xlabel("meta-training step")
    axes[0, 0].legend(loc="upper right", fontsize=8)
    figure.suptitle("Few-shot learning curves", fontweight="bold")
    return figure


def rotation_against_supervised(curves: dict[str, pd.DataFrame], cell: str) -> Figure:
    """Train and test, loss and accuracy, of every start on one choice of labels, on shared axes.

    Args:
        curves: by start: columns step, train_loss, train_accuracy, test_loss, test_accuracy.
        cell: labels per class and seed, e.g. ``20-0``.
    """
    figure, axes = plt.subplots(2, 2, figsize=(9, 6), sharex=True, layout="constrained")
    for column, part in enumerate(("train", "test")):
        for row, what in enumerate(("loss", "accuracy")):
            axis = axes[row, column]
            for start, curve in curves.items():
                line = curve[["step", f"{part}_{what}"]].dropna()
                axis.plot(
                    line["step"],
                    line[f"{part}_{what}"],
                    color=COLOURS.get(start, SPARE),
                    marker=MARKERS.get(start, "o"),
                    ms=4,
                    label=start,
                )
            axis.set_title(f"{part} {what}", fontsize=10)
            if what == "accuracy":
                axis.yaxis.set_major_formatter(PercentFormatter(1.0))
                axis.set_xlabel("training step")
            elif part == "test":
                axis.set_ylim(bottom=0, top=_top(*(curve["test_loss"] for curve in curves.values()), share=0.85))
            else:
                axis.set_ylim(bottom=0)
    axes[0, 0].legend()
    labels, seed = cell.split("-")
    title = f"Rotation pretraining against supervised from scratch: {labels} labels per class, seed {seed}"
    figure.suptitle(title, weight="bold")
    return figure


def label_efficiency(table: pd.DataFrame) -> Figure:
    """Test accuracy against labels per class on a log axis, one line per start.

    The line is the mean over seeds. Where there are several, a small point is each; where there is one, its interval
    over the test images is shown.
    """
    table = table[(table["family"] == "label-efficiency") & table["protocol"].str.endswith("-per-class")].copy()
    table["labels"] = table["protocol"].str.extract(r"/(\d+)-per-class")[0].astype(int)
    figure, axis = plt.subplots(figsize=(7, 4.5), layout="constrained")
    for start, rows in table.groupby("method", sort=False):
        colour, marker = _colour(str(start)), MARKERS.get(str(start), "o")
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
    axis.yaxis.set_major_formatter(PercentFormatter(1.0))
    axis.set_xlabel("labels per class (log scale)")
    axis.set_ylabel("test accuracy: mean over seeds; points: each seed;\nbars: 95 % interval where there is one seed")
    axis.set_title(f"How few labels are enough? {_data_note(table)}", fontsize=10)
    axis.legend()
    return figure


def _colour(method: str) -> str:
    """A method's colour; of ``frozen-resnet18``, that of ``frozen``."""
    known = [name for name in COLOURS if f"{method}-".startswith(f"{name}-")]
    return COLOURS[max(known, key=len)] if known else SPARE


def paired_differences(table: pd.DataFrame) -> Figure:
    """For each protocol, by how many points each method falls short of the best one on the same episodes.

    Args:
        table: of `paired.to_the_best`, a row per protocol and each method but its best.
    """
    parts = [part for _, part in table.groupby("protocol", sort=False)]
    columns = min(2, max(1, len(parts)))
    lines = -(-len(parts) // columns)
    heights = [max(len(part) for part in parts[line * columns :][:columns]) + 1.2 for line in range(lines)]
    figure, axes = plt.subplots(
        max(1, lines),
        columns,
        figsize=(4.8 * columns, 1.2 + 0.27 * sum(heights) + 0.45 * lines),
        gridspec_kw={"height_ratios": heights or [1]},
        squeeze=False,
        layout="constrained",
    )
    for axis in axes.flat[len(parts) :]:
        axis.set_visible(False)
    for axis, part in zip(axes.flat, parts, strict=False):
        axis.axvline(0, color="#444444", lw=1)
        for y, row in enumerate(part.to_dict("records")):
            below, above = row["difference"] - row["ci95_low"], row["ci95_high"] - row["difference"]
            colour = COLOURS.get(row["other"], SPARE)
            axis.errorbar(
                -100 * row["difference"],
                y,
                xerr=[[100 * above], [100 * below]],
                fmt=MARKERS.get(row["other"], "D"),
                ms=6,
                color=colour,
                mfc="white" if row["other_transductive"] else colour,
                capsize=3,
                lw=1.5,
            )
        axis.set_yticks(range(len(part)), part["other"])
        axis.set_ylim(len(part) - 0.5, -0.5)
        axis.set_xlim(right=max(0.0, axis.get_xlim()[1]))
        first = part.iloc[0]
        mode = ", transductive" if first["transductive"] else ""
        axis.set_title(
            f"{first['protocol']}: best is {first['method']}{mode}, {first['accuracy']:.1%}", loc="left", fontsize=9.5
        )
    for axis in axes.flat[max(0, len(parts) - columns) : len(parts)]:  # the lowest of each column
        axis.set_xlabel("difference to the best, percentage points")
    if table["other_transductive"].any() or table["transductive"].any():
        axes[0, 0].plot([], [], "o", color="#444444", label="each query on its own")
        axes[0, 0].plot([], [], "o", color="#444444", mfc="white", label="transductive")
        figure.legend(loc="outside lower center", ncols=2, fontsize=9)
    figure.suptitle("Paired differences on the same test episodes, with 95 % interval", fontweight="bold")
    return figure


def _data_note(rows: pd.DataFrame) -> str:
    datasets = ", ".join(dict.fromkeys(rows["dataset"]))
    stand_in = " (embedded stand-in data)" if (rows["source"] == "embedded").any() else ""
    return f"{datasets}{stand_in}, budget {', '.join(dict.fromkeys(rows['budget']))}"


def _smooth(values: pd.Series) -> pd.Series:
    return values.rolling(max(1, len(values) // 25), min_periods=1, center=True).mean()


def _top(*losses: pd.Series, share: float = 0.97) -> float:
    """Cut the first spikes of a loss, which would flatten all that follows."""
    finite = [loss[np.isfinite(loss)] for loss in losses]  # a diverged training still gets its picture
    return max((float(loss.quantile(share)) for loss in finite if len(loss)), default=1.0) * 1.2 + 1e-3
