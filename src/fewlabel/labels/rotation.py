"""Rotation prediction (RotNet): learn features without labels by telling how far an image was turned.

Gidaris, Singh, Komodakis: Unsupervised Representation Learning by Predicting Image Rotations, ICLR 2018.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fewlabel.labels.pretraining import Pretraining
from fewlabel.networks.classifier import linear_head
from fewlabel.params import PretrainRotation as Settings
from fewlabel.training import augment

ROTATIONS = 4  # 0, 90, 180 and 270 degrees counter-clockwise; the label counts the quarter turns


class Rotation(Pretraining):
    """Of each image all four rotations; the outputs are logits of the quarter turns."""

    settings: Settings
    question = "which-rotation"

    @property
    def copies(self) -> int:
        return ROTATIONS

    def head(self, width: int, seed: int) -> nn.Module:
        return linear_head(width, ROTATIONS, seed)

    def views(self, images: Tensor, draw: torch.Generator | None) -> tuple[Tensor, Tensor]:
        moved = images if draw is None else augment.shift_and_flip(images, self.settings.shift, draw)
        turned, labels = four_copies(moved)
        return augment.to_float(turned), labels

    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(outputs, labels)

    def right(self, outputs: Tensor, labels: Tensor) -> Tensor:
        return outputs.argmax(1) == labels


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
