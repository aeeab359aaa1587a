"""Use a network that was trained on few photographs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fewlabel.errors import UserError
from fewlabel.networks import backbones, small
from fewlabel.networks.classifier import Classifier, linear_head
from fewlabel.training import augment
from fewlabel.transfer import starts

CHUNK = 32  # photographs per forward pass


def classify(config: dict[str, Any], weights: dict[str, Tensor], images: Tensor) -> Tensor:
    """uint8 photographs (n, 3, 256, 256) → logits (n, classes).

    Args:
        config: ``way``, the number of classes; ``settings``, of the stage transfer; ``backbone``, its name.
        weights: of the network, or of a head on the ImageNet features of the backbone.

    Raises:
        UserError: it is a head alone, and no installed package has the weights of the backbone.
    """
    name, settings, head_alone = config["backbone"], config["settings"], "weight" in weights
    if settings["size"]:
        made = starts.small_backbone(small.create(name, seed=0), name)
    else:
        imagenet = backbones.packaged_weights(name) if head_alone else None
        if head_alone and imagenet is None:
            raise UserError(f"the weights of {name} are in no package: a head on its features cannot be used alone")
        made = backbones.create(name, 0, imagenet)
    network = Classifier(made.module, linear_head(made.width, config["way"], seed=0))
    (network.head if head_alone else network).load_state_dict(weights)
    network.eval()
    size = settings["size"] or settings["image_size"]
    with torch.no_grad():
        return torch.cat([network(made.normalise(augment.middle(c, size))) for c in images.split(CHUNK)])
