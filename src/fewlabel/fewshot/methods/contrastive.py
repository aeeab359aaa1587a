"""Supervised contrastive learning: Khosla et al., "Supervised contrastive learning", 2020, equation 2.

Features lie on the unit sphere. For each drawing of a batch the other drawings of its class are positives, all
drawings of other classes negatives. A class is the normalised mean of its supports, a query belongs to the nearest by
angle. No episode in the training: what meta-learning has to beat.

What differs from the paper: the features themselves are contrasted, without a projection head, and the positives are
other drawings of the class, not distorted copies of the same one.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from fewlabel.fewshot.episodes import Shape
from fewlabel.fewshot.methods.base import Method, Problem, cosine, descend
from fewlabel.networks.conv4 import Conv4
from fewlabel.params import Contrastive as Settings


class Contrastive(Method):
    way_parameter = "contrastive.classes"
    shot_parameter = "contrastive.drawings"

    optimizer: torch.optim.Optimizer

    def __init__(self, settings: Settings, problem: Problem, device: torch.device) -> None:
        super().__init__(settings, problem, device)
        self.model = Conv4(settings.network, channels=problem.channels, size=problem.size).to(device)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=settings.lr)
        self.shape = Shape(tasks=1, way=settings.classes, shot=settings.drawings, queries=0)

    def step(
        self, support: Tensor, query: Tensor, classes: Tensor, done: float, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        self.model.train()
        features = F.normalize(self.model(support.flatten(0, 2)), dim=1)
        targets = torch.arange(support.shape[1], device=self.device).repeat_interleave(support.shape[2])
        loss, accuracy = contrastive_loss(features, targets, self.settings.temperature)
        self.optimizer.zero_grad()
        loss.backward()
        descend(self.optimizer, self.settings.lr * cosine(done))
        return loss.detach(), accuracy

    def embed(self, images: Tensor) -> Tensor:
        self.model.eval()
        return F.normalize(self.model(images), dim=1)

    def learn(self, support: Tensor) -> Tensor:
        return F.normalize(support.mean(2), dim=-1)

    def classify(self, learnt: Tensor, query: Tensor, transductive: bool) -> Tensor:
        return query.flatten(1, 2) @ learnt.transpose(1, 2) / self.settings.temperature


def contrastive_loss(features: Tensor, targets: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """The loss L_out of the paper, and how often the nearest other drawing is of the same class; scalars.

    Args:
        features: (n, width), of length 1.
        targets: (n,), the class of each; every class at least twice.
    """
    itself = torch.eye(len(features), dtype=torch.bool, device=features.device)
    similarity = (features @ features.T / temperature).masked_fill(itself, -torch.inf)
    positive = (targets[:, None] == targets) & ~itself
    log_share = similarity - similarity.logsumexp(1, keepdim=True)
    loss = -(log_share.masked_fill(~positive, 0).sum(1) / positive.sum(1)).mean()
    return loss, (targets[similarity.argmax(1)] == targets).float().mean()
