"""A scratch clone in which one stage of each kind runs on small embedded data, as a process that can be killed."""

import contextlib
import hashlib
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, get_args

import yaml

from fewlabel import params
from tests.pipeline.conftest import Clone

STEPS, EVERY = 24, 4  # of each training, and between its checkpoints
_TRAINING = {"iterations": STEPS, "checkpoint_every": EVERY, "validate_every": 6, "patience": None}
SETTINGS: dict[str, Any] = {
    "budget": "smoke",
    "data.source": "embedded",
    "cells.metric_methods": ["prototypes"],
    "cells.gradient_methods": ["maml"],
    "cells.tasks": ["5w1s"],
    "cells.label_cells": ["20-0"],
    "cells.transfer_seeds": [0],
    "episodes.tasks": ["5w1s", "20w1s"],
    **{
        f"{method}.{key}": value
        for method in ("siamese", "prototypes", "nearest_mean", "maml", "reptile")
        for key, value in _TRAINING.items()
    },
    # 256 images in batches of 64 are 4 steps an epoch, 20 photographs a class in batches of 16 are 2.5
    **{"pretrain_rotation.epochs": STEPS / 4, "pretrain_rotation.save_every": EVERY / 4},
    **{"finetune.steps": STEPS, "finetune.save_every": EVERY},
    **{f"transfer_from.{start}.epochs": STEPS / 2.5 for start in get_args(params.TransferStart)},
    "transfer.save_every": 2,
}


@dataclass(frozen=True)
class Kind:
    """A stage to run.

    Attributes:
        command: as it follows ``python -m stages.``.
        after: the kinds whose outputs it reads.
        out: what it writes, a file or a folder.
        every: steps between its checkpoints; 0: it has none.
        beside: what it writes elsewhere too.
        persists: whether DVC leaves its outputs in place before it runs it.
    """

    command: str
    after: tuple[str, ...]
    out: str
    every: int = 0
    beside: tuple[str, ...] = ()
    persists: bool = False


KINDS = {
    "download": Kind("download omniglot", (), "data/raw/omniglot"),
    "prepare": Kind("prepare omniglot", ("download",), "data/prepared/omniglot.npz"),
    "episodes": Kind("episodes lake", ("prepare",), "data/episodes/lake"),
    **{
        method: Kind(f"meta_train {method} lake", ("episodes",), f"results/metric_train/{method}-lake-0", EVERY)
        for method in ("siamese", "prototypes", "nearest_mean")
    },
    **{
        method: Kind(
            f"meta_train {method} lake --task 5w1s", ("episodes",), f"results/meta_train/{method}-lake-5w1s-0", EVERY
        )
        for method in ("maml", "reptile")
    },
    "evaluate": Kind("evaluate prototypes lake", ("prototypes",), "results/evaluate/prototypes-lake-0"),
    "evaluate-maml": Kind("evaluate maml lake --task 5w1s", ("maml",), "results/evaluate/maml-lake-5w1s-0"),
    "download-cifar10": Kind("download cifar10", (), "data/raw/cifar10"),
    "prepare-cifar10": Kind("prepare cifar10", ("download-cifar10",), "data/prepared/cifar10.npz"),
    "pretrain_rotation": Kind("pretrain_rotation", ("prepare-cifar10",), "results/pretrain_rotation", EVERY),
    **{
        f"finetune-{start}": Kind(
            f"finetune {start} 20-0",
            ("prepare-cifar10",) if start == "scratch" else ("pretrain_rotation",),
            f"results/finetune/{start}-20-0",
            EVERY,
        )
        for start in ("scratch", "rotation", "rotation-frozen-early", "rotation-frozen-last")
    },
    "download-hymenoptera": Kind("download hymenoptera", (), "data/raw/hymenoptera"),
    "prepare-hymenoptera": Kind("prepare hymenoptera", ("download-hymenoptera",), "data/prepared/hymenoptera.npz"),
    "transfer_features": Kind("transfer_features", ("prepare-hymenoptera",), "results/transfer_features"),
    **{
        f"transfer-{start}": Kind(f"transfer {start}", (after,), f"results/transfer/{start}-0", 5)
        for start, after in (
            ("scratch", "prepare-hymenoptera"),
            ("finetune", "prepare-hymenoptera"),
            ("small-scratch", "prepare-hymenoptera"),
            ("frozen", "transfer_features"),
        )
    },
    "transfer-small-rotation": Kind(
        "transfer small-rotation", ("pretrain_rotation", "prepare-hymenoptera"), "results/transfer/small-rotation-0", 5
    ),
}
KINDS["compare"] = Kind(
    "compare",
    tuple(name for name in KINDS if name.startswith(("evaluate", "finetune", "transfer"))),
    "metrics",
    beside=("reports",),
    persists=True,
)


class Bench(Clone):
    """The clone, its params set to `SETTINGS`."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.configure(**SETTINGS)

    def configure(self, **values: Any) -> None:
        """Set values of params.yaml by their dotted names; the comments go."""
        path = self.folder / "params.yaml"
        raw = yaml.safe_load(path.read_text())
        for name, value in values.items():
            *sections, key = name.split(".")
            section = raw
            for each in sections:
                section = section[each]
            section[key] = value
        path.write_text(yaml.safe_dump(raw))

    def start(self, name: str, steps: Path | None = None, **environment: str) -> subprocess.Popen[str]:
        """The stage as a process group of its own; `steps`: the file that takes the number of each step it makes."""
        module, *arguments = KINDS[name].command.split()
        counted = ["tests.reliability.counted", str(steps)] if steps else []
        return self.popen(["python", "-m", *counted, f"stages.{module}", *arguments], **environment)

    def popen(self, command: list[str], log: IO[str] | None = None, **environment: str) -> subprocess.Popen[str]:
        """Start a command in the clone; `log` takes what it says, else a pipe each for stdout and stderr."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("FEWLABEL", "MLFLOW", "DVC_", "GIT_"))}
        kept["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{kept['PATH']}"
        return subprocess.Popen(
            command,
            cwd=self.folder,
            env=kept | {"FEWLABEL_TRACKING": "off"} | environment,
            stdin=subprocess.DEVNULL,
            stdout=log or subprocess.PIPE,
            stderr=log or subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def ready(self, name: str) -> None:
        """Run what the stage comes after, unless it is there."""
        for before in KINDS[name].after:
            if not self.out(before).exists() or before == "compare":
                self.ready(before)
                ended(self.start(before))

    def out(self, name: str) -> Path:
        return self.folder / KINDS[name].out

    def clear(self, name: str) -> None:
        """Delete what the stage left, as DVC does before it runs one; but for outputs that persist."""
        out = self.out(name)
        if KINDS[name].persists:
            return
        if out.is_dir():
            shutil.rmtree(out)
        out.unlink(missing_ok=True)

    def digests(self, name: str) -> dict[str, str]:
        """Of each file of the stage's result, but for those that say how the run went on this machine."""
        outs = [self.out(name), *(self.folder / beside for beside in KINDS[name].beside)]
        files = [path for out in outs for path in (out, *out.rglob("*")) if path.is_file()]
        return {
            str(path.relative_to(self.folder)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(files)
            if path.name not in ("run.json", "runs.json") and "/." not in str(path.relative_to(self.folder))
        }

    def half_made(self, name: str) -> list[Path]:
        """Drafts and temporary files of the stage's result: `compare` makes its own within, all others beside it."""
        out = self.out(name)
        return [*out.parent.glob(f".{out.name}.*"), *out.glob(".draft-*"), *out.glob(".made")]


def ended(process: subprocess.Popen[str], code: int = 0) -> tuple[str, str]:
    """What the stage printed, on stdout and stderr, once it has ended with this exit code."""
    out, err = process.communicate(timeout=600)
    assert process.returncode == code, f"{process.args} ended with {process.returncode}\n{out[-2000:]}\n{err[-2000:]}"
    return out, err


def signalled(process: subprocess.Popen[str], seconds: float, number: int = signal.SIGKILL) -> bool:
    """Signal the process group after some seconds, and wait for its end; whether it was still there."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.communicate(timeout=seconds)
        return False
    os.killpg(process.pid, number)
    return process.wait(timeout=600) != 0
