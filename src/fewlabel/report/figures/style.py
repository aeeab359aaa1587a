"""What all figures share: readable in print, colours that the colour-blind tell apart (Okabe and Ito 2008), a note on
the data."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any, get_args

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator
from PIL import Image

from fewlabel.params import METHODS, TransferStart
from fewlabel.results import FINETUNED

PALETTE = ("#0072B2", "#D55E00", "#E69F00", "#56B4E9", "#009E73", "#CC79A7", "#999999", "#5E3C99")
SHAPES = "osPX^vd<"
SCRATCH = ("#000000", ">")  # without pretraining: what the others of its family are compared with
# A method's colour and marker follow from its place in its family.
STYLES = {
    name: (PALETTE[place % len(PALETTE)], SHAPES[place % len(SHAPES)])
    for family in (METHODS, FINETUNED[1:], get_args(TransferStart)[1:])
    for place, name in enumerate(family)
}
STYLES["scratch"] = SCRATCH
STYLES["scratch-resnet18"] = ("#999999", "<")
STYLES["maml++"] = STYLES["maml"]
UNKNOWN = ("#999999", "*")
RIGHT, WRONG = "#0072B2", "#D55E00"
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
    """Write a small PNG of 256 colours, or for photographs a JPEG; without a date, so that equal figures are equal
    bytes."""
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", bbox_inches="tight", metadata={"Software": None})
    plt.close(figure)
    image = Image.open(drawn).convert("RGB")
    if path.suffix == ".jpg":
        image.save(path, quality=82, optimize=True)
    else:
        image.quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)


def style(method: str) -> tuple[str, str]:
    """Colour and marker of a method; of ``frozen-resnet18``, those of ``frozen``."""
    known = [name for name in STYLES if f"{method}-".startswith(f"{name}-")]
    return STYLES[max(known, key=len)] if known else UNKNOWN


def point(axis: Axes, x: float, y: float, method: str, transductive: bool, **bars: Any) -> Any:
    """A point with error bars (``xerr`` or ``yerr``) in the method's colour and marker; hollow: transductive."""
    colour, marker = style(method)
    face = "white" if transductive else colour
    return axis.errorbar(x, y, fmt=marker, ms=6, color=colour, mfc=face, capsize=3, lw=1.4, **bars)


def bar(row: Any) -> list[list[float]]:
    """The interval of a row of the leaderboard as lengths below and above its value."""
    return [[row["value"] - row["ci95_low"]], [row["ci95_high"] - row["value"]]]


def entry(method: str, transductive: bool) -> str:
    """``maml, transductive``."""
    return f"{method}, transductive" if transductive else method


def percent() -> FuncFormatter:
    return FuncFormatter(lambda share, _: f"{100 * share:.4g}%")


def log_seconds(axis: Axes) -> None:
    """A log axis with plain numbers."""
    axis.set_xscale("log")
    axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.xaxis.set_major_formatter(FuncFormatter(lambda seconds, _: f"{seconds:g}"))


def data_note(rows: pd.DataFrame) -> str:
    datasets = ", ".join(dict.fromkeys(rows["dataset"]))
    stand_in = " (embedded stand-in data)" if (rows["source"] == "embedded").any() else ""
    return f"{datasets}{stand_in}, budget {', '.join(dict.fromkeys(rows['budget']))}"


def smooth(values: pd.Series) -> pd.Series:
    return values.rolling(max(1, len(values) // 25), min_periods=1, center=True).mean()


def top(*losses: pd.Series, share: float = 0.97) -> float:
    """Cut the first spikes of a loss, which would flatten all that follows."""
    finite = [loss[np.isfinite(loss)] for loss in losses]  # a diverged training still gets its picture
    return max((float(loss.quantile(share)) for loss in finite if len(loss)), default=1.0) * 1.2 + 1e-3
