"""Meta-training, the same for every method: sample, step, look at the validation classes, keep the best."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from fewlabel.errors import UserError
from fewlabel.fewshot import episodes
from fewlabel.fewshot.episodes import Indices
from fewlabel.fewshot.methods.base import Method
from fewlabel.interrupts import signals_wait
from fewlabel.networks.conv4 import as_many
from fewlabel.params import Training
from fewlabel.progress import Progress
from fewlabel.training import device as devices
from fewlabel.training.checkpoint import Checkpoint, finite

CURVE_POINTS = 1000  # about as many as a figure can show
VALIDATION_CHUNK = 50  # episodes


class Log(Protocol):
    def __call__(self, step: int, **numbers: float) -> None: ...


@dataclass(frozen=True)
class Outcome:
    """How a training went.

    Attributes:
        steps: made in all; fewer than asked when it stopped early.
        seconds: that it took, the part before a resumption included.
        rows: (step, loss, accuracy, val_loss, val_accuracy); None where a number was not measured.
    """

    steps: int
    seconds: float
    rows: list[list[float | None]]

    def curve_csv(self) -> str:
        lines = [",".join("" if v is None else f"{v:.6g}" for v in row) for row in self.rows]
        return "\n".join(["step,loss,accuracy,val_loss,val_accuracy", *lines]) + "\n"


def train(
    method: Method,
    table: Tensor,
    validation_table: Tensor,
    validation: Indices,
    settings: Training,
    seed: int,
    name: str = "meta-training",
    checkpoint: Checkpoint | None = None,
    log: Log | None = None,
    stop: Callable[[int], bool] = lambda step: False,
) -> Outcome:
    """Train `method` in place; it ends with the weights of the lowest validation loss.

    Args:
        table, validation_table: drawings, uint8 (classes, drawings, channels, size, size), on the method's device.
        validation: fixed episodes of the validation table.
        checkpoint: where to continue from, and to save to every `settings.checkpoint_every` steps.
        log: called with the numbers of a step, about `CURVE_POINTS` times.
        stop: asked before each step whether to break off, as a kill would.

    Raises:
        UserError: the loss, the validation loss or the model is no longer finite; the last checkpoint is from before.
        KeyboardInterrupt: SIGINT or SIGTERM came; the step under way was ended and saved.
    """
    state: dict[str, Any] = {"step": 0, "rows": [], "best": None, "best_loss": float("inf"), "best_step": 0}
    earlier = 0.0  # seconds spent before the checkpoint
    saved = checkpoint.load() if checkpoint else None
    if saved:
        method.load_state(saved.pop("method"))
        earlier = saved.pop("seconds")
        state = saved
    start = time.perf_counter()
    every = max(1, settings.iterations // CURVE_POINTS)
    with signals_wait() as interrupted, Progress(name, settings.iterations, start=state["step"]) as bar:
        while not _over(state, settings):
            step = state["step"]
            if stop(step):
                break
            generator = episodes.generator(seed, step)
            indices = episodes.sample(method.shape, len(table), table.shape[1], generator)
            indices = indices.part(devices.share())
            support, query = map(episodes.as_float, episodes.gather(table, indices))
            loss, accuracy = method.step(support, query, indices.classes, step / settings.iterations, generator)
            state["step"] = step = step + 1
            bar.update()
            if not math.isfinite(loss.item()):
                raise _diverged("loss", name, step, settings)
            validate = step % settings.validate_every == 0 or step == settings.iterations
            if validate or step % every == 0:
                numbers = {"loss": loss.item(), "accuracy": accuracy.item()}
                if validate:
                    val_loss, val_accuracy = score(method, validation_table, validation)
                    if not math.isfinite(val_loss):  # which is lower than no other, so no weights would be kept
                        raise _diverged("validation loss", name, step, settings)
                    numbers |= {"val_loss": val_loss, "val_accuracy": val_accuracy}
                    if val_loss < state["best_loss"]:
                        best = {key: value.clone() for key, value in method.model.state_dict().items()}
                        state |= {"best": best, "best_loss": val_loss, "best_step": step}
                bar.update(0, **numbers)
                if log:
                    log(step, **numbers)
                state["rows"].append([step, *numbers.values(), *[None] * (4 - len(numbers))])
            stopping = interrupted()
            if checkpoint and (stopping or step % settings.checkpoint_every == 0 or _over(state, settings)):
                if not finite(method.state()):  # since this step's update
                    raise _diverged("model or its optimiser", name, step, settings)
                seconds = earlier + time.perf_counter() - start
                checkpoint.save({**state, "seconds": seconds, "method": method.state()})
            if stopping:
                print(f"{name}: interrupted at step {step}" + (", which is saved" if checkpoint else ""), flush=True)
                raise KeyboardInterrupt
    if state["best"] is not None:
        method.model.load_state_dict(state["best"])
    if not finite(method.model.state_dict()):  # a validation loss can be finite all the same
        raise _diverged("model", name, state["best_step"] or state["step"], settings)
    return Outcome(state["step"], earlier + time.perf_counter() - start, state["rows"])


def _over(state: dict[str, Any], settings: Training) -> bool:
    """Whether all steps are made, or the validation loss has not improved for `patience` steps."""
    since = state["step"] - state["best_step"]
    return state["step"] >= settings.iterations or (settings.patience is not None and since >= settings.patience)


def _diverged(what: str, name: str, step: int, settings: Training) -> UserError:
    rates = {key: value for key, value in settings if key.endswith("_lr") or key == "lr"}
    named = ", ".join(f"{key} {value:g}" for key, value in rates.items() if not isinstance(value, bool))
    return UserError(
        f"{name}: the {what} is no longer finite at step {step} ({named}): lower a learning rate; nothing was written, "
        "and the checkpoint is from before"
    )


def score(method: Method, table: Tensor, indices: Indices) -> tuple[float, float]:
    """Mean validation loss and accuracy over fixed episodes."""
    embedded = method.embed_table(table)
    losses, accuracies = [], []
    for chunk in indices.chunks(as_many(VALIDATION_CHUNK, embedded[0, 0])):
        with torch.no_grad():
            loss, accuracy = method.validate(*episodes.gather(embedded, chunk))
        losses.append(loss)
        accuracies.append(accuracy)
    return torch.cat(losses).mean().item(), torch.cat(accuracies).mean().item()
