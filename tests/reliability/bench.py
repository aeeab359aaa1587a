"""A scratch clone in which single stages run on small embedded data, as processes that can be killed."""

import hashlib
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.pipeline.conftest import Clone

STEPS, EVERY = 24, 4  # of each training, and between its checkpoints
SETTINGS = {
    "cells.metric_methods": ["prototypes"],
    "cells.gradient_methods": ["maml"],
    "cells.tasks": ["5w1s"],
    "cells.label_cells": ["20-0"],
    "cells.frozen_cells": ["20-0"],
    "cells.transfer_seeds": [0],
    "episodes.tasks": ["5w1s"],
    "prototypes.iterations": STEPS,
    "prototypes.checkpoint_every": EVERY,
    "prototypes.validate_every": 6,
    "prototypes.patience": None,
    "finetune.steps": STEPS,
    "finetune.save_every": EVERY,
}


@dataclass(frozen=True)
class Stage:
    """
    Attributes:
        command: as it follows ``python -m stages.``.
        dvc: its name in the DAG.
        out: the file or folder that it leaves.
        after: the stage whose output it reads.
    """

    command: str
    dvc: str
    out: str
    after: str | None = None


STAGES = {
    "download": Stage("download omniglot", "download@omniglot", "data/raw/omniglot"),
    "prepare": Stage("prepare omniglot", "prepare@omniglot", "data/prepared/omniglot.npz", "download"),
    "episodes": Stage("episodes lake", "episodes@lake", "data/episodes/lake", "prepare"),
    "prototypes": Stage(
        "meta_train prototypes lake",
        "metric_train@prototypes-lake-0",
        "results/metric_train/prototypes-lake-0",
        "episodes",
    ),
    "download-cifar10": Stage("download cifar10", "download@cifar10", "data/raw/cifar10"),
    "prepare-cifar10": Stage("prepare cifar10", "prepare@cifar10", "data/prepared/cifar10.npz", "download-cifar10"),
    "finetune": Stage(
        "finetune scratch 20-0", "finetune_scratch@20-0", "results/finetune/scratch-20-0", "prepare-cifar10"
    ),
}


class Bench(Clone):
    """The clone, its params set to the smoke budget, embedded data and `SETTINGS`."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.configure({"budget": "smoke", "data.source": "embedded"} | SETTINGS)

    def start(self, name: str, **environment: str) -> subprocess.Popen[str]:
        """The stage as a process group of its own, whose output can be read."""
        module, *arguments = STAGES[name].command.split()
        return self.popen(["python", "-m", f"stages.{module}", *arguments], **environment)

    def made(self, name: str) -> dict[str, str]:
        """The digests of the stage's result, which is made, with all that it reads, unless it is there."""
        if not self.out(name).exists():
            if before := STAGES[name].after:
                self.made(before)
            ended(self.start(name))
        return self.digests(name)

    def out(self, name: str) -> Path:
        return self.folder / STAGES[name].out

    def digests(self, name: str) -> dict[str, str]:
        """Of each file of the stage's result, but for the one that says how the run went on this machine."""
        out = self.out(name)
        return {
            path.name: hashlib.sha256(path.read_bytes()).hexdigest()
            for path in (out, *out.rglob("*"))
            if path.is_file() and path.name != "run.json"
        }

    def checkpoints(self, pattern: str = "*.pt") -> list[Path]:
        return list((self.folder / ".checkpoints").rglob(pattern))


def ended(process: subprocess.Popen[str], code: int = 0) -> tuple[str, str]:
    """What the stage printed, on stdout and stderr, once it has ended with this exit code."""
    out, err = process.communicate(timeout=600)
    assert process.returncode == code, f"{process.args} ended with {process.returncode}\n{out[-2000:]}\n{err[-2000:]}"
    return out, err


def refused(errors: str, *words: str) -> None:
    """One line for the user, with these words in it."""
    assert errors.startswith("error: "), errors
    assert errors.count("\n") == 1, errors
    for word in words:
        assert word in errors
