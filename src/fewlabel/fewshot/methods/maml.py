"""MAML: Finn, Abbeel and Levine, "Model-agnostic meta-learning for fast adaptation of deep networks", 2017.

Inner loop: a few gradient steps on a task's support set, from shared weights. Outer loop: the query loss after those
steps is differentiated through them. The settings ``multi_step_loss``, ``learn_inner_lr``, ``second_order_from`` and
``outer_schedule`` are MAML++'s stabilisers: Antoniou, Edwards and Storkey, "How to train your MAML", 2019, section 4.
``fomaml`` and ``anil`` are this method but for one attribute.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fewlabel.fewshot.episodes import Shape
from fewlabel.fewshot.methods.base import Method, Problem, classified, cosine, descend, each_part, joined, labels
from fewlabel.networks.conv4 import Conv4, Weights
from fewlabel.params import Maml as Settings
from fewlabel.training import processes

MULTI_STEP_PART = 0.1  # of the training, over which the multi-step loss gives way to the last step's, as in MAML++
MULTI_STEP_LEAST = 0.03  # times 1 / steps: what an earlier step's loss counts until then, as in MAML++'s code


class Maml(Method):
    modes = (True, False)  # batch norm sees the whole query set, or one query at a time
    way_parameter = "cells.tasks"
    shot_parameter = "cells.tasks and maml.queries"
    first_order = False  # True: no second derivatives
    head_only = False  # True: the inner loop moves the head alone

    model: MamlNetwork
    optimizer: torch.optim.Optimizer

    def __init__(self, settings: Settings, problem: Problem, device: torch.device) -> None:
        super().__init__(settings, problem, device)
        self.model = MamlNetwork(settings, problem, self.head_only).to(device)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=settings.outer_lr)
        self.shape = Shape(settings.meta_batch, problem.way, problem.shot, settings.queries)

    def step(
        self, support: Tensor, query: Tensor, classes: Tensor, done: float, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        loss, accuracy = self.outer_gradient(support, query, done)
        factor = cosine(done) if self.settings.outer_schedule == "cosine" else 1.0
        descend(self.optimizer, self.settings.outer_lr * factor)
        return loss, accuracy

    def outer_gradient(self, support: Tensor, query: Tensor, done: float = 1.0) -> tuple[Tensor, Tensor]:
        """Put the gradient of the tasks' mean query loss into the parameters' ``.grad``; → that loss, and accuracy.

        With several processes each one brings its own tasks, and all get the mean.
        """
        second_order = not self.first_order and done >= self.settings.second_order_from
        importance = step_importance(self.settings, done)

        def part(images: Tensor, queries: Tensor) -> tuple[Tensor, Tensor, Sequence[Tensor]]:
            return self._part_gradient(images, queries, importance, second_order)

        parts = zip(*each_part(part, support.flatten(1, 2), query.flatten(1, 2)), strict=True)
        loss, accuracy = (torch.cat(next(parts)).mean() for _ in range(2))
        gradients = [torch.stack(each).sum(0) / len(support) for each in zip(*next(parts), strict=True)]
        processes.average([loss, accuracy, *gradients])
        for parameter, gradient in zip(self.model.parameters(), gradients, strict=True):
            parameter.grad = gradient
        return loss, accuracy

    def _part_gradient(
        self, images: Tensor, queries: Tensor, importance: list[float], second_order: bool
    ) -> tuple[Tensor, Tensor, Sequence[Tensor]]:
        """Query losses and accuracies of some tasks, and the gradient of the parameters, summed over these tasks.

        The query pass is differentiated once, at weights cut off from their history; only the inner loop, whose batch
        is smaller, pays for second derivatives.
        """
        conv4 = self.model.conv4
        weights = {name: value.expand(len(images), *value.shape) for name, value in conv4.named_parameters()}
        path = self.adapt(weights, images, len(importance), second_order)
        total, accuracies = torch.zeros(len(images), device=images.device), torch.empty(0)
        ends: list[Tensor] = []
        slopes: list[Tensor] = []
        for weight, adapted in zip(importance, path, strict=True):
            if weight:
                leaves = {name: value.detach().requires_grad_() for name, value in adapted.items()}
                losses, accuracies = self._losses(conv4.side_by_side(leaves, queries))
                slopes += [weight * slope for slope in torch.autograd.grad(losses.sum(), list(leaves.values()))]
                ends += adapted.values()
                total = total + weight * losses.detach()
        gradients = torch.autograd.grad(ends, list(self.model.parameters()), slopes, materialize_grads=True)
        return total, accuracies, gradients

    def _losses(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Cross-entropy and accuracy of each task's logits (..., way x queries, way): (...) each."""
        targets = labels(1, self.problem.way, logits.shape[-2] // self.problem.way, logits.device)[0]
        targets = targets.expand(logits.shape[:-1])
        losses = F.cross_entropy(logits.flatten(0, -2), targets.flatten(), reduction="none").view(targets.shape)
        return losses.mean(-1), (logits.argmax(-1) == targets).float().mean(-1)

    def learn(self, support: Tensor) -> tuple[Tensor, Weights]:
        """The support images, and the weights adapted to each task's."""
        images, steps = support.flatten(1, 2), self.settings.test_inner_steps
        weights = self.model.conv4.weights()

        def part(images: Tensor) -> Weights:
            starts = {name: weight.expand(len(images), *weight.shape) for name, weight in weights.items()}
            return self.adapt(starts, images, steps, second_order=False)[-1]

        return images, joined(each_part(part, images))

    def classify(self, learnt: tuple[Tensor, Weights], query: Tensor, transductive: bool) -> Tensor:
        images, adapted = learnt
        return classified(self.model.conv4, adapted, images, query.flatten(1, 2), transductive)

    def adapt(self, weights: Weights, images: Tensor, steps: int, second_order: bool) -> list[Weights]:
        """The weights after each of `steps` of gradient descent on the support images.

        Args:
            weights, images: of some tasks side by side, (tasks, ...) and (tasks, way x shot, ...).
            second_order: keep the graph of the gradients, for derivatives through them.
        """
        conv4 = self.model.conv4
        if self.head_only:  # one pass does for all steps
            features = conv4.side_by_side_features(weights, images)

        def loss(moving: Weights) -> Tensor:
            if self.head_only:
                logits = conv4.head_of(moving, features)
            else:
                logits = conv4.side_by_side(moving, images, second_order)
            return self._losses(logits)[0].sum()

        path = []
        for step in range(steps):
            gradient = self._gradient(loss, {name: weights[name] for name in self.model.moving}, second_order)
            rates = self.model.rates_of(step)
            moved = {name: weights[name] - rate * gradient[name] for name, rate in rates.items()}
            weights = {**weights, **moved}
            path.append(weights)
        return path

    def _gradient(self, loss: Callable[[Weights], Tensor], weights: Weights, second_order: bool) -> Weights:
        """Of the sum of the tasks' losses, which is each task's own."""
        if not second_order:
            weights = {name: w.detach().requires_grad_() for name, w in weights.items()}
        with torch.enable_grad():
            gradients = torch.autograd.grad(loss(weights), list(weights.values()), create_graph=second_order)
        return dict(zip(weights, gradients, strict=True))


class MamlNetwork(nn.Module):
    """Conv4, and the inner rates where they are learnt: (steps, moving weights)."""

    def __init__(self, settings: Settings, problem: Problem, head_only: bool) -> None:
        super().__init__()
        self.conv4 = Conv4(settings.network, problem.way, False, problem.channels, problem.size)
        names = [name for name, _ in self.conv4.named_parameters()]
        self.moving = [name for name in names if name.startswith("head.")] if head_only else names
        self.inner_lr = settings.inner_lr
        rates = torch.full((settings.inner_steps, len(self.moving)), settings.inner_lr)
        self.rates = nn.Parameter(rates) if settings.learn_inner_lr else None

    def rates_of(self, step: int) -> dict[str, Tensor | float]:
        """The rate of each moving weight in an inner step; steps beyond the training's have the last one's."""
        if self.rates is None:
            return dict.fromkeys(self.moving, self.inner_lr)
        return dict(zip(self.moving, self.rates[min(step, len(self.rates) - 1)], strict=True))


def step_importance(settings: Settings, done: float) -> list[float]:
    """How much the query loss after each inner step counts; sums to 1. All of it after the last step, or with
    ``multi_step_loss`` equally at first, then the last ever more, and alone after `MULTI_STEP_PART` of the training."""
    steps = settings.inner_steps
    if not settings.multi_step_loss or done >= MULTI_STEP_PART:
        return [0.0] * (steps - 1) + [1.0]
    earlier = max(1 - done / MULTI_STEP_PART, MULTI_STEP_LEAST) / steps
    return [earlier] * (steps - 1) + [1 - (steps - 1) * earlier]
