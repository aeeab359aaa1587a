"""What the benchmarks share: data without network, timing in turns, the table, the machine's facts."""

from __future__ import annotations

import argparse
import functools
import json
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.testing import assert_close
from torch.utils.flop_counter import FlopCounterMode

from fewlabel.data import archives as reading
from fewlabel.data import omniglot
from fewlabel.data import standins as embedded
from fewlabel.errors import UserError
from fewlabel.params import Network
from fewlabel.training import device as devices

RESULTS = Path(__file__).parent / "results"
Row = dict[str, Any]  # a line of the table


def network(width: int, downsample: Literal["stride", "pool"]) -> Network:
    """As many channels in each block."""
    return Network(widths=[width] * 4, downsample=downsample)


def alternate(functions: dict[str, Callable[[], object]], repeats: int, device: torch.device) -> dict[str, float]:
    """Median seconds of each function over `repeats` rounds in which they take turns, so that what else the machine
    does meets all of them alike. One round more, first, is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(repeats + 1):
        for name, function in functions.items():
            _synchronize(device)
            start = time.perf_counter()
            function()
            _synchronize(device)
            seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(each[1:]) for name, each in seconds.items()}


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def close(what: str, ours: Tensor, expected: Tensor, rtol: float = 1e-5, atol: float = 1e-7) -> None:
    """Raise `AssertionError` naming `what` unless both are close; they may differ in precision."""

    def named(message: str) -> str:
        return f"{what}: {message}"

    assert_close(ours, expected, rtol=rtol, atol=atol, check_dtype=False, check_device=False, msg=named)


def against(case: str, reference: float, ours: float, target: float | None = None, **more: Any) -> Row:
    """A row of the table: `reference` and `ours` in seconds of the same work; the ratio that `ours` aims at."""
    return {"case": case, "reference_s": reference, "ours_s": ours, "ratio": reference / ours, "target": target, **more}


def operations(function: Callable[[], object]) -> int:
    """Floating-point operations of its convolutions and matrix products, as torch counts them: the two of a multiply
    and add, products with padding too. (Of grouped convolutions it counts too many.)"""
    with FlopCounterMode(display=False) as counter:
        function()
    return counter.get_total_flops()


PRODUCT = 1024  # rows and columns


def product(device: torch.device) -> Callable[[], object]:
    """A large matrix product, as fast as this machine multiplies: to be timed in turns with the rest."""
    matrix = torch.ones(PRODUCT, PRODUCT, device=device)
    return lambda: matrix @ matrix


def limit(reference: float, operations: int, product: float) -> float:
    """The ratio against `reference` seconds of a program that does nothing but these operations, as fast as the large
    matrix product that took `product` seconds."""
    return reference / (operations / (2 * PRODUCT**3 / product))


def parser(doc: str | None) -> argparse.ArgumentParser:
    """The options that every benchmark has."""
    made = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    made.add_argument("--save", action="store_true", help="write benchmarks/results/<name>-<device>.json")
    return made


def main(name: str, doc: str | None, check: Callable[[Any], None], measure: Callable[[Any, int], list[Row]]) -> None:
    """Check that both sides compute the same, time them, print, save."""
    options = parser(doc)
    options.add_argument("--repeats", type=int, default=5, help="rounds, of which the median counts")
    arguments = options.parse_args()
    device = start(arguments.device)
    check(device)
    print(f"{name}: both sides compute the same")
    report(name, measure(device, arguments.repeats), device, arguments.repeats, arguments.save)


def start(name: str) -> torch.device:
    """The device; exits with one line when there is none of that name."""
    try:
        return devices.pick(name)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


def report(name: str, rows: list[Row], device: torch.device, repeats: int, save: bool) -> None:
    """Print a table of `rows` (all with the same keys) under the facts of the machine; write them when asked."""
    facts = {
        "device": devices.describe(device),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "repeats": repeats,
    }
    print(f"\n{name}: " + ", ".join(f"{key} {value}" for key, value in facts.items()))
    cells = [list(rows[0]), *([_shown(value) for value in row.values()] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for line in cells:
        print("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)))
    if save:
        RESULTS.mkdir(exist_ok=True)
        path = RESULTS / f"{name}-{device.type}.json"
        path.write_text(json.dumps({**facts, "rows": rows}, indent=1) + "\n", encoding="utf-8")
        print(f"written to {path}")


def _shown(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


@functools.cache
def archives() -> Path:
    """A folder with the embedded stand-in of Omniglot's archives; it lives as long as this process."""
    folder = tempfile.TemporaryDirectory(prefix="fewlabel-benchmark-")
    _KEPT.append(folder)
    embedded.DRAW["omniglot"](Path(folder.name))
    return Path(folder.name)


def unpack(archive: Path, folder: Path) -> None:
    """The PNG files of an archive as files, for the references that read files."""
    for name, content in reading.members(archive, r".+\.png"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


_KEPT: list[tempfile.TemporaryDirectory[str]] = []


@functools.cache
def glyphs() -> NDArray[np.uint8]:
    """The stand-in drawings, prepared as the real ones are: uint8 (104 characters, 20, 28, 28)."""
    return np.asarray(omniglot.pack(archives(), "embedded")["images"], dtype=np.uint8)


def glyph_table(classes: int, device: torch.device) -> Tensor:
    """The stand-in drawings over and over, as many classes as asked: uint8 (classes, 20, 1, 28, 28)."""
    images = glyphs()
    return torch.from_numpy(images[np.arange(classes) % len(images)]).unsqueeze(2).to(device)
