"""Reptile: Nichol, Achiam and Schulman, "On first-order meta-learning algorithms", 2018.

Train on a sampled task for a few minibatches, then move the weights a fraction of the way towards where they ended.
The fraction falls linearly to zero over the training.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call

from fewlabel.episodes import Shape
from fewlabel.methods.base import Method, labels
from fewlabel.models.conv4 import Conv4
from fewlabel.params import Reptile as Settings

Weights = dict[str, Tensor]
BETA2 = 0.999  # of the inner Adam


class Reptile(Method):
    transductive = True  # batch norm sees the whole query set
    way_parameter = "cells.tasks"
    shot_parameter = "reptile.train_shots"

    def __init__(self, settings: Settings, way: int, shot: int, device: torch.device) -> None:
        super().__init__(settings, way, shot, device)
        self.model = Conv4(settings.width, settings.downsample, way, running_statistics=False).to(device)
        self.shape = Shape(settings.meta_batch, way, settings.train_shots, queries=0)

    def step(self, support: Tensor, query: Tensor, done: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        weights, settings = self._weights(), self.settings
        ends: list[Weights] = []
        numbers: list[Tensor] = []
        for images in support.flatten(1, 2):
            batches = minibatches(len(images), settings.inner_batch, settings.inner_steps, generator)
            end, *last = self.adapt(weights, images, batches)
            ends.append(end)
            numbers.append(torch.stack(last))
        fraction = settings.outer_step * (1 - done)
        with torch.no_grad():
            for name, weight in self.model.named_parameters():
                weight.lerp_(torch.stack([end[name] for end in ends]).mean(0), fraction)
        loss, accuracy = torch.stack(numbers).mean(0)
        return loss, accuracy

    def predict(self, support: Tensor, query: Tensor) -> Tensor:
        weights = self._weights()
        logits = []
        generator = torch.Generator().manual_seed(0)
        for images, queries in zip(support.flatten(1, 2), query.flatten(1, 2), strict=True):
            batches = minibatches(len(images), self.settings.inner_batch, self.settings.test_inner_steps, generator)
            adapted, _, _ = self.adapt(weights, images, batches)
            logits.append(functional_call(self.model, adapted, queries))
        return torch.stack(logits)

    def _weights(self) -> Weights:
        return {name: weight.detach() for name, weight in self.model.named_parameters()}

    def adapt(self, weights: Weights, images: Tensor, batches: Tensor) -> tuple[Weights, Tensor, Tensor]:
        """Weights after one step on each minibatch of a task's images (way x shots, ...); and the loss and accuracy
        on the last minibatch, before its step. The weights given are left as they are.

        Args:
            batches: (steps, inner batch), which images.
        """
        targets = labels(1, self.way, len(images) // self.way, images.device)[0]
        weights = {name: weight.clone() for name, weight in weights.items()}
        values = list(weights.values())
        squares = [torch.zeros_like(value) for value in values]
        with torch.enable_grad():
            for step, batch in enumerate(batches.to(images.device), start=1):
                for value in values:
                    value.requires_grad_()
                logits = functional_call(self.model, weights, images[batch])
                loss = F.cross_entropy(logits, targets[batch])
                gradients = torch.autograd.grad(loss, values)
                for value in values:
                    value.requires_grad_(False)
                self._descend(values, list(gradients), squares, step)
        accuracy = (logits.argmax(1) == targets[batch]).float().mean()
        return weights, loss.detach(), accuracy

    def _descend(self, values: list[Tensor], gradients: list[Tensor], squares: list[Tensor], step: int) -> None:
        """One inner step in place: plain SGD, or Adam with β₁ = 0, as the paper ran it."""
        if self.settings.inner_optimizer == "adam":
            torch._foreach_mul_(squares, BETA2)
            torch._foreach_addcmul_(squares, gradients, gradients, 1 - BETA2)
            scale = torch._foreach_div(squares, 1 - BETA2**step)
            torch._foreach_sqrt_(scale)
            torch._foreach_add_(scale, 1e-8)
            gradients = list(torch._foreach_div(gradients, scale))
        torch._foreach_add_(values, gradients, alpha=-self.settings.inner_lr)


def minibatches(images: int, batch: int, steps: int, generator: torch.Generator) -> Tensor:
    """Which images each inner step sees, (steps, batch): passes over all of them, in a new random order each pass;
    a batch larger than the images is the images."""
    batch = min(batch, images)
    passes = -(-steps * batch // images)
    order = torch.rand(passes, images, generator=generator).argsort(dim=1)
    return order.flatten()[: steps * batch].view(steps, batch)
