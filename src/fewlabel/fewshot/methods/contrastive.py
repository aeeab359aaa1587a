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
from fewlabel.fewshot.methods.base import MetricMethod, Problem, among_others
from fewlabel.params import Contrastive as Settings


class Contrastive(MetricMethod):
    way_parameter = "contrastive.classes"
    shot_parameter = "contrastive.drawings"

    def __init__(self, settings: Settings, problem: Problem, device: torch.device) -> None:
        super().__init__(settings, problem, device)
        self.shape = Shape(tasks=1, way=settings.classes, shot=settings.drawings, queries=0)

    def loss(self, support: Tensor, query: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
        features = F.normalize(self.model(support.flatten(0, 2)), dim=1)
        targets = torch.arange(support.shape[1], device=self.device).repeat_interleave(support.shape[2])
        return contrastive_loss(features, targets, self.settings.temperature)

    def embed(self, images: Tensor) -> Tensor:
        return F.normalize(super().embed(images), dim=1)

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
    log_share, positive, accuracy = among_others(features @ features.T / temperature, targets)
    return -(log_share.masked_fill(~positive, 0).sum(1) / positive.sum(1)).mean(), accuracy
