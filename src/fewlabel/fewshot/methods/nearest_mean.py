"""Pretrain, then nearest mean: the Classifier-Baseline of Chen et al., "Meta-Baseline: exploring simple meta-learning
for few-shot learning", 2021, section 3.1.

A plain classifier is trained on all training classes; then its head is dropped, a class is the mean of its supports'
features, and a query belongs to the mean at the smallest angle. No episode in the training: what meta-learning has to
beat.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fewlabel.fewshot.episodes import Shape
from fewlabel.fewshot.methods.base import MetricMethod, Problem
from fewlabel.networks.conv4 import Conv4
from fewlabel.params import NearestMean as Settings

TEMPERATURE = 10.0  # of the cosines, the paper's; it scales the loss only


class NearestMean(MetricMethod):
    way_parameter = "nearest_mean.classes"
    shot_parameter = "nearest_mean.drawings"

    model: Conv4

    def __init__(self, settings: Settings, problem: Problem, device: torch.device) -> None:
        super().__init__(settings, problem, device)
        self.shape = Shape(tasks=1, way=settings.classes, shot=settings.drawings, queries=0)

    def network(self) -> nn.Module:
        return self.conv4(self.problem.classes)

    def loss(self, support: Tensor, query: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
        targets = classes.flatten().repeat_interleave(support.shape[2]).to(self.device)
        logits = self.model(support.flatten(0, 2))
        return F.cross_entropy(logits, targets), (logits.argmax(1) == targets).float().mean()

    def embed(self, images: Tensor) -> Tensor:
        self.model.eval()
        return self.model.features_of(images)

    def learn(self, support: Tensor) -> Tensor:
        return F.normalize(support.mean(2), dim=-1)

    def classify(self, learnt: Tensor, query: Tensor, transductive: bool) -> Tensor:
        queries = F.normalize(query.flatten(1, 2), dim=-1)
        return TEMPERATURE * queries @ learnt.transpose(1, 2)
