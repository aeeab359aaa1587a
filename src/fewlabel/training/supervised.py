"""Supervised training, as pretraining, label efficiency and transfer do it: SGD with Nesterov momentum.

The learning rate rises linearly over the first tenth of the steps and falls to zero along half a cosine
(Loshchilov, Hutter: SGDR, ICLR 2017). Focal loss: Lin, Goyal, Girshick, He, Dollár: Focal Loss for Dense Object
Detection, ICCV 2017.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fewlabel.training import device, loop
from fewlabel.training.checkpoint import Checkpoint

Loss = Callable[[Tensor, Tensor], Tensor]


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


def in_epochs(settings: Any, epochs: float, lr: float, images: int) -> Recipe:
    """The recipe of a section of params.yaml that counts in epochs, of so many training images."""
    per_epoch = images / settings.batch_size

    def steps(epochs: float) -> int:
        return max(1, round(epochs * per_epoch))

    return Recipe(
        steps=steps(epochs),
        lr=lr,
        momentum=settings.momentum,
        weight_decay=settings.weight_decay,
        evaluate_every=steps(settings.evaluate_every),
        save_every=steps(settings.save_every),
        steps_per_epoch=per_epoch,
    )


def learning_rate(step: int, recipe: Recipe) -> float:
    """The learning rate of step 0 … steps − 1."""
    warm_up = max(1, round(recipe.steps * 0.1))
    if step < warm_up:
        return recipe.lr * (step + 1) / warm_up
    return recipe.lr * (1 + math.cos(math.pi * (step - warm_up) / max(1, recipe.steps - warm_up))) / 2


def best_is_right(logits: Tensor, labels: Tensor) -> Tensor:
    """Whether the highest logit is the label's, (n,)."""
    return logits.argmax(1) == labels


def train(
    network: nn.Module,
    batch: Callable[[int], tuple[Tensor, Tensor]],
    measure: Callable[[nn.Module], tuple[float, float]],
    recipe: Recipe,
    loss: Loss = F.cross_entropy,
    name: str = "training",
    checkpoint: Checkpoint | None = None,
    log: Callable[..., None] = lambda step, **numbers: None,
    right: Loss = best_is_right,
) -> loop.Outcome:
    """Train in place by `loop.train`, which see for what is raised.

    Args:
        network: inputs → logits; already on its device. Parameters without ``requires_grad`` do not move.
        batch: step → (inputs, labels), a function of the step alone.
        measure: network → (loss, accuracy) on test images, for the curve.
        right: outputs and labels → whether each is right, for the curve.
    """
    learner = Supervised(network, batch, measure, recipe, loss, right)
    outcome = loop.train(learner, loop.Settings(recipe.steps, recipe.save_every), name, checkpoint, log)
    network.eval()
    return outcome


class Supervised(loop.Learner):
    """A network that learns labelled batches. Rows of its curve have the training's loss and accuracy as means since
    the row before, with augmentation, and the test's."""

    def __init__(
        self,
        network: nn.Module,
        batch: Callable[[int], tuple[Tensor, Tensor]],
        measure: Callable[[nn.Module], tuple[float, float]],
        recipe: Recipe,
        loss: Loss,
        right: Loss = best_is_right,
    ) -> None:
        self.network = network.to(memory_format=torch.channels_last)  # see `forward`
        self.batch, self.test, self.recipe, self.loss, self.right = batch, measure, recipe, loss, right
        moving = [parameter for parameter in network.parameters() if parameter.requires_grad]
        nesterov = recipe.momentum > 0
        self.optimiser = torch.optim.SGD(
            moving, recipe.lr, recipe.momentum, weight_decay=recipe.weight_decay, nesterov=nesterov, fused=True
        )
        self.sums = [0.0, 0.0, 0]  # loss, right answers, images since the last row
        self.test_accuracy = 0.0  # of the last row

    def step(self, done: int) -> float:
        self.network.train()
        self.optimiser.param_groups[0]["lr"] = learning_rate(done, self.recipe)
        inputs, labels = self.batch(done)
        logits = forward(self.network, inputs)
        loss = self.loss(logits, labels)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        self.optimiser.step()
        right = self.right(logits, labels).sum().item()
        new = (loss.item() * len(labels), right, len(labels))
        self.sums = [total + number for total, number in zip(self.sums, new, strict=True)]
        return loss.item()

    def measure(self, done: int) -> loop.Row:
        if done != self.recipe.steps and done % self.recipe.evaluate_every:
            return {}
        loss, right, images = self.sums
        self.sums = [0.0, 0.0, 0]
        test_loss, self.test_accuracy = self.test(self.network)
        return {
            "epoch": done / self.recipe.steps_per_epoch,
            "train_loss": loss / images,
            "train_accuracy": right / images,
            "test_loss": test_loss,
            "test_accuracy": self.test_accuracy,
        }

    def satisfied(self, done: int) -> bool:
        return self.recipe.target_accuracy is not None and self.test_accuracy >= self.recipe.target_accuracy

    def rates(self, done: int) -> loop.Row:
        return {"lr": learning_rate(done, self.recipe)}

    def state(self) -> dict[str, Any]:
        return {
            "network": self.network.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "sums": self.sums,
            "test_accuracy": self.test_accuracy,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        self.network.load_state_dict(state["network"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.sums, self.test_accuracy = state["sums"], state["test_accuracy"]


def forward(network: nn.Module, inputs: Tensor) -> Tensor:
    """Logits, float32, computed the fast way: images run channels last and at the device's precision."""
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


def focal_loss(logits: Tensor, labels: Tensor, alpha: float, gamma: float) -> Tensor:
    """Mean of −α (1 − p)^γ log p, where p is the probability given to the true class.

    Examples that are already right count less as γ grows; γ = 0 is α times the cross-entropy.

    Args:
        logits: (B, classes) float.
        labels: (B,) int64.
    """
    cross_entropy = F.cross_entropy(logits, labels, reduction="none")
    wrong = -(-cross_entropy).expm1()  # 1 − p, exact where p is close to 1
    if gamma == 0:  # 0⁰ has no useful gradient
        return alpha * cross_entropy.mean()
    return (alpha * wrong.clamp_min(1e-12) ** gamma * cross_entropy).mean()


def choose_loss(name: str, alpha: float, gamma: float) -> Loss:
    """The loss of params.yaml: ``cross_entropy`` or ``focal``."""
    if name == "focal":
        return lambda logits, labels: focal_loss(logits, labels, alpha, gamma)
    return F.cross_entropy
