"""Figures of the comparison: colour-blind-safe (Okabe and Ito 2008), readable in print, titled, with units."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullLocator, ScalarFormatter
from numpy.typing import NDArray
from PIL import Image

from fewlabel.report.examples import Entry, Episode

COLOURS = {
    "siamese": "#0072B2",
    "prototypes": "#D55E00",
    "nearest_mean": "#E69F00",
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
MARKERS = {"siamese": "o", "prototypes": "s", "nearest_mean": "P", "maml": "^", "reptile": "v"}
MARKERS |= {"scratch": "s", "rotation": "o", "rotation-frozen-early": "^", "rotation-frozen-last": "v"}
MARKERS |= {"finetune": "o", "frozen": "^", "small-scratch": "d", "small-rotation": "v"}
VARIANTS = ("fomaml", "anil", "maml++")  # of MAML; a table has one of them, in its place
COLOURS |= dict.fromkeys(VARIANTS, COLOURS["maml"])
MARKERS |= dict.fromkeys(VARIANTS, MARKERS["maml"])
SPARE, SPARE_MARKER = "#56B4E9", "X"  # of a method that is in neither
RIGHT, WRONG = "#0072B2", "#D55E00"
USUAL_TASKS = ("5w1s", "5w5s", "20w1s", "20w5s")
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
DPI = 130
plt.rcParams.update(
    {
        "figure.dpi": DPI,
        "savefig.dpi": DPI,
        "font.size": 10,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "grid.alpha": 0.3,
        "legend.frameon": False,
    }
)


def save(figure: Figure, path: Path) -> None:
    """Write a small PNG, of 256 colours and without a date, so that equal figures are equal bytes."""
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", bbox_inches="tight", metadata={"Software": None})
    plt.close(figure)
    Image.open(drawn).convert("RGB").quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)


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
        axis.xaxis.set_major_formatter(_percent())
        if part["reference"].notna().any():
            axis.plot([], [], "D", ms=7, mfc="none", mec="#444444", label="published")
            axis.legend(loc="lower right", bbox_to_anchor=(1, 0.97))  # above the panel, clear of the points
        axis.set_title(f"{family}: {_data_note(part)}", loc="left", fontsize=10)
    over = "\n(over seeds where there are several, else over test episodes or images)"
    axes[-1, 0].set_xlabel("accuracy with 95 % interval" + (over if table["seeds"].max() > 1 else ""))
    figure.suptitle("Accuracy by method and protocol", fontweight="bold")
    return figure


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
        colour = _colour(name)
        for axis, what in zip(axes[2 * line : 2 * line + 2, column], ("loss", "accuracy"), strict=True):
            axis.set_visible(True)
            training = curve[["step", what]].dropna()
            axis.plot(
                training["step"],
                _smooth(training[what]),
                color=colour,
                lw=1.5,
                label="training on its own task, smoothed",
            )
            axis.plot(training["step"], training[what], ".", ms=2, color=colour, alpha=0.15, label="each step")
            held_out = curve[["step", f"val_{what}"]].dropna()
            axis.plot(
                held_out["step"],
                held_out[f"val_{what}"],
                "k.-",
                ms=4,
                lw=0.7,
                label="validation: 20w1s, or the task a panel names",
            )
            if column == 0:
                axis.set_ylabel(what)
        axes[2 * line, column].set_title(name, fontsize=10)
        axes[2 * line, column].set_ylim(bottom=0, top=_top(curve["loss"], curve["val_loss"]))
        axes[2 * line + 1, column].yaxis.set_major_formatter(_percent())
        axes[2 * line + 1, column].set_xlabel("meta-training step")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=columns, fontsize=9)
    note = _data_note(table[table["family"] == "few-shot"])
    figure.suptitle(f"Few-shot learning curves\n{note}", fontweight="bold")
    return figure


def rotation_against_supervised(curves: dict[str, pd.DataFrame], cell: str, table: pd.DataFrame) -> Figure:
    """Train and test, loss and accuracy, of every start on one choice of labels, on shared axes.

    Args:
        curves: by start: columns step, train_loss, train_accuracy, test_loss, test_accuracy.
        cell: labels per class and seed, e.g. ``20-0``.
        table: the leaderboard.
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
                    color=_colour(start),
                    marker=_marker(start),
                    ms=4,
                    label=start,
                )
            axis.set_title(f"{part} {what}", fontsize=10)
            axis.set_ylabel(what)
            axis.xaxis.set_major_locator(MaxNLocator(integer=True))
            if what == "accuracy":
                axis.yaxis.set_major_formatter(_percent())
                axis.set_xlabel("training step")
            elif part == "test":
                axis.set_ylim(bottom=0, top=_top(*(curve["test_loss"] for curve in curves.values()), share=0.85))
            else:
                axis.set_ylim(bottom=0)
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    labels, seed = cell.split("-")
    title = f"Rotation pretraining against supervised from scratch: {labels} labels per class, seed {seed}"
    figure.suptitle(f"{title}\n{_data_note(table[table['family'] == 'label-efficiency'])}", weight="bold")
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
        colour, marker = _colour(str(start)), _marker(str(start))
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
    axis.yaxis.set_major_formatter(_percent())
    axis.set_xlabel("labels per class (log scale)")
    axis.set_ylabel("test accuracy: mean over seeds; points: each seed;\nbars: 95 % interval where there is one seed")
    axis.set_title(f"How few labels are enough? {_data_note(table)}", fontsize=10)
    axis.legend()
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
            colour = _colour(row["other"])
            axis.errorbar(
                -100 * row["difference"],
                y,
                xerr=[[100 * above], [100 * below]],
                fmt=_marker(row["other"]),
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
    if differences["other_transductive"].any() or differences["transductive"].any():
        axes[0, 0].plot([], [], "o", color="#444444", label="each query on its own")
        axes[0, 0].plot([], [], "o", color="#444444", mfc="white", label="transductive")
        figure.legend(loc="outside lower center", ncols=2, fontsize=9)
    note = _data_note(table[table["family"] == "few-shot"])
    figure.suptitle(f"Paired differences on the same test episodes, with 95 % interval\n{note}", fontweight="bold")
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
        _training_time_of(place, f"{family}: {_data_note(rows)}", rows, line)
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
                fmt=_marker(method),
                color=_colour(method),
                mfc="white" if row["transductive"] else _colour(method),
                ms=6,
                capsize=3,
                lw=1.2,
            )
            named.setdefault(f"{method}, transductive" if row["transductive"] else method, drawn)
        axis.set_xscale("log")
        axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.xaxis.set_minor_locator(NullLocator())
        axis.xaxis.set_major_formatter(FuncFormatter(lambda seconds, _: f"{seconds:g}"))
        axis.yaxis.set_major_formatter(_percent())
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
        f"{_entry(entry)}: {right} of {of} queries right, {queries} of each class\n"
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
        axis.set_title(f"{_entry(entry)}: {right} of {of} queries right", fontsize=10)
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
    return f"{what}: {episode.split}/{episode.task}{stand_in}"


def _entry(entry: Entry) -> str:
    return f"{entry[0]}, transductive" if entry[1] else entry[0]


def _colour(method: str) -> str:
    """A method's colour; of ``frozen-resnet18``, that of ``frozen``."""
    return COLOURS.get(_known(method, COLOURS), SPARE)


def _marker(method: str) -> str:
    return MARKERS.get(_known(method, MARKERS), SPARE_MARKER)


def _known(method: str, names: dict[str, str]) -> str:
    return max((name for name in names if f"{method}-".startswith(f"{name}-")), key=len, default="")


def _percent() -> FuncFormatter:
    return FuncFormatter(lambda share, _: f"{100 * share:.4g}%")


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
