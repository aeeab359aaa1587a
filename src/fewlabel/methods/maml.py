"""MAML: Finn, Abbeel and Levine, "Model-agnostic meta-learning for fast adaptation of deep networks", 2017.

Inner loop: a few gradient steps on a task's support set, from shared weights. Outer loop: the query loss after those
steps is differentiated through them. `first_order` drops the second derivatives (the paper's section 5.2).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call

from fewlabel.episodes import Shape
from fewlabel.methods.base import Method, accuracies, cosine, descend, labels, losses
from fewlabel.models.conv4 import Conv4
from fewlabel.params import Maml as Settings

Weights = dict[str, Tensor]


class Maml(Method):
    transductive = True  # batch norm sees the whole query set
    way_parameter = "cells.tasks"
    shot_parameter = "cells.tasks and maml.queries"

    optimizer: torch.optim.Optimizer

    def __init__(
        self, settings: Settings, way: int, shot: int, device: torch.device, vmapped: bool | None = None
    ) -> None:
        super().__init__(settings, way, shot, device)
        # All tasks at once on a GPU; on a CPU one after the other, which is faster: 16 tasks 5w1s, second order, one
        # core, strided convolutions 240 ms with the loop and 289 ms with vmap; pooling 630 and 922 ms.
        self.vmapped = device.type == "cuda" if vmapped is None else vmapped
        self.model = Conv4(
            settings.width, settings.downsample, way, running_statistics=False, vmappable=self.vmapped
        ).to(device)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=settings.outer_lr)
        self.shape = Shape(settings.meta_batch, way, shot, settings.queries)

    def step(self, support: Tensor, query: Tensor, done: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        loss, accuracy = self.outer_gradient(dict(self.model.named_parameters()), support, query)
        descend(self.optimizer, self.settings.outer_lr * cosine(done))
        return loss, accuracy

    def outer_gradient(self, weights: Weights, support: Tensor, query: Tensor) -> tuple[Tensor, Tensor]:
        """Put the gradient of the tasks' mean query loss into ``.grad`` of `weights`; → that loss, and accuracy."""
        for weight in weights.values():
            weight.grad = None
        size = len(support) if self.vmapped else 1
        total, right = torch.zeros((), device=support.device), torch.zeros((), device=support.device)
        for part in zip(support.split(size), query.split(size), strict=True):
            logits = self._logits(weights, *part, self.settings.inner_steps, outer_graph=True)
            loss = losses(logits).sum() / len(support)
            loss.backward()
            total, right = total + loss.detach(), right + accuracies(logits).sum() / len(support)
        return total, right

    def predict(self, support: Tensor, query: Tensor) -> Tensor:
        weights = {name: weight.detach() for name, weight in self.model.named_parameters()}
        return self._logits(weights, support, query, self.settings.test_inner_steps, outer_graph=False)

    def _logits(self, weights: Weights, support: Tensor, query: Tensor, steps: int, outer_graph: bool) -> Tensor:
        def task(images: Tensor, queries: Tensor) -> Tensor:
            adapted = self.adapt(weights, images, steps, outer_graph)
            return functional_call(self.model, adapted, queries)

        images, queries = support.flatten(1, 2), query.flatten(1, 2)
        if self.vmapped:
            return torch.vmap(task)(images, queries)
        return torch.stack([task(*each) for each in zip(images, queries, strict=True)])

    def adapt(self, weights: Weights, images: Tensor, steps: int, outer_graph: bool) -> Weights:
        """Weights after `steps` of gradient descent on one task's support images (way x shot, ...)."""
        targets = labels(1, self.way, len(images) // self.way, images.device)[0]

        def loss(weights: Weights) -> Tensor:
            return F.cross_entropy(functional_call(self.model, weights, images), targets)

        second_order = outer_graph and not self.settings.first_order
        for _ in range(steps):
            gradient = self._gradient(loss, weights, second_order)
            weights = {name: w - self.settings.inner_lr * gradient[name] for name, w in weights.items()}
        return weights

    def _gradient(self, loss: Callable[[Weights], Tensor], weights: Weights, second_order: bool) -> Weights:
        if self.vmapped:
            gradient = torch.func.grad(loss)(weights)
            return gradient if second_order else {name: g.detach() for name, g in gradient.items()}
        with torch.enable_grad():
            if not second_order:
                weights = {name: w.detach().requires_grad_() for name, w in weights.items()}
            gradients = torch.autograd.grad(loss(weights), list(weights.values()), create_graph=second_order)
        return dict(zip(weights, gradients, strict=True))
