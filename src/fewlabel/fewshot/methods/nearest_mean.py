"""Pretrain, then nearest mean: the Classifier-Baseline of Chen et al., "Meta-Baseline: exploring simple meta-learning
for few-shot learning", 2021, section 3.1.

A plain classifier is trained on all training classes; then its head is dropped, a class is the mean of its supports'
features, and a query belongs to the mean at the smallest angle. No episode in the training: what meta-learning has to
beat.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from fewlabel.fewshot.episodes import Shape
from fewlabel.fewshot.methods.base import Method, Problem, cosine, descend
from fewlabel.networks.conv4 import Conv4
from fewlabel.params import NearestMean as Settings

TEMPERATURE = 10.0  # of the cosines, the paper's; it scales the loss only


class NearestMean(Method):
    way_parameter = "nearest_mean.classes"
    shot_parameter = "nearest_mean.drawings"

    model: Conv4
    optimizer: torch.optim.Optimizer

    def __init__(self, settings: Settings, problem: Problem, device: torch.device) -> None:
        super().__init__(settings, problem, device)
        self.model = Conv4(settings.network, problem.classes, channels=problem.channels, size=problem.size).to(device)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=settings.lr)
        self.shape = Shape(tasks=1, way=settings.classes, shot=settings.drawings, queries=0)

    def step(
        self, support: Tensor, query: Tensor, classes: Tensor, done: float, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        self.model.train()
        targets = classes.flatten().repeat_interleave(support.shape[2]).to(self.device)
        logits = self.model(support.flatten(0, 2))
        loss = F.cross_entropy(logits, targets)
        self.optimizer.zero_grad()
        loss.backward()
        descend(self.optimizer, self.settings.lr * cosine(done))
        return loss.detach(), (logits.argmax(1) == targets).float().mean()

    def embed(self, images: Tensor) -> Tensor:
        self.model.eval()
        return self.model.features_of(images)

    def learn(self, support: Tensor) -> Tensor:
        return F.normalize(support.mean(2), dim=-1)

    def classify(self, learnt: Tensor, query: Tensor, transductive: bool) -> Tensor:
        queries = F.normalize(query.flatten(1, 2), dim=-1)
        return TEMPERATURE * queries @ learnt.transpose(1, 2)
