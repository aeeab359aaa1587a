"""ResNet-18 as a backbone: torchvision's layers and parameter names, two stems, any number of its four blocks.

He, Zhang, Ren, Sun: Deep Residual Learning for Image Recognition, CVPR 2016.
"""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from typing import Literal, cast

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision.models import resnet18 as torchvision_resnet18

from fewlabel.errors import UserError

Stem = Literal["imagenet", "cifar"]
WIDTHS = (64, 128, 256, 512)  # channels after each block


class Conv3x3(nn.Conv2d):
    """A 3×3 convolution with padding 1 that on maps of 1×1 or 2×2 pixels does not multiply the padding.

    That is most of the work there: one pixel meets one of the nine weights. Behind the ImageNet stem an image of 32×32
    pixels is such a map in the last two blocks, and a training step takes a quarter less.
    """

    def forward(self, maps: Tensor) -> Tensor:
        """(B, channels, H, W) → (B, out channels, H / stride, W / stride)."""
        side, stride = maps.shape[-1], self.stride[0]
        if side > 2 or maps.shape[-2] != side:
            return super().forward(maps)
        outputs = range(1, 1 - side, -stride)  # for each output pixel, the first weight that lies on the map
        weights = [self.weight[:, :, y : y + side, x : x + side] for y in outputs for x in outputs]
        matrix = torch.stack(weights).permute(0, 1, 3, 4, 2).flatten(2).flatten(0, 1)
        made = F.linear(maps.permute(0, 2, 3, 1).flatten(1), matrix)  # pixel by pixel, all channels of one together
        return made.view(len(maps), len(outputs), len(outputs), -1).permute(0, 3, 1, 2)


def resnet18(stem: Stem, seed: int, blocks: int = 4, grid: int = 1) -> nn.Sequential:
    """Images (B, 3, H, W), float → pooled features (B, WIDTHS[blocks − 1] × grid²), random from the seed.

    Args:
        stem: ``imagenet`` is 7×7 with stride 2 and max pooling; ``cifar`` is 3×3 with stride 1 and none: about
            16 times the work on images of 32×32, and what published CIFAR results use.
        blocks: how many of the four blocks to keep.
        grid: cells a side that the last feature map is averaged to.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        whole = torchvision_resnet18()
        if stem == "cifar":
            whole.conv1 = nn.Conv2d(3, 64, kernel_size=3, stride=1, padding=1, bias=False)
            nn.init.kaiming_normal_(whole.conv1.weight, mode="fan_out", nonlinearity="relu")
            whole.maxpool = nn.Identity()
    for module in whole.modules():
        if isinstance(module, nn.Conv2d) and module.kernel_size == (3, 3):
            module.__class__ = Conv3x3  # the same weights, another way to the same result
    # max(relu(x)) is relu(max(x)), and the ReLU has a quarter of the pixels then.
    names = ["conv1", "bn1", "maxpool", "relu", *(f"layer{block + 1}" for block in range(blocks))]
    layers = OrderedDict((name, getattr(whole, name)) for name in names)
    return nn.Sequential(layers | {"pool": nn.AdaptiveAvgPool2d(grid), "flatten": nn.Flatten()})


def save(backbone: nn.Sequential, stem: Stem, path: Path) -> None:
    """Write the weights as safetensors. The stem travels with them; one key only, as their order is not fixed."""
    tensors = {name: value.detach().cpu().contiguous() for name, value in backbone.state_dict().items()}
    save_file(tensors, path, metadata={"stem": stem})


def load(path: str | Path, blocks: int = 4, grid: int = 1) -> nn.Sequential:
    """The backbone that `save` wrote, or its first blocks. Raises `UserError`."""
    try:
        with safe_open(path, framework="pt") as file:
            stem = (file.metadata() or {}).get("stem", "imagenet")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, no mapping
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path}: not a readable backbone ({error}); run the stage pretrain_rotation again") from None
    backbone = resnet18(cast(Stem, stem), seed=0, blocks=blocks, grid=grid)
    backbone.load_state_dict({name: tensors[name] for name in backbone.state_dict()})
    return backbone
