"""What a training on few labels starts from: random weights, or a backbone that was pretrained without labels."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from fewlabel.data.cifar10 import Cifar10
from fewlabel.networks import small
from fewlabel.networks.classifier import Classifier, linear_head
from fewlabel.training import augment

WHITENED = 2000  # training images, without their labels, that a compact network's first layer whitens


def backbone(network: str, data: Cifar10, seed: int) -> nn.Module:
    """The network of this name with random weights."""
    return small.create(network, seed, augment.to_float(torch.from_numpy(data.train_images[:WHITENED])))


def from_scratch(network: str, data: Cifar10, classes: int, seed: int) -> Classifier:
    """All layers train, from random weights."""
    return Classifier(backbone(network, data, seed), head(network, None, 1, classes, seed))


def from_pretrained(path: Path, network: str, groups: int | None, grid: int, classes: int, seed: int) -> Classifier:
    """All layers train, from the pretrained weights; or only a head on the first groups, which stay frozen. Raises
    `DamagedFile`."""
    module = small.load(path, network, groups, grid)
    return Classifier(module, head(network, groups, grid, classes, seed), frozen=groups is not None)


def head(network: str, groups: int | None, grid: int, classes: int, seed: int) -> nn.Module:
    """What is put on the backbone, or on its first groups, which are frozen."""
    linear = linear_head(small.widths(network)[:groups][-1] * grid**2, classes, seed)
    # Normalised without parameters, as the features of a frozen backbone come on every scale.
    return linear if groups is None else nn.Sequential(nn.BatchNorm1d(linear.in_features, affine=False), linear)
