import math

import pytest
import torch
import torch.nn.functional as F

from fewlabel.training import losses


def test_focal_loss_against_literal_numbers() -> None:
    # True-class probabilities 0.9 and 0.5; α = 0.5, γ = 2:
    # 0.5·0.1²·0.1053605 = 0.000526803 and 0.5·0.5²·0.6931472 = 0.0866434; their mean is 0.0435851.
    logits = torch.tensor([[math.log(9), 0.0], [0.0, 0.0]], dtype=torch.float64)
    loss = losses.focal_loss(logits, torch.tensor([0, 1]), alpha=0.5, gamma=2.0)
    assert loss.item() == pytest.approx(0.0435851, abs=1e-7)


def test_focal_loss_without_focus_is_scaled_cross_entropy() -> None:
    logits, labels = torch.randn(32, 10), torch.randint(10, (32,))
    loss = losses.focal_loss(logits, labels, alpha=0.25, gamma=0.0)
    torch.testing.assert_close(loss, 0.25 * F.cross_entropy(logits, labels))


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_focal_loss_has_finite_gradients_for_a_sure_answer(gamma: float) -> None:
    logits = torch.tensor([[200.0, -200.0], [-200.0, 200.0]], requires_grad=True)
    losses.focal_loss(logits, torch.tensor([0, 0]), alpha=0.5, gamma=gamma).backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


def test_choose() -> None:
    logits, labels = torch.randn(4, 3), torch.tensor([0, 1, 2, 0])
    assert losses.choose("cross_entropy", 0.5, 2.0)(logits, labels) == F.cross_entropy(logits, labels)
    assert losses.choose("focal", 0.5, 2.0)(logits, labels) == losses.focal_loss(logits, labels, 0.5, 2.0)
