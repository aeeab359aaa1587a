"""MAML: Finn, Abbeel and Levine, "Model-agnostic meta-learning for fast adaptation of deep networks", 2017.

Inner loop: a few gradient steps on a task's support set, from shared weights. Outer loop: the query loss after those
steps is differentiated through them. Switches of the settings:

- ``first_order`` drops the second derivatives (the paper's section 5.2);
- ``multi_step_loss``, ``learn_inner_lr``, ``second_order_from`` and ``outer_schedule`` are MAML++'s stabilisers:
  Antoniou, Edwards and Storkey, "How to train your MAML", 2019, section 4;
- ``anil`` adapts the head alone: Raghu et al., "Rapid learning or feature reuse?", 2020.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fewlabel import device as devices
from fewlabel.episodes import Shape
from fewlabel.methods.base import Method, Problem, Weights, cosine, descend, each_task, labels
from fewlabel.models.conv4 import Conv4
from fewlabel.params import Maml as Settings

MULTI_STEP_PART = 0.1  # of the training, over which the multi-step loss gives way to the last step's, as in MAML++
MULTI_STEP_REST = 0.03  # times 1 / steps: what an earlier step's loss always counts


class Maml(Method):
    modes = (True, False)  # batch norm sees the whole query set, or one query at a time
    way_parameter = "cells.tasks"
    shot_parameter = "cells.tasks and maml.queries"

    model: MamlNetwork
    optimizer: torch.optim.Optimizer

    def __init__(self, settings: Settings, problem: Problem, device: torch.device, vmapped: bool | None = None) -> None:
        super().__init__(settings, problem, device)
        # All tasks at once on a GPU; on a CPU a thread a core, each with one task at a time.
        self.vmapped = device.type == "cuda" if vmapped is None else vmapped
        self.model = MamlNetwork(settings, problem).to(device)
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
        second_order = not self.settings.first_order and done >= self.settings.second_order_from
        importance = step_importance(self.settings, done)

        def task(images: Tensor, queries: Tensor) -> tuple[Tensor, Tensor, Sequence[Tensor]]:
            return self._task_gradient(images, queries, importance, second_order)

        images, queries = support.flatten(1, 2), query.flatten(1, 2)
        parameters = list(self.model.parameters())
        if self.vmapped:
            loss, accuracy, gradients = self._vmapped_gradient(images, queries, importance, second_order)
        else:
            losses, accuracies, each = zip(*each_task(task, images, queries), strict=True)
            loss, accuracy = torch.stack(losses).mean(), torch.stack(accuracies).mean()
            gradients = [torch.stack(parts).mean(0) for parts in zip(*each, strict=True)]
        devices.average([loss, accuracy, *gradients])
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        return loss, accuracy

    def _task_gradient(
        self, images: Tensor, queries: Tensor, importance: list[float], second_order: bool
    ) -> tuple[Tensor, Tensor, Sequence[Tensor]]:
        """Query loss and accuracy of one task, and the gradient of the parameters.

        The query pass is differentiated once, at weights cut off from their history; only the inner loop, whose batch
        is smaller, pays for second derivatives.
        """
        weights: Weights = dict(self.model.conv4.named_parameters())
        path = self.adapt(weights, images, len(importance), second_order)
        total, accuracy = torch.zeros((), device=images.device), torch.zeros((), device=images.device)
        ends: list[Tensor] = []
        slopes: list[Tensor] = []
        for weight, adapted in zip(importance, path, strict=True):
            if weight:
                leaves = {name: value.detach().requires_grad_() for name, value in adapted.items()}
                loss, accuracy = self._query_loss(self.model.conv4.functional(leaves, queries))
                slopes += [weight * slope for slope in torch.autograd.grad(loss, list(leaves.values()))]
                ends += adapted.values()
                total = total + weight * loss.detach()
        gradients = torch.autograd.grad(ends, list(self.model.parameters()), slopes, materialize_grads=True)
        return total, accuracy, gradients

    def _vmapped_gradient(
        self, images: Tensor, queries: Tensor, importance: list[float], second_order: bool
    ) -> tuple[Tensor, Tensor, list[Tensor]]:
        """The same for all tasks at once, the query pass included in the graph."""
        weights: Weights = dict(self.model.conv4.named_parameters())

        def task(images: Tensor, queries: Tensor) -> tuple[Tensor, Tensor]:
            path = self.adapt(weights, images, len(importance), second_order)
            total = torch.zeros((), device=images.device)
            for weight, adapted in zip(importance, path, strict=True):
                if weight:
                    loss, accuracy = self._query_loss(self.model.conv4.functional(adapted, queries, "vmap"))
                    total = total + weight * loss
            return total, accuracy

        losses, accuracies = torch.vmap(task)(images, queries)
        gradients = torch.autograd.grad(losses.mean(), list(self.model.parameters()))
        return losses.mean().detach(), accuracies.mean(), list(gradients)

    def _query_loss(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Cross-entropy and accuracy of one task's logits (way x queries, way)."""
        targets = labels(1, self.problem.way, len(logits) // self.problem.way, logits.device)[0]
        return F.cross_entropy(logits, targets), (logits.argmax(1) == targets).float().mean()

    def predict(self, support: Tensor, query: Tensor, transductive: bool = True) -> Tensor:
        weights, steps = self.model.conv4.weights(), self.settings.test_inner_steps

        def task(images: Tensor, queries: Tensor) -> Tensor:
            adapted = self.adapt(weights, images, steps, second_order=False)[-1]
            if transductive:
                return self.model.conv4.functional(adapted, queries)
            return self.model.conv4.one_at_a_time(adapted, images, queries)

        images, queries = support.flatten(1, 2), query.flatten(1, 2)
        return torch.vmap(task)(images, queries) if self.vmapped else torch.stack(each_task(task, images, queries))

    def adapt(self, weights: Weights, images: Tensor, steps: int, second_order: bool) -> list[Weights]:
        """The weights after each of `steps` of gradient descent on one task's support images (way x shot, ...).

        Args:
            second_order: keep the graph of the gradients, for derivatives through them.
        """
        conv4 = self.model.conv4
        targets = labels(1, self.problem.way, len(images) // self.problem.way, images.device)[0]
        if self.settings.anil:  # one pass does for all steps
            features = conv4.functional_features(weights, images, "vmap" if self.vmapped else "first")

        def loss(moving: Weights) -> Tensor:
            if self.settings.anil:
                logits = F.linear(features, moving["head.weight"], moving["head.bias"])
            else:
                logits = conv4.functional(moving, images, "vmap" if self.vmapped else ("first", "second")[second_order])
            return F.cross_entropy(logits, targets)

        path = []
        for step in range(steps):
            gradient = self._gradient(loss, {name: weights[name] for name in self.model.moving}, second_order)
            rates = self.model.rates_of(step)
            moved = {name: weights[name] - rate * gradient[name] for name, rate in rates.items()}
            weights = {**weights, **moved}
            path.append(weights)
        return path

    def _gradient(self, loss: Callable[[Weights], Tensor], weights: Weights, second_order: bool) -> Weights:
        if self.vmapped:
            gradient = torch.func.grad(loss)(weights)
            return gradient if second_order else {name: g.detach() for name, g in gradient.items()}
        if not second_order:
            weights = {name: w.detach().requires_grad_() for name, w in weights.items()}
        with torch.enable_grad():
            gradients = torch.autograd.grad(loss(weights), list(weights.values()), create_graph=second_order)
        return dict(zip(weights, gradients, strict=True))


class MamlNetwork(nn.Module):
    """Conv4, and the inner rates where they are learnt: (steps, moving weights)."""

    def __init__(self, settings: Settings, problem: Problem) -> None:
        super().__init__()
        self.conv4 = Conv4(settings.width, settings.downsample, problem.way, False, problem.channels, problem.size)
        names = [name for name, _ in self.conv4.named_parameters()]
        self.moving = [name for name in names if name.startswith("head.")] if settings.anil else names
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
    ``multi_step_loss`` equally at first and nearly so after `MULTI_STEP_PART` of the training."""
    steps = settings.inner_steps
    if not settings.multi_step_loss:
        return [0.0] * (steps - 1) + [1.0]
    earlier = max(1 - done / MULTI_STEP_PART, MULTI_STEP_REST) / steps
    return [earlier] * (steps - 1) + [1 - (steps - 1) * earlier]
