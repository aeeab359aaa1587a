"""What a training on few labels starts from: random weights, or the backbone that learnt to tell rotations."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from fewlabel.networks import resnet
from fewlabel.networks.classifier import Classifier, linear_head
from fewlabel.params import FinetuneFrom


def head(settings: FinetuneFrom, classes: int, seed: int) -> nn.Module:
    """What is put on the backbone that `shape` describes."""
    blocks, grid = shape(settings)
    width = resnet.WIDTHS[blocks - 1] * grid**2
    linear = linear_head(width, classes, seed)
    # Normalised without parameters, as the features of a frozen backbone come on every scale.
    return nn.Sequential(nn.BatchNorm1d(width, affine=False), linear) if settings.frozen_blocks else linear


def shape(settings: FinetuneFrom) -> tuple[int, int]:
    """Blocks of the backbone, and cells a side that its last feature maps are averaged to: those of an early block keep
    a grid; those of the last are pooled, as the rotation head saw them."""
    return (settings.frozen_blocks, settings.grid) if settings.frozen_blocks else (len(resnet.WIDTHS), 1)


def from_scratch(stem: resnet.Stem, classes: int, seed: int) -> Classifier:
    """All layers train, from random weights."""
    return Classifier(resnet.resnet18(stem, seed), linear_head(resnet.WIDTHS[-1], classes, seed))


def from_backbone(path: Path, settings: FinetuneFrom, classes: int, seed: int) -> Classifier:
    """All layers train, from the backbone's weights; or only a head on its first blocks, which stay frozen."""
    backbone = resnet.load(path, *shape(settings))
    return Classifier(backbone, head(settings, classes, seed), frozen=settings.frozen_blocks > 0)
