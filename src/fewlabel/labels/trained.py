"""Use a network that was trained on few labels of CIFAR-10."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fewlabel.labels import starts
from fewlabel.networks import resnet
from fewlabel.networks import weights as files
from fewlabel.networks.classifier import Classifier
from fewlabel.params import FinetuneFrom
from fewlabel.training import augment

CHUNK = 1000  # images per forward pass


def with_backbone(head: dict[str, Tensor], path: str, blocks: int) -> dict[str, Tensor]:
    """The weights of a whole network, from those of its head and the file of the backbone that was frozen."""
    found = {f"head.{name}": tensor for name, tensor in head.items()}
    for name, tensor in files.read(path)[0].items():
        if not name.startswith("layer") or int(name[5]) <= blocks:
            found[f"backbone.{name}"] = tensor
    return found


def classify(config: dict[str, Any], weights: dict[str, Tensor], images: Tensor) -> Tensor:
    """uint8 images (n, 3, 32, 32) → logits (n, classes).

    Args:
        config: ``way``, the number of classes, and ``settings``, of the stage finetune.
        weights: of the whole network, frozen blocks included.
    """
    settings = FinetuneFrom(**{name: config["settings"][name] for name in FinetuneFrom.model_fields})
    stem = resnet.stem_of(weights["backbone.conv1.weight"])
    backbone = resnet.resnet18(stem, 0, *starts.shape(settings))
    network = Classifier(backbone, starts.head(settings, config["way"], seed=0))
    network.load_state_dict(weights)
    network.eval()
    with torch.no_grad():
        return torch.cat([network(augment.to_float(chunk)) for chunk in images.split(CHUNK)])
