"""What a pretraining without labels is: views of an image, and what is to be told about them."""

from __future__ import annotations

import importlib
from typing import Any

import torch
from torch import Tensor, nn

from fewlabel.training import supervised


class Pretraining:
    """One way to learn features without labels; a subclass in ``labels/<name>.py`` called like the file, in CamelCase.

    Views come as (copies x B, ...), the first view of all images before the second one.
    """

    question: str  # that its accuracy answers, in the name of the protocol

    def __init__(self, settings: Any) -> None:
        """
        Args:
            settings: its section of params.yaml.
        """
        self.settings = settings

    @property
    def copies(self) -> int:
        """Views of an image in a batch."""
        raise NotImplementedError

    def head(self, width: int, seed: int) -> nn.Module:
        """What is trained on the features (B, width), and thrown away afterwards."""
        raise NotImplementedError

    def views(self, images: Tensor, draw: torch.Generator | None) -> tuple[Tensor, Tensor]:
        """Inputs and labels (copies x B, ...) of uint8 images (B, 3, side, side); without `draw` always the same."""
        raise NotImplementedError

    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Of the head's outputs; a scalar."""
        raise NotImplementedError

    def right(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Whether each view is answered rightly, (copies x B,) bool."""
        raise NotImplementedError

    def measure(self, network: nn.Module, images: Tensor, batch_size: int) -> tuple[float, Tensor]:
        """The mean loss, and of each image the share of its views that are answered rightly, (B,)."""
        losses, shares = [], []
        for chunk in images.split(batch_size):
            inputs, labels = self.views(chunk, None)
            outputs = supervised.predict(network, [inputs])
            losses.append(self.loss(outputs, labels.cpu()) * len(chunk))
            shares.append(self.right(outputs, labels.cpu()).view(self.copies, -1).float().mean(0))
        return (torch.stack(losses).sum() / len(images)).item(), torch.cat(shares)


def create(name: str, settings: Any) -> Pretraining:
    """The pretraining called `name`."""
    kind = getattr(importlib.import_module(f"fewlabel.labels.{name}"), name.title().replace("_", ""))
    return kind(settings)
