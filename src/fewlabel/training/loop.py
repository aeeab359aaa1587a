"""The one training loop of all families: steps, the curve, checkpoints, signals, progress, checks for finite numbers.

A step depends on nothing but its number and the state before it, so a resumed training repeats the undisturbed one
exactly.
"""

from __future__ import annotations

import csv
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch

from fewlabel.errors import UserError
from fewlabel.interrupts import signals_wait
from fewlabel.progress import Progress
from fewlabel.training.checkpoint import Checkpoint

Row = dict[str, float]  # a point of the curve: numbers by name


class Learner(Protocol):
    """What is trained, and how."""

    def step(self, done: int) -> float:
        """Make one update after ``done`` others; → its loss."""

    def measure(self, done: int) -> Row:
        """The curve's numbers after ``done`` updates; empty where the curve has no point."""

    def satisfied(self, done: int) -> bool:
        """Whether to stop before the last step."""

    def rates(self, done: int) -> Row:
        """The learning rates by name, for the message of a training that diverged."""

    def state(self) -> dict[str, Any]:
        """All that the next steps depend on: tensors and plain values."""

    def load_state(self, state: dict[str, Any]) -> None: ...


@dataclass(frozen=True)
class Settings:
    """Steps are updates."""

    steps: int
    save_every: int


@dataclass
class Outcome:
    """How far a training is, and in the end how it went."""

    steps: int = 0  # made
    stopped_early: bool = False  # the learner was satisfied before the last step
    seconds: float = 0.0  # of all runs that took part, when it was interrupted
    curve: list[Row] = field(default_factory=list)


def train(
    learner: Learner,
    settings: Settings,
    name: str = "training",
    checkpoint: Checkpoint | None = None,
    log: Callable[..., None] = lambda step, **numbers: None,
) -> Outcome:
    """Train the learner in place, from the checkpoint if there is one.

    Args:
        log: called with a step and the curve's numbers.

    Raises:
        UserError: a loss or the learner's state is no longer finite; the last checkpoint is from before.
        KeyboardInterrupt: SIGINT or SIGTERM came; the step under way was ended and saved.
    """
    outcome = Outcome()
    if checkpoint and (saved := checkpoint.load()):
        learner.load_state(saved["learner"])
        outcome = Outcome(**saved["outcome"])
    began = time.monotonic() - outcome.seconds

    def over() -> bool:
        return outcome.steps >= settings.steps or learner.satisfied(outcome.steps)

    def check(what: str, finite: bool) -> None:
        if not finite:
            rates = ", ".join(f"{key} {rate:.3g}" for key, rate in learner.rates(outcome.steps - 1).items())
            raise UserError(
                f"{name}: the {what} is no longer finite at step {outcome.steps} ({rates}): lower a learning rate; "
                "nothing was written, and the checkpoint is from before"
            )

    with signals_wait() as interrupted, Progress(name, settings.steps, outcome.steps) as bar:
        while not over():
            loss = learner.step(outcome.steps)
            outcome.steps += 1
            check("loss", math.isfinite(loss))
            if row := learner.measure(outcome.steps):
                for key, value in row.items():
                    check(key, math.isfinite(value))
                outcome.curve.append({"step": outcome.steps} | row)
                log(outcome.steps, **row)
            outcome.seconds = time.monotonic() - began
            stopping, ended = interrupted(), over()
            if stopping or ended or outcome.steps % settings.save_every == 0:
                state = learner.state()
                check("state of the model", finite(state))  # since this update; the loss does not show it
                if checkpoint:
                    checkpoint.save({"learner": state, "outcome": asdict(outcome)})
            if stopping and not ended:
                saved_too = ", which is saved" if checkpoint else ""
                print(f"{name}: interrupted at step {outcome.steps}{saved_too}", flush=True)
                raise KeyboardInterrupt
            bar.update(1, **{"loss": loss} | row)
    outcome.stopped_early = outcome.steps < settings.steps
    return outcome


def finite(state: Any) -> bool:
    """Whether all floating-point tensors in nested dictionaries and lists are."""
    if isinstance(state, torch.Tensor):
        return not state.is_floating_point() or bool(state.isfinite().all())
    if isinstance(state, dict):
        return all(map(finite, state.values()))
    return not isinstance(state, list) or all(map(finite, state))


def write_curve(path: Path, curve: list[Row]) -> None:
    """curve.csv, one line a point; empty where a point lacks a number that others have."""
    columns = dict.fromkeys(key for row in curve for key in row)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(columns), lineterminator="\n")
        writer.writeheader()
        writer.writerows({key: f"{value:.6g}" for key, value in row.items()} for row in curve)
