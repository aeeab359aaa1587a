"""Losses for classification.

Focal loss: Lin, Goyal, Girshick, He, Dollár: Focal Loss for Dense Object Detection, ICCV 2017.
"""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor

Loss = Callable[[Tensor, Tensor], Tensor]


def focal_loss(logits: Tensor, labels: Tensor, alpha: float, gamma: float) -> Tensor:
    """Mean of −α (1 − p)^γ log p, where p is the probability given to the true class.

    Examples that are already right count less as γ grows; γ = 0 is α times the cross-entropy.

    Args:
        logits: (B, classes) float.
        labels: (B,) int64.
    """
    cross_entropy = F.cross_entropy(logits, labels, reduction="none")
    wrong = -(-cross_entropy).expm1()  # 1 − p, exact where p is close to 1
    if gamma == 0:  # 0⁰ has no useful gradient
        return alpha * cross_entropy.mean()
    return (alpha * wrong.clamp_min(1e-12) ** gamma * cross_entropy).mean()


def choose(name: str, alpha: float, gamma: float) -> Loss:
    """The loss of params.yaml: ``cross_entropy`` or ``focal``."""
    if name == "focal":
        return lambda logits, labels: focal_loss(logits, labels, alpha, gamma)
    return F.cross_entropy
