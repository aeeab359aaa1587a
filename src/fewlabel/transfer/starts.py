"""What a training on few photographs starts from, and which inputs it gets.

All layers train on random crops and mirror images, whatever their weights start from. The frozen start trains a linear
head on features that are extracted once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from fewlabel.errors import DamagedFile
from fewlabel.networks import small, weights
from fewlabel.networks.backbones import Backbone
from fewlabel.networks.classifier import Classifier, linear_head
from fewlabel.training import augment


@dataclass(frozen=True)
class Start:
    """What is trained, and what goes into it. ``which`` are rows of the prepared photographs."""

    network: nn.Module
    train_inputs: Callable[[Tensor, torch.Generator], Tensor]  # which, and draws for the augmentation
    test_inputs: Callable[[Tensor], Tensor]  # which


def small_backbone(module: nn.Module, name: str) -> Backbone:
    """A network of `networks.small`, with the inputs that it is pretrained on."""
    return Backbone(module, small.widths(name)[-1], std=(0.25, 0.25, 0.25))


def all_layers(
    backbone: Backbone, images: Tensor, size: int, crop_size: int, smallest_crop: float, classes: int, seed: int
) -> Start:
    """All layers train, on random crops and mirror images.

    Args:
        images: the photographs, uint8 (n, 3, side, side), on the device.
        size: pixels a side of the middle square that is measured.
        crop_size: pixels a side of a crop, which shows at least the share ``smallest_crop`` of a photograph's area.
    """
    network = Classifier(backbone.module, linear_head(backbone.width, classes, seed))

    def train_inputs(which: Tensor, draw: torch.Generator) -> Tensor:
        photographs = images[which.to(images.device)].float()
        return backbone.normalise(augment.resized_crop_and_flip(photographs, crop_size, smallest_crop, draw))

    def test_inputs(which: Tensor) -> Tensor:
        return backbone.normalise(augment.middle(images[which.to(images.device)], size))

    return Start(network.to(images.device), train_inputs, test_inputs)


def frozen(features: Path, device: torch.device, photographs: int, classes: int, seed: int) -> Start:
    """A linear head trains on features of the photographs and of their mirror images, without crops.

    Raises:
        DamagedFile: the features are not of so many photographs.
    """
    tensors, _ = weights.read(features)
    found = [tensors[name] for name in ("upright", "mirrored") if name in tensors]
    if [tensor.shape[:-1] for tensor in found] != [(photographs,)] * 2 or found[0].shape != found[1].shape:
        raise DamagedFile(features, f"not of {photographs} photographs", "run `dvc repro transfer_features`")
    views = torch.stack(found).to(device)  # (2, photographs, width)

    def train_inputs(which: Tensor, draw: torch.Generator) -> Tensor:
        mirrored = torch.randint(2, which.shape, generator=draw)
        return views[mirrored.to(device), which.to(device)]

    head = linear_head(views.shape[-1], classes, seed).to(device)
    return Start(head, train_inputs, lambda which: views[0, which.to(device)])
