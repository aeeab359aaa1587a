import math

import torch
import torch.nn.functional as F
from torch import Tensor

from fewlabel.fewshot.methods.contrastive import contrastive_loss


def by_loops(features: Tensor, targets: list[int], temperature: float) -> float:
    """Equation 2 of the paper, term by term, in float64."""
    similarity = (features.double() @ features.double().T / temperature).tolist()
    total = 0.0
    for i, own in enumerate(targets):
        others = [a for a in range(len(targets)) if a != i]
        positives = [p for p in others if targets[p] == own]
        everyone = sum(math.exp(similarity[i][a]) for a in others)
        total -= sum(math.log(math.exp(similarity[i][p]) / everyone) for p in positives) / len(positives)
    return total / len(targets)


def test_the_loss_is_the_paper_s_equation() -> None:
    features = F.normalize(torch.randn(7, 5, generator=torch.Generator().manual_seed(0)), dim=1)
    targets = [0, 1, 0, 2, 1, 2, 0]
    loss, _ = contrastive_loss(features, torch.tensor(targets), 0.2)
    assert math.isclose(loss.item(), by_loops(features, targets, 0.2), rel_tol=1e-5)


def test_classes_that_lie_together_have_no_loss_and_every_neighbour_right() -> None:
    features = torch.eye(4).repeat_interleave(2, dim=0)
    loss, accuracy = contrastive_loss(features, torch.arange(4).repeat_interleave(2), 0.01)
    assert loss < 1e-6
    assert accuracy == 1
