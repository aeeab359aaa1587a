"""Prototypical networks: Snell, Swersky and Zemel, "Prototypical networks for few-shot learning", 2017.

A class is the mean of its embedded supports; a query belongs to the nearest, by squared Euclidean distance. Training
episodes have more classes than test episodes, as in the paper. Two settings go beyond it:

- ``temperature`` divides the distances of a training step: Oreshkin, Rodriguez and Lacoste, "TADAM", 2018, section 3.2;
- ``every_support``: each drawing of an episode is a support in one turn and a query in the others, so that one pass
  through the network serves many episodes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fewlabel.fewshot.episodes import Shape
from fewlabel.fewshot.methods.base import MetricMethod, Problem
from fewlabel.params import Prototypes as Settings


class Prototypes(MetricMethod):
    way_parameter = "prototypes.way"
    shot_parameter = "prototypes.shot + prototypes.queries"

    def __init__(self, settings: Settings, problem: Problem, device: torch.device) -> None:
        super().__init__(settings, problem, device)
        self.shape = Shape(tasks=1, way=settings.way, shot=settings.shot, queries=settings.queries)

    def loss(self, support: Tensor, query: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
        images = torch.cat([support, query], dim=2)[0]
        features = self.model(images.flatten(0, 1)).unflatten(0, images.shape[:2])
        turns = images.shape[1] if self.settings.every_support else 1
        return episode_loss(features, self.settings.shot, turns, self.settings.temperature)

    def learn(self, support: Tensor) -> Tensor:
        return support.mean(2)  # the prototypes

    def classify(self, learnt: Tensor, query: Tensor, transductive: bool) -> Tensor:
        return negative_distances(query.flatten(1, 2), learnt) / self.settings.temperature


def negative_distances(queries: Tensor, prototypes: Tensor) -> Tensor:
    """Logits (..., q, p) of queries (..., q, width): −|q − p|² without the |q|² that all prototypes share."""
    return 2 * queries @ prototypes.transpose(-1, -2) - prototypes.square().sum(-1).unsqueeze(-2)


def episode_loss(features: Tensor, shot: int, turns: int, temperature: float) -> tuple[Tensor, Tensor]:
    """Mean cross-entropy and accuracy of the queries of one episode, over `turns`; scalars.

    Args:
        features: (way, drawings, width). In turn t the supports are the drawings t to t + shot - 1, counted cyclically;
            the others are queries.
    """
    way, drawings, _ = features.shape
    place = (torch.arange(drawings)[:, None] - torch.arange(turns)) % drawings  # (drawings, turns)
    query = (place >= shot).to(features.device)
    prototypes = torch.stack([features.roll(-turn, 1)[:, :shot].mean(1) for turn in range(turns)])
    logits = negative_distances(features.flatten(0, 1), prototypes.flatten(0, 1)) / temperature
    logits = logits.view(way, drawings, turns, way)[:, query]  # (way, queries of all turns, way)
    own = torch.arange(way, device=features.device)
    loss = -logits.log_softmax(-1)[own, :, own].mean()
    return loss, (logits.argmax(-1) == own[:, None]).float().mean()
