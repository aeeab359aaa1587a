"""Rotation prediction: learn features without labels by telling how far an image was turned.

Gidaris, Singh, Komodakis: Unsupervised Representation Learning by Predicting Image Rotations, ICLR 2018.
"""

from __future__ import annotations

import torch
from torch import Tensor

ROTATIONS = 4  # 0, 90, 180 and 270 degrees counter-clockwise; the label counts the quarter turns


def four_copies(images: Tensor) -> tuple[Tensor, Tensor]:
    """All four rotations of each image, made where the images are: one upload serves a batch four times as large.

    The four copies of an image stay in one batch, as in the paper, so that no batch can tell rotations from content.

    Args:
        images: (B, channels, side, side), any type.

    Returns:
        (4 B, channels, side, side), the B unturned images first, then those turned once, and so on; and the
        quarter turns (4 B,) int64.
    """
    if images.shape[-1] != images.shape[-2]:
        raise ValueError(f"images must be square to turn within a batch, not {tuple(images.shape[-2:])}")
    turned = torch.cat([torch.rot90(images, quarter_turns, (-2, -1)) for quarter_turns in range(ROTATIONS)])
    labels = torch.arange(ROTATIONS, device=images.device).repeat_interleave(len(images))
    return turned, labels
