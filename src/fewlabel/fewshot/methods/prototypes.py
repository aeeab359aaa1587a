"""Prototypical networks: Snell, Swersky and Zemel, "Prototypical networks for few-shot learning", 2017.

A class is the mean of its embedded supports; a query belongs to the nearest, by squared Euclidean distance. Training
episodes have more classes than test episodes, as in the paper.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fewlabel.fewshot.episodes import Shape
from fewlabel.fewshot.methods.base import Method, Problem, accuracies, cosine, descend, losses
from fewlabel.networks.conv4 import Conv4
from fewlabel.params import Prototypes as Settings


class Prototypes(Method):
    way_parameter = "prototypes.way"
    shot_parameter = "prototypes.shot + prototypes.queries"

    optimizer: torch.optim.Optimizer

    def __init__(self, settings: Settings, problem: Problem, device: torch.device) -> None:
        super().__init__(settings, problem, device)
        self.model = Conv4(
            settings.width, settings.downsample, channels=problem.channels, size=problem.size
        ).to(device)  # fmt: skip
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=settings.lr)
        self.shape = Shape(tasks=1, way=settings.way, shot=settings.shot, queries=settings.queries)

    def step(
        self, support: Tensor, query: Tensor, classes: Tensor, done: float, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        self.model.train()
        images = torch.cat([support, query], dim=2)
        features = self.model(images.flatten(0, 2)).unflatten(0, images.shape[:3])
        logits = self.predict(*features.split([support.shape[2], query.shape[2]], dim=2))
        loss = losses(logits).mean()
        self.optimizer.zero_grad()
        loss.backward()
        descend(self.optimizer, self.settings.lr * cosine(done))
        return loss.detach(), accuracies(logits).mean()

    def embed(self, images: Tensor) -> Tensor:
        self.model.eval()
        return self.model(images)

    def learn(self, support: Tensor) -> Tensor:
        return support.mean(2)  # the prototypes

    def classify(self, learnt: Tensor, query: Tensor, transductive: bool) -> Tensor:
        # |q − p|² without the |q|² that all classes share
        return 2 * query.flatten(1, 2) @ learnt.transpose(1, 2) - learnt.square().sum(-1).unsqueeze(1)
