"""The networks for images of 32x32 pixels, by name: ``resnet18-imagenet`` and ``resnet18-cifar``, by their stem, and
``compact-32-128-128``, by the channels of its groups."""

from __future__ import annotations

from pathlib import Path
from typing import cast

from torch import Tensor, nn

from fewlabel.networks import weights
from fewlabel.networks.small.compact import compact
from fewlabel.networks.small.resnet import WIDTHS, Stem, resnet18


def widths(name: str) -> tuple[int, ...]:
    """Channels after each group of layers."""
    kind, *others = name.split("-")
    return WIDTHS if kind == "resnet18" else tuple(map(int, others))


def create(name: str, seed: int, images: Tensor | None = None, groups: int | None = None, grid: int = 1) -> nn.Module:
    """Images (B, 3, H, W), normalised → features (B, widths(name)[groups − 1] x grid²), random from the seed.

    Args:
        images: (n, 3, H, W), normalised: what the first layer of a compact network whitens; None: weights are loaded
            afterwards.
        groups: how many of the groups of layers to keep; None: all.
        grid: cells a side that the last feature maps are pooled to.
    """
    kept = widths(name)[:groups]
    if name.startswith("resnet18"):
        return resnet18(cast(Stem, name.partition("-")[2]), seed, len(kept), grid)
    return compact(kept, seed, images, grid)


def load(path: str | Path, name: str, groups: int | None = None, grid: int = 1) -> nn.Module:
    """The network of this name with the weights in the file, or its first groups. Raises `DamagedFile`."""
    tensors, _ = weights.read(path)
    backbone = create(name, 0, None, groups, grid)
    weights.fill(backbone, {key: tensors[key] for key in backbone.state_dict() if key in tensors}, path)
    return backbone
