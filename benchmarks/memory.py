"""Peak memory of one training step at growing meta-batches: it must not grow faster than the meta-batch.

Every cell is a fresh process. On a CPU the figure is the high-water mark of the resident memory (Linux's VmHWM) beyond
what the process held before its first step; on a GPU, what torch allocated at most beyond that. A step of the Siamese
network has no meta-batch; its row takes four classes a task, and its pairs grow with the square of that.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from benchmarks import common
from benchmarks.common import Row
from fewlabel import params
from fewlabel.fewshot import episodes
from fewlabel.fewshot.methods import base
from fewlabel.training import device as devices

METHODS, META_BATCHES = ("maml", "reptile", "siamese"), (4, 8, 16, 32)
WAY, SHOT = 5, 1
SIAMESE_CLASSES = 4  # for each task of the meta-batch
STEPS = 2  # the second one finds the first one's leftovers


def peak(method: str, meta_batch: int, device: torch.device) -> float:
    """MiB that `STEPS` training steps add, at their highest; in a process that does nothing else."""
    batch: dict[str, Any] = {"meta_batch": meta_batch}
    if method == "siamese":
        batch = {"classes": SIAMESE_CLASSES * meta_batch}
    settings = getattr(params.load(), method).model_copy(update=batch)
    learner = base.create(method, settings, base.Problem(WAY, SHOT, classes=100), device, seed=0)
    shape = learner.shape
    table = torch.randint(256, (max(shape.way, 100), 20, 1, 28, 28), dtype=torch.uint8, device=device)
    before = _mib(device, "VmRSS")
    for step in range(STEPS):
        generator = episodes.generator(0, step)
        indices = episodes.sample(shape, len(table), table.shape[1], generator)
        support, query = map(episodes.as_float, episodes.gather(table, indices))
        learner.step(support, query, indices.classes, 0.0, generator)
    return _mib(device, "VmHWM") - before


def _mib(device: torch.device, entry: str) -> float:
    """Of this process: on a CPU the `entry` of Linux's /proc/self/status, on a GPU what torch allocated at most."""
    if device.type == "cuda":
        return devices.peak_memory_mib(device) or 0.0
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{entry}:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"/proc/self/status has no {entry}")


def in_fresh_process(method: str, meta_batch: int, device: str) -> float:
    command = [sys.executable, "-m", "benchmarks.memory", "--cell", method, str(meta_batch), "--device", device]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return float(json.loads(said.splitlines()[-1]))  # a GPU's is not all: this process has taken it already


def measure(device: torch.device, meta_batches: tuple[int, ...] = META_BATCHES) -> list[Row]:
    rows = []
    for method in METHODS:
        mib = [in_fresh_process(method, size, device.type) for size in meta_batches]
        row: Row = {"method": method}
        row |= {f"MiB at {size}": figure for size, figure in zip(meta_batches, mib, strict=True)}
        rows.append({**row, "growth": mib[-1] / mib[0], "growth_limit": meta_batches[-1] / meta_batches[0]})
    return rows


def main() -> None:
    parser = common.parser(__doc__)
    parser.add_argument("--cell", nargs=2, metavar=("METHOD", "META_BATCH"), help="one cell in this process, as JSON")
    arguments = parser.parse_args()
    device = common.start(arguments.device)
    if arguments.cell:
        print(json.dumps(peak(arguments.cell[0], int(arguments.cell[1]), device)))
    else:
        common.report("memory", measure(device), device, 1, arguments.save)


if __name__ == "__main__":
    main()
