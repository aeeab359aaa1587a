"""Use a network that was trained on few labels of CIFAR-10."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fewlabel.labels import starts
from fewlabel.networks import small
from fewlabel.networks import weights as files
from fewlabel.networks.classifier import Classifier
from fewlabel.training import augment

CHUNK = 1000  # images per forward pass


def with_backbone(head: dict[str, Tensor], path: str, settings: dict[str, Any]) -> dict[str, Tensor]:
    """The weights of a whole network, from those of its head and the file of the backbone that was frozen."""
    module = small.load(path, settings["network"], settings["frozen"], settings["grid"])
    tensors = {f"backbone.{name}": tensor for name, tensor in files.of(module).items()}
    return tensors | {f"head.{name}": tensor for name, tensor in head.items()}


def classify(config: dict[str, Any], weights: dict[str, Tensor], images: Tensor) -> Tensor:
    """uint8 images (n, 3, 32, 32) → logits (n, classes).

    Args:
        config: ``way``, the number of classes, and ``settings``, of the stage finetune.
        weights: of the whole network, frozen groups included.
    """
    name, groups, grid = (config["settings"][key] for key in ("network", "frozen", "grid"))
    backbone = small.create(name, 0, None, groups, grid)
    network = Classifier(backbone, starts.head(name, groups, grid, config["way"], seed=0))
    network.load_state_dict(weights)
    network.eval()
    with torch.no_grad():
        return torch.cat([network(augment.to_float(chunk)) for chunk in images.split(CHUNK)])
