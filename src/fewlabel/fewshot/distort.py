"""Affine distortion: each image is rotated, scaled, sheared and shifted at random, in one resampling."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from fewlabel.params import Distortion


def affine(images: Tensor, settings: Distortion, generator: torch.Generator) -> Tensor:
    """Distort each image by its own random transformation, uniform within the settings. If all are 0, nothing changes.

    Args:
        images: (..., channels, size, size) float, 0 where there is no ink.
        generator: on the CPU, so that the draws are the same on every device.

    Returns:
        The same shape. Pixels from outside the image are 0.
    """
    if not images.numel() or not any((settings.turn, settings.scale, settings.shear, settings.shift)):
        return images
    flat = images.flatten(0, -4)
    angle, wide, high, shear, right, down = 2 * torch.rand(6, len(flat), generator=generator) - 1
    angle = angle * math.radians(settings.turn)
    wide, high = 1 + wide * settings.scale, 1 + high * settings.scale
    shear = shear * settings.shear
    moved = 2 * settings.shift * torch.stack([right, down], 1)  # of -1 to 1 across the image
    rows = [
        torch.stack([angle.cos() * wide, (shear - angle.sin()) * high, moved[:, 0]], 1),
        torch.stack([(shear + angle.sin()) * wide, angle.cos() * high, moved[:, 1]], 1),
    ]
    grid = F.affine_grid(torch.stack(rows, 1).to(images.device), list(flat.shape), align_corners=False)
    return F.grid_sample(flat, grid, align_corners=False).view_as(images)
