"""Few-shot learning: curves, and paired differences."""

from __future__ import annotations

import matplotlib.pyplot as plt
import pandas as pd
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
        colour = style.colour(name)
        for axis, what in zip(axes[2 * line : 2 * line + 2, column], ("loss", "accuracy"), strict=True):
            axis.set_visible(True)
            training = curve[["step", what]].dropna()
            axis.plot(
                training["step"],
                style.smooth(training[what]),
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
        axes[2 * line, column].set_ylim(bottom=0, top=style.top(curve["loss"], curve["val_loss"]))
        axes[2 * line + 1, column].yaxis.set_major_formatter(style.percent())
        axes[2 * line + 1, column].set_xlabel("meta-training step")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=columns, fontsize=9)
    note = style.data_note(table[table["family"] == "few-shot"])
    figure.suptitle(f"Few-shot learning curves\n{note}", fontweight="bold")
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
            colour = style.colour(row["other"])
            axis.errorbar(
                -100 * row["difference"],
                y,
                xerr=[[100 * above], [100 * below]],
                fmt=style.marker(row["other"]),
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
    note = style.data_note(table[table["family"] == "few-shot"])
    figure.suptitle(f"Paired differences on the same test episodes, with 95 % interval\n{note}", fontweight="bold")
    return figure
