"""The one training loop of rotation pretraining, finetuning and transfer: SGD with Nesterov momentum.

The learning rate rises linearly over the first tenth of the steps and falls to zero along half a cosine
(Loshchilov, Hutter: SGDR, ICLR 2017). A step's batch depends on nothing but the step, so a resumed training repeats
the undisturbed one exactly.
"""

from __future__ import annotations

import csv
import math
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fewlabel.errors import UserError
from fewlabel.interrupts import signals_wait
from fewlabel.progress import Progress
from fewlabel.training import device
from fewlabel.training.checkpoint import Checkpoint, finite
from fewlabel.training.losses import Loss


@dataclass(frozen=True)
class Recipe:
    """How a training goes. Steps are optimiser steps."""

    steps: int
    lr: float  # at its highest
    momentum: float
    weight_decay: float
    evaluate_every: int
    save_every: int
    target_accuracy: float | None = None  # stop once a test accuracy on the curve reaches it
    steps_per_epoch: float = 1.0  # only to write epochs beside steps


@dataclass
class Point:
    """A point of the curve: training numbers are means since the point before, with augmentation."""

    step: int
    epoch: float
    train_loss: float
    train_accuracy: float
    test_loss: float
    test_accuracy: float


@dataclass
class Training:
    """What `train` reports."""

    curve: list[Point] = field(default_factory=list)
    steps: int = 0  # done; fewer than the recipe's when the target was reached
    seconds: float = 0.0  # of all the runs that took part


def learning_rate(step: int, recipe: Recipe) -> float:
    """The learning rate of step 0 … steps − 1."""
    warm_up = max(1, round(recipe.steps * 0.1))
    if step < warm_up:
        return recipe.lr * (step + 1) / warm_up
    return recipe.lr * (1 + math.cos(math.pi * (step - warm_up) / max(1, recipe.steps - warm_up))) / 2


def train(
    network: nn.Module,
    batch: Callable[[int], tuple[Tensor, Tensor]],
    measure: Callable[[nn.Module], tuple[float, float]],
    recipe: Recipe,
    loss: Loss = F.cross_entropy,
    checkpoint: Checkpoint | None = None,
    name: str = "training",
    log: Callable[..., None] = lambda step, **numbers: None,
) -> Training:
    """Train in place.

    Args:
        network: inputs → logits; already on its device. Parameters without ``requires_grad`` do not move.
        batch: step → (inputs, labels), a function of the step alone.
        measure: network → (loss, accuracy) on test images, for the curve.
        log: called with a step and numbers, e.g. `tracking.Run.log`.

    Raises:
        UserError: a loss or the weights are no longer finite; the last checkpoint is from before.
        KeyboardInterrupt: SIGINT or SIGTERM came; the step under way was ended and saved.
    """
    moving = [parameter for parameter in network.parameters() if parameter.requires_grad]
    optimiser = torch.optim.SGD(
        moving,
        lr=recipe.lr,
        momentum=recipe.momentum,
        weight_decay=recipe.weight_decay,
        nesterov=recipe.momentum > 0,
        fused=True,
    )
    network.to(memory_format=torch.channels_last)  # see `forward`
    training, sums = Training(), [0.0, 0.0, 0]  # loss, right answers, images since the last point
    if checkpoint and (state := checkpoint.load()):
        network.load_state_dict(state["network"])
        optimiser.load_state_dict(state["optimiser"])
        training = Training([Point(**point) for point in state["curve"]], state["steps"], state["seconds"])
        sums = state["sums"]
    began = time.monotonic() - training.seconds
    network.train()
    with signals_wait() as interrupted, Progress(name, recipe.steps, training.steps) as bar:
        while not _over(training, recipe):
            optimiser.param_groups[0]["lr"] = learning_rate(training.steps, recipe)
            inputs, labels = batch(training.steps)
            logits = forward(network, inputs)
            value = loss(logits, labels)
            if not math.isfinite(value.item()):
                raise _diverged(name, f"the loss is {value.item()}", training.steps + 1, recipe)
            optimiser.zero_grad(set_to_none=True)
            value.backward()
            optimiser.step()
            sums[0] += value.item() * len(labels)
            sums[1] += (logits.argmax(1) == labels).sum().item()
            sums[2] += len(labels)
            training.steps += 1
            if training.steps == recipe.steps or training.steps % recipe.evaluate_every == 0:
                training.curve.append(_point(training.steps, recipe, sums, measure(network)))
                if not math.isfinite(training.curve[-1].test_loss):
                    raise _diverged(name, f"the test loss is {training.curve[-1].test_loss}", training.steps, recipe)
                sums = [0.0, 0.0, 0]
                network.train()
                log(**asdict(training.curve[-1]))
            training.seconds = time.monotonic() - began
            stopping, over = interrupted(), _over(training, recipe)
            saving = stopping or over or training.steps % recipe.save_every == 0
            # Since this update; the momentum is finite where what it moved is.
            if saving and not finite(network.state_dict()):
                raise _diverged(name, "the weights are no longer finite", training.steps, recipe)
            if checkpoint and saving:
                checkpoint.save(_state(network, optimiser, training, sums))
            if stopping and not over:
                saved = ", which is saved" if checkpoint else ""
                print(f"{name}: interrupted at step {training.steps}{saved}", flush=True)
                raise KeyboardInterrupt
            bar.update(1, loss=value.item(), lr=learning_rate(training.steps - 1, recipe))
    network.eval()
    return training


def _diverged(name: str, what: str, step: int, recipe: Recipe) -> UserError:
    """``step`` counts from 1."""
    return UserError(
        f"{name}: {what} at step {step}, learning rate {learning_rate(step - 1, recipe):.3g}: lower the learning rate; "
        "nothing was written, and the checkpoint is from before"
    )


def _over(training: Training, recipe: Recipe) -> bool:
    """Whether all steps are made, or the target is reached."""
    if training.steps >= recipe.steps:
        return True
    target = recipe.target_accuracy
    return target is not None and bool(training.curve) and training.curve[-1].test_accuracy >= target


def _point(step: int, recipe: Recipe, sums: list[float], test: tuple[float, float]) -> Point:
    return Point(step, step / recipe.steps_per_epoch, sums[0] / sums[2], sums[1] / sums[2], *test)


def _state(network: nn.Module, optimiser: torch.optim.SGD, training: Training, sums: list[float]) -> dict[str, Any]:
    return {
        "network": network.state_dict(),
        "optimiser": optimiser.state_dict(),
        "sums": sums,
        **asdict(training),
    }


def forward(network: nn.Module, inputs: Tensor) -> Tensor:
    """Logits, float32, computed the fast way.

    Images run channels last and at the device's precision.
    """
    if inputs.dim() == 4:
        inputs = inputs.contiguous(memory_format=torch.channels_last)
    with device.autocast(inputs.device):
        return network(inputs).float()


@torch.no_grad()
def predict(network: nn.Module, batches: Iterable[Tensor]) -> Tensor:
    """Logits (n, classes) on the CPU, in evaluation mode."""
    network.eval()
    return torch.cat([forward(network, inputs).cpu() for inputs in batches])


def loss_and_accuracy(logits: Tensor, labels: Tensor) -> tuple[float, float]:
    """Mean cross-entropy and the share of right answers."""
    labels = labels.cpu().long()
    return F.cross_entropy(logits, labels).item(), (logits.argmax(1) == labels).float().mean().item()


def tensors(network: nn.Module) -> dict[str, Tensor]:
    """The weights as safetensors takes them."""
    return {name: value.detach().cpu().contiguous() for name, value in network.state_dict().items()}


def write_curve(path: Path, curve: list[Point]) -> None:
    """curve.csv, one line a point."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(Point.__dataclass_fields__), lineterminator="\n")
        writer.writeheader()
        writer.writerows({key: f"{value:.6g}" for key, value in asdict(point).items()} for point in curve)
