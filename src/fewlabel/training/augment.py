"""Crops and flips of whole batches as tensor operations on the device the images are on.

Every draw comes from a CPU generator given by the caller, so that a step's batch is the same on every device and
after a resumed training.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def generator(*seeds: int) -> torch.Generator:
    """A CPU generator for one purpose, e.g. ``generator(seed, step)``: no state is carried from step to step."""
    mixed = 0
    for seed in seeds:
        mixed = (mixed * 1_000_003 + seed + 1) % (2**63)
    return torch.Generator().manual_seed(mixed)


def batch_indices(n: int, batch_size: int, step: int, seed: int) -> Tensor:
    """Which of n images step ``step`` trains on: the next ``batch_size`` of an endless row of shuffles of all n."""
    first, last = step * batch_size, (step + 1) * batch_size
    epochs = range(first // n, (last - 1) // n + 1)
    row = torch.cat([torch.randperm(n, generator=generator(seed, epoch)) for epoch in epochs])
    return row[first - epochs.start * n :][:batch_size]


def to_float(images: Tensor, mean: Tensor | float = 0.5, std: Tensor | float = 0.25) -> Tensor:
    """uint8 pixels to normalised float32: (pixel / 255 − mean) / std; mean and std broadcast over (B, 3, H, W)."""
    return (images.float() / 255 - mean) / std


def shift_and_flip(images: Tensor, pad: int, draw: torch.Generator) -> Tensor:
    """Each image moved by up to ``pad`` pixels either way (black comes in at the edge), every other one mirrored.

    Args:
        images: (B, channels, H, W), any type; the result has the same shape and type.
    """
    count, _, height, width = images.shape
    dy = torch.randint(2 * pad + 1, (count, 1, 1), generator=draw)
    dx = torch.randint(2 * pad + 1, (count, 1, 1), generator=draw)
    mirrored = torch.rand((count, 1, 1), generator=draw) < 0.5
    columns = torch.arange(width).view(1, 1, width)
    columns = torch.where(mirrored, width - 1 - columns, columns) + dx
    rows = torch.arange(height).view(1, height, 1) + dy
    padded = F.pad(images, (pad, pad, pad, pad)).permute(0, 2, 3, 1)
    which = torch.arange(count).view(count, 1, 1)
    device = images.device
    return padded[which.to(device), rows.to(device), columns.to(device)].permute(0, 3, 1, 2).contiguous()


def resized_crop_and_flip(images: Tensor, size: int, smallest: float, draw: torch.Generator) -> Tensor:
    """A random square of each image, resized to ``size``; every other one mirrored.

    Args:
        images: (B, channels, side, side) float.
        smallest: the least share of the image's area that a square has.

    Returns:
        (B, channels, size, size) float.
    """
    count = len(images)
    scale = (smallest + (1 - smallest) * torch.rand(count, generator=draw)).sqrt()
    move = (2 * torch.rand((count, 2), generator=draw) - 1) * (1 - scale)[:, None]
    mirror = 1 - 2 * (torch.rand(count, generator=draw) < 0.5).float()
    zero = torch.zeros(count)
    to_source = torch.stack(
        [torch.stack([mirror * scale, zero, move[:, 0]], 1), torch.stack([zero, scale, move[:, 1]], 1)], 1
    ).to(images.device)
    grid = F.affine_grid(to_source, [count, images.shape[1], size, size], align_corners=False)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="reflection", align_corners=False)


def colour(images: Tensor, strength: float, draw: torch.Generator) -> Tensor:
    """Four of five images in other brightness, contrast and saturation, and one of five in grey (Chen et al.: SimCLR,
    ICML 2020, appendix A; without the hue).

    Args:
        images: (B, 3, H, W) float, 0 to 255; the result too.
        strength: each factor lies between 1 − strength and 1 + strength.
    """
    chosen, grey, *factors = torch.rand((5, len(images), 1, 1, 1), generator=draw).to(images.device)
    brightness, contrast, saturation = (1 + strength * (2 * factor - 1) for factor in factors)
    changed = images * brightness
    for factor, dims in ((contrast, (1, 2, 3)), (saturation, (1,))):
        mean = changed.mean(dims, keepdim=True)
        changed = mean + factor * (changed - mean)
    changed = torch.where(chosen < 0.8, changed, images).clamp(0, 255)
    return torch.where(grey < 0.2, changed.mean(1, keepdim=True), changed)


def resize(images: Tensor, size: int) -> Tensor:
    """(B, channels, H, W) float → (B, channels, size, size), smoothed first where it shrinks."""
    if images.shape[-2:] == (size, size):
        return images
    return F.interpolate(images, (size, size), mode="bilinear", antialias=True, align_corners=False)


def middle(images: Tensor, size: int) -> Tensor:
    """The middle 7/8 of the side of square images, any type → (B, channels, size, size) float."""
    edge = images.shape[-1] // 16
    return resize(images[..., edge : images.shape[-2] - edge, edge : images.shape[-1] - edge].float(), size)
