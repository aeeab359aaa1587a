"""A compact network for images of 32x32 pixels: airbench94 by Jordan, "94 % on CIFAR-10 in 3.29 seconds on a single
GPU", 2024, section 3, with fewer channels.

A fixed convolution whitens patches of 2x2 pixels. Three groups follow, of two 3x3 convolutions each, with max pooling
after the first. At the start the first channels of every convolution copy its input (Zagoruyko and Komodakis,
"DiracNets", 2017).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

PATCH = 2  # pixels a side
EPSILON = 5e-4  # added to a patch's variances, so that directions without contrast are not blown up


class Group(nn.Sequential):
    """(B, inputs, H, W) → (B, outputs, H / 2, W / 2)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(
            identity_convolution(inputs, outputs),
            nn.MaxPool2d(2),
            nn.BatchNorm2d(outputs),
            nn.GELU(),
            identity_convolution(outputs, outputs),
            nn.BatchNorm2d(outputs),
            nn.GELU(),
        )


def identity_convolution(inputs: int, outputs: int) -> nn.Conv2d:
    """A 3x3 convolution whose first channels copy its input, the others random."""
    convolution = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
    nn.init.dirac_(convolution.weight.data[:inputs])
    return convolution


def whitening_filters(images: Tensor) -> Tensor:
    """Filters that turn patches into uncorrelated values of variance 1, and the same with the opposite sign.

    Args:
        images: (B, channels, H, W) float, normalised as the network's inputs.

    Returns:
        (2 x patch values, channels, 2, 2), the directions of the largest variance first.
    """
    patches = F.unfold(images, PATCH).transpose(1, 2).flatten(0, 1).double()  # (n, channels x 4)
    variances, directions = torch.linalg.eigh(patches.T.cov())
    filters = (directions / (variances + EPSILON).sqrt()).T.flip(0)
    filters = filters.unflatten(1, (images.shape[1], PATCH, PATCH)).float()
    return torch.cat([filters, -filters])


def compact(widths: Sequence[int], seed: int, images: Tensor | None = None, grid: int = 1) -> nn.Sequential:
    """Images (B, 3, H, W), normalised → features (B, widths[-1] x grid²), random from the seed.

    Args:
        widths: channels of each group; fewer than three give the first groups alone.
        images: whose patches the first layer whitens, as for `whitening_filters`; None: its filters are loaded later.
        grid: cells a side that the last feature maps are pooled to.
    """
    filters = 2 * 3 * PATCH**2
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        whiten = nn.Conv2d(3, filters, PATCH)
        nn.init.zeros_(whiten.bias)  # type: ignore[arg-type]
        groups = [Group(inputs, outputs) for inputs, outputs in zip((filters, *widths), widths, strict=False)]
    if images is not None:
        whiten.weight.data = whitening_filters(images)
    whiten.weight.requires_grad_(False)
    return nn.Sequential(whiten, nn.GELU(), *groups, nn.AdaptiveMaxPool2d(grid), nn.Flatten())
