"""ResNet-18 as a backbone: two stems, any number of its four groups of blocks.

He, Zhang, Ren, Sun: Deep Residual Learning for Image Recognition, CVPR 2016, figure 5 (left) and table 1. Parameter
names, and with the ImageNet stem the weights of a seed, are torchvision's. Importing that would take 3 s of each stage.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Stem = Literal["imagenet", "cifar"]
WIDTHS = (64, 128, 256, 512)  # channels after each group of blocks


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


class Block(nn.Module):
    """Two 3×3 convolutions, and their input added to what they make of it; where that has another shape, a 1×1
    convolution of the input. (B, inputs, H, W) → (B, outputs, H / stride, W / stride)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        downsample = None
        if stride != 1:  # drawn first, as torchvision does
            downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
        self.conv1 = Conv3x3(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = Conv3x3(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample = downsample

    def forward(self, maps: Tensor) -> Tensor:
        around = maps if self.downsample is None else self.downsample(maps)
        return F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(maps))))) + around)


def resnet18(stem: Stem, seed: int, blocks: int = 4, grid: int = 1) -> nn.Sequential:
    """Images (B, 3, H, W), float → pooled features (B, WIDTHS[blocks − 1] × grid²), random from the seed.

    Args:
        stem: ``imagenet`` is 7×7 with stride 2 and max pooling; ``cifar`` is 3×3 with stride 1 and none: about
            16 times the work on images of 32×32, and what published CIFAR results use.
        blocks: how many of the four groups of two blocks to keep.
        grid: cells a side that the last feature map is averaged to.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        # Max pooling before the ReLU: max(relu(x)) is relu(max(x)), and the ReLU has a quarter of the pixels then.
        layers = {
            "conv1": nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False)
            if stem == "imagenet"
            else Conv3x3(3, 64, 3, padding=1, bias=False),
            "bn1": nn.BatchNorm2d(64),
            "maxpool": nn.MaxPool2d(3, stride=2, padding=1) if stem == "imagenet" else nn.Identity(),
            "relu": nn.ReLU(inplace=True),
        }
        inputs = 64
        for number, width in enumerate(WIDTHS, start=1):
            first = Block(inputs, width, stride=1 if number == 1 else 2)
            layers[f"layer{number}"] = nn.Sequential(first, Block(width, width, stride=1))
            inputs = width
        nn.Linear(WIDTHS[-1], 1000)  # ImageNet's head, which is left away: drawn for the same weights from the seed
        for module in nn.Sequential(*layers.values()).modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    kept = OrderedDict((name, layers[name]) for name in list(layers)[: 4 + blocks])
    return nn.Sequential(kept | {"pool": nn.AdaptiveAvgPool2d(grid), "flatten": nn.Flatten()})
