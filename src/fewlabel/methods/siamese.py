"""Siamese network: Koch, Zemel and Salakhutdinov, "Siamese neural networks for one-shot image recognition", 2015.

Two images go through one tower; a head turns |f₁ − f₂| into the logit of "the same class". All pairs inside a batch
of embeddings are used, so each image goes through the tower once, not once per pair.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fewlabel.episodes import Shape
from fewlabel.methods.base import Method, Problem, accuracies, cosine, descend
from fewlabel.models.conv4 import Conv4
from fewlabel.params import Siamese as Settings


class SiameseNetwork(nn.Module):
    def __init__(self, tower: Conv4) -> None:
        super().__init__()
        self.tower = tower
        self.head = nn.Linear(tower.features, 1)

    def similarity(self, first: Tensor, second: Tensor) -> Tensor:
        """Every embedding of `first` (..., n, features) with every one of `second` (..., m, features): logits
        (..., n, m)."""
        # The head w·|f₁ − f₂| + b as two L1 distances, of the features of positive and of negative weight: the
        # differences of all pairs are never stored.
        weight = self.head.weight[0]

        def distance(chosen: Tensor, scale: Tensor) -> Tensor:
            return torch.cdist(first[..., chosen] * scale, second[..., chosen] * scale, p=1)

        positive = weight > 0
        return distance(positive, weight[positive]) - distance(~positive, -weight[~positive]) + self.head.bias


class Siamese(Method):
    way_parameter = "siamese.classes"
    shot_parameter = "siamese.drawings"

    model: SiameseNetwork
    optimizer: torch.optim.Optimizer

    def __init__(self, settings: Settings, problem: Problem, device: torch.device) -> None:
        super().__init__(settings, problem, device)
        tower = Conv4(settings.width, settings.downsample, channels=problem.channels, size=problem.size)
        self.model = SiameseNetwork(tower).to(device)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=settings.lr)
        self.shape = Shape(tasks=1, way=settings.classes, shot=settings.drawings, queries=0)

    def step(
        self, support: Tensor, query: Tensor, classes: Tensor, done: float, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        self.model.train()
        features = self.model.tower(support.flatten(0, 2))
        classes = torch.arange(support.shape[1], device=self.device).repeat_interleave(support.shape[2])
        first, second = torch.triu_indices(len(classes), len(classes), offset=1, device=self.device)
        logits = self.model.similarity(features, features)[first, second]
        loss, accuracy = balanced(logits, classes[first] == classes[second])
        self.optimizer.zero_grad()
        loss.backward()
        descend(self.optimizer, self.settings.lr * cosine(done))
        return loss.detach(), accuracy

    def embed(self, images: Tensor) -> Tensor:
        self.model.eval()
        return self.model.tower(images)

    def _pairs(self, support: Tensor, query: Tensor) -> Tensor:
        logits = self.model.similarity(query.flatten(1, 2), support.flatten(1, 2))
        return logits.unflatten(2, support.shape[1:3])  # (E, way x queries, way, shot)

    def classify(self, learnt: Tensor, query: Tensor, transductive: bool) -> Tensor:
        """The mean similarity (logit of "the same class") to each class's supports."""
        return self._pairs(learnt, query).mean(3)

    def validate(self, support: Tensor, query: Tensor) -> tuple[Tensor, Tensor]:
        pairs = self._pairs(support, query)
        way = support.shape[1]
        same = torch.eye(way, dtype=torch.bool, device=pairs.device).repeat_interleave(query.shape[2], dim=0)
        loss = torch.stack([balanced(each, same[..., None].expand_as(each))[0] for each in pairs])
        return loss, accuracies(pairs.mean(3))


def balanced(logits: Tensor, same: Tensor) -> tuple[Tensor, Tensor]:
    """Binary cross-entropy and accuracy of pairs, "same" and "different" each counting half, however many there are."""
    losses = F.binary_cross_entropy_with_logits(logits, same.float(), reduction="none")
    right = ((logits > 0) == same).float()
    return 0.5 * (losses[same].mean() + losses[~same].mean()), 0.5 * (right[same].mean() + right[~same].mean())
