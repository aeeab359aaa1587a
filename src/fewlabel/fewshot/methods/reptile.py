"""Reptile: Nichol, Achiam and Schulman, "On first-order meta-learning algorithms", 2018.

Train on a sampled task for a few minibatches, then move the weights a fraction of the way towards where they ended.
The fraction falls linearly to zero over the training.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from fewlabel.fewshot.episodes import Shape
from fewlabel.fewshot.methods.base import Method, Problem, classified, each_part, joined, labels
from fewlabel.networks.conv4 import Conv4, Weights
from fewlabel.params import Reptile as Settings
from fewlabel.training import processes

BETA2 = 0.999  # of the inner Adam, of which β₁ is 0


class ReptileNetwork(Conv4):
    """Conv4. With Adam as the inner optimiser it also keeps the second moments of each weight's gradients. They outlive
    a task, also at test. The authors pass them from task to task; here all tasks of a step start from the same ones,
    and their mean is kept."""

    moment_steps: Tensor  # that the moments are of, ()

    def __init__(self, settings: Settings, problem: Problem) -> None:
        super().__init__(settings.network, problem.way, False, problem.channels, problem.size)
        self.moment_names: list[str] = []
        if settings.inner_optimizer == "adam":
            self.register_buffer("moment_steps", torch.zeros(()))
            for name, weight in list(self.named_parameters()):
                self.moment_names.append("moment_" + name.replace(".", "_"))
                self.register_buffer(self.moment_names[-1], torch.zeros_like(weight))

    def moments(self) -> list[Tensor]:
        """In the order of the parameters; none with SGD."""
        return [self.get_buffer(name) for name in self.moment_names]


class Reptile(Method):
    modes = (True, False)  # batch norm sees the whole query set, or one query at a time
    way_parameter = "cells.tasks"
    shot_parameter = "reptile.train_shots"

    model: ReptileNetwork

    def __init__(self, settings: Settings, problem: Problem, device: torch.device) -> None:
        super().__init__(settings, problem, device)
        self.model = ReptileNetwork(settings, problem).to(device)
        self.shape = Shape(settings.meta_batch, problem.way, settings.train_shots, queries=0)

    def step(
        self, support: Tensor, query: Tensor, classes: Tensor, done: float, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        settings, images = self.settings, support.flatten(1, 2)
        draws = [settings.inner_batch, settings.inner_steps, generator]
        batches = torch.stack([minibatches(images.shape[1], *draws) for _ in range(settings.meta_batch)])
        ends, squares, losses, accuracies = self._adapt_all(images, batches[processes.share()])
        moves = [end.mean(0) for end in ends.values()]
        moments = [square.mean(0) for square in squares]
        numbers = [losses.mean(), accuracies.mean()]
        processes.average([*moves, *moments, *numbers])
        fraction = settings.outer_step * (1 - done)
        with torch.no_grad():
            torch._foreach_lerp_(list(self.model.parameters()), moves, fraction)
            if moments:
                torch._foreach_copy_(self.model.moments(), moments)
                self.model.moment_steps += settings.inner_steps
        return numbers[0], numbers[1]

    def learn(self, support: Tensor) -> tuple[Tensor, Weights]:
        """The support images, and the weights adapted to each task's."""
        images = support.flatten(1, 2)
        draws = [self.settings.inner_batch, self.settings.test_inner_steps, torch.Generator().manual_seed(0)]
        batches = torch.stack([minibatches(images.shape[1], *draws) for _ in images])
        return images, self._adapt_all(images, batches)[0]

    def classify(self, learnt: tuple[Tensor, Weights], query: Tensor, transductive: bool) -> Tensor:
        images, adapted = learnt
        return classified(self.model, adapted, images, query.flatten(1, 2), transductive)

    def _adapt_all(self, images: Tensor, batches: Tensor) -> tuple[Weights, list[Tensor], Tensor, Tensor]:
        """`adapt` for every task."""
        weights = self.model.weights()
        parts = each_part(lambda *part: self.adapt(weights, *part), images, batches)
        ends, squares, losses, accuracies = zip(*parts, strict=True)
        return (
            joined(ends),
            [torch.cat(each) for each in zip(*squares, strict=True)],
            torch.cat(losses),
            torch.cat(accuracies),
        )

    def adapt(self, weights: Weights, images: Tensor, batches: Tensor) -> tuple[Weights, list[Tensor], Tensor, Tensor]:
        """From the same weights, one step on each minibatch of each task's images (tasks, way x shots, ...): each
        task's weights and second moments (tasks, ...), and the losses and accuracies (tasks,) on the last minibatch,
        before its step.

        Args:
            batches: (tasks, steps, inner batch), which images.
        """
        tasks = torch.arange(len(images), device=images.device)[:, None]
        targets = labels(1, self.problem.way, images.shape[1] // self.problem.way, images.device)[0]

        def repeated(value: Tensor) -> Tensor:
            return value.repeat(len(images), *[1] * value.dim())

        weights = {name: repeated(weight) for name, weight in weights.items()}
        values, squares = list(weights.values()), [repeated(moment) for moment in self.model.moments()]
        with torch.enable_grad():
            for step, batch in enumerate(batches.to(images.device).unbind(1), start=1):
                for value in values:
                    value.requires_grad_()
                logits = self.model.side_by_side(weights, images[tasks, batch])
                losses = F.cross_entropy(logits.transpose(1, 2), targets[batch], reduction="none").mean(1)
                gradients = torch.autograd.grad(losses.sum(), values)
                for value in values:
                    value.requires_grad_(False)
                self._descend(values, list(gradients), squares, step)
        accuracies = (logits.argmax(-1) == targets[batch]).float().mean(1)
        return weights, squares, losses.detach(), accuracies

    def _descend(self, values: list[Tensor], gradients: list[Tensor], squares: list[Tensor], step: int) -> None:
        """One inner step in place: plain SGD, or Adam with β₁ = 0, as the paper ran it."""
        if squares:
            torch._foreach_mul_(squares, BETA2)
            torch._foreach_addcmul_(squares, gradients, gradients, 1 - BETA2)
            scale = torch._foreach_div(squares, 1 - BETA2 ** (self.model.moment_steps + step))
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
