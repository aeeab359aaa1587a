"""What a training on few labels starts from: random weights, or the backbone that learnt to tell rotations."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from fewlabel.networks import resnet
from fewlabel.networks.classifier import Classifier, linear_head
from fewlabel.params import FinetuneFrom


def from_scratch(stem: resnet.Stem, classes: int, seed: int) -> Classifier:
    """All layers train, from random weights."""
    return Classifier(resnet.resnet18(stem, seed), linear_head(resnet.WIDTHS[-1], classes, seed))


def from_backbone(path: Path, settings: FinetuneFrom, classes: int, seed: int) -> Classifier:
    """All layers train, from the backbone's weights; or only a head on its first blocks, which stay frozen."""
    if not settings.frozen_blocks:
        return Classifier(resnet.load(path), linear_head(resnet.WIDTHS[-1], classes, seed))
    # The features of the last block are pooled, as the rotation head saw them; those of an early one keep a grid.
    width = resnet.WIDTHS[settings.frozen_blocks - 1] * settings.grid**2
    # Normalised without parameters, as the features of a frozen backbone come on every scale.
    head = nn.Sequential(nn.BatchNorm1d(width, affine=False), linear_head(width, classes, seed))
    return Classifier(resnet.load(path, settings.frozen_blocks, settings.grid), head, frozen=True)
