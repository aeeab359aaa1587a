"""Siamese network: Koch, Zemel and Salakhutdinov, "Siamese neural networks for one-shot image recognition", 2015.

Two images go through one tower; a head turns |f₁ − f₂| into the logit of "the same class". All pairs inside a batch
of embeddings are used, so each image goes through the tower once, not once per pair.

Two losses: ``pairs`` is the paper's, the cross-entropy of each pair being of the same class. ``ranking`` is the
cross-entropy of which of the other drawings is of the same class (Sohn, "Improved deep metric learning with multi-class
n-pair loss objective", 2016): it compares each pair with its rivals, as a test does, whereas most of the pairs' loss
comes from pairs that are easy to tell apart.

What differs from the paper: its tower is larger, for drawings of 105x105 pixels, and ends in a layer of sigmoids; and
it has one support a class, where here a class of several scores their mean logit.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fewlabel.fewshot.episodes import Shape
from fewlabel.fewshot.methods.base import MetricMethod, Problem, accuracies, among_others, losses
from fewlabel.networks.conv4 import Conv4
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

        def distance(signed: Tensor) -> Tensor:
            which = signed.nonzero()[:, 0]
            scale = weight[which].abs()
            return torch.cdist(first[..., which] * scale, second[..., which] * scale, p=1)

        positive = weight > 0
        return distance(positive) - distance(~positive) + self.head.bias


class Siamese(MetricMethod):
    way_parameter = "siamese.classes"
    shot_parameter = "siamese.drawings"

    model: SiameseNetwork

    def __init__(self, settings: Settings, problem: Problem, device: torch.device) -> None:
        super().__init__(settings, problem, device)
        self.shape = Shape(tasks=1, way=settings.classes, shot=settings.drawings, queries=0)

    def network(self) -> nn.Module:
        return SiameseNetwork(self.conv4())

    def loss(self, support: Tensor, query: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
        features = self.model.tower(support.flatten(0, 2))
        classes = torch.arange(support.shape[1], device=self.device).repeat_interleave(support.shape[2])
        logits = self.model.similarity(features, features)
        if self.settings.loss == "ranking":
            return ranking(logits, classes)
        first, second = torch.triu_indices(len(classes), len(classes), offset=1, device=self.device)
        return balanced(logits[first, second], classes[first] == classes[second])

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
        if self.settings.loss == "ranking":
            return losses(pairs.mean(3)), accuracies(pairs.mean(3))
        way = support.shape[1]
        same = torch.eye(way, dtype=torch.bool, device=pairs.device).repeat_interleave(query.shape[2], dim=0)
        loss, _ = balanced(pairs.flatten(1), same[..., None].expand(pairs.shape[1:]).flatten())
        return loss, accuracies(pairs.mean(3))


def ranking(logits: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
    """Cross-entropy of the pairs of one class, each among all pairs of its first drawing, and how often the most
    similar drawing is of the same class; scalars. Logits (n, n) of every drawing with every one, classes (n,)."""
    log_share, same, accuracy = among_others(logits, classes)
    return -log_share[same].mean(), accuracy


def balanced(logits: Tensor, same: Tensor) -> tuple[Tensor, Tensor]:
    """Binary cross-entropy and accuracy of pairs, "same" and "different" each counting half, however many there are:
    logits (..., pairs) and which pairs are the same (pairs,) → (...) each."""
    kinds = torch.stack([same, ~same]).to(logits.dtype)
    losses = F.binary_cross_entropy_with_logits(logits, kinds[0].expand_as(logits), reduction="none")
    right = ((logits > 0) == same).to(logits.dtype)

    def mean(values: Tensor) -> Tensor:
        return (values @ kinds.T / kinds.sum(1)).mean(-1)

    return mean(losses), mean(right)
