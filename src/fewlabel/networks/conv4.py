"""Conv4: the network of Vinyals et al., "Matching networks for one shot learning", 2016.

Four blocks of 3x3 convolution, batch norm and ReLU, each of which halves the height and width: by max pooling as in
the paper, or by a convolution of stride 2 (Finn et al. 2017), which costs about a quarter and is less accurate. The
papers' network has 64 channels in every block. Fewer channels in the first blocks, whose images are large, and more in
the last are faster and more accurate.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fewlabel.networks import second_order
from fewlabel.params import Network

Weights = dict[str, Tensor]


def _convolution(images: Tensor, weight: Tensor, stride: int, groups: int) -> Tensor:
    return F.conv2d(images, weight, stride=stride, padding=1, groups=groups)


def _norm_relu(images: Tensor, gain: Tensor, shift: Tensor) -> Tensor:
    return F.batch_norm(images, None, None, gain, shift, training=True).relu_()


def _channels_last(images: Tensor) -> Tensor:
    """The layout that convolves fastest on a CPU. With one channel the two layouts are the same bytes, and torch takes
    the slow one unless the strides say otherwise."""
    n, channels, height, width = images.shape
    return images.movedim(1, 3).flatten().view(n, height, width, channels).movedim(3, 1)


ALONE_IMAGES = {"cpu": 256, "cuda": 2048}  # in flight in `one_at_a_time`; bounds the memory


def as_many(count: int, of: Tensor) -> int:
    """`count`, which bounds the memory of images of 28 x 28, or fewer of larger ones such as this, but at least 1."""
    return max(1, count * 28**2 // max(28**2, of.numel()))


class Conv4(nn.Module):
    """Images ``(n, channels, size, size)`` in [0, 1] → features ``(n, features)``, or logits ``(n, outputs)``.

    Args:
        network: the channels of each of the four blocks, and how they halve: ``stride`` or ``pool``.
        outputs: of a linear head on the features; None leaves the head away.
        running_statistics: True normalises by the training's running statistics in eval mode, so an image's result
            does not depend on its neighbours. False normalises by the batch at hand always, as methods with inner
            loops do; these call `functional`.
        channels, size: of the images; 28 pixels give 4 x widths[3] features with strides and widths[3] with pooling.
    """

    def __init__(
        self,
        network: Network,
        outputs: int | None = None,
        running_statistics: bool = True,
        channels: int = 1,
        size: int = 28,
    ) -> None:
        super().__init__()
        widths = network.widths
        self.pool = network.downsample == "pool"
        self.stride = 1 if self.pool else 2
        self.convolutions = nn.ModuleList(
            nn.Conv2d(inputs, width, 3, stride=self.stride, padding=1, bias=False)
            for inputs, width in zip((channels, *widths), widths, strict=False)
        )
        self.norms = nn.ModuleList(nn.BatchNorm2d(width, track_running_stats=running_statistics) for width in widths)
        for _ in widths:
            size = size // 2 if self.pool else (size + 1) // 2
        self.features = widths[-1] * size**2
        self.head = None if outputs is None else nn.Linear(self.features, outputs)
        # Channels last makes the convolutions faster on a CPU. Pooling before the norm then makes a training step of
        # 360 images three times faster (2 cores: 436 → 146 ms); it is a variant, not the paper's network: the norm
        # sees the statistics of the pooled maxima.
        self.to(memory_format=torch.channels_last)

    def forward(self, images: Tensor) -> Tensor:
        x = self.features_of(images)
        return x if self.head is None else self.head(x)

    def features_of(self, images: Tensor) -> Tensor:
        """What the head sees: (n, features)."""
        x = images
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            x = convolution(x)
            if self.pool:
                x = F.max_pool2d(x, 2)
            x = F.relu(norm(x))
        return x.flatten(1)

    def weights(self) -> Weights:
        """The parameters by name, without their history: what `functional` takes."""
        return {name: weight.detach() for name, weight in self.named_parameters()}

    def functional_features(
        self, weights: Weights, images: Tensor, groups: int = 1, twice_differentiable: bool = False
    ) -> Tensor:
        """`features_of` with other weights, by the statistics of the batch at hand. Reads nothing of the module that
        changes, so threads may share it."""
        convolve, norm_relu = _convolution, _norm_relu
        if twice_differentiable:  # cheaper then
            convolve, norm_relu = second_order.convolution, second_order.norm_relu
        x = images
        for block in range(4):
            x = self._halved(convolve(x, weights[f"convolutions.{block}.weight"], self.stride, groups))
            x = norm_relu(x, weights[f"norms.{block}.weight"], weights[f"norms.{block}.bias"])
        return x.flatten(1)

    def _halved(self, convolved: Tensor) -> Tensor:
        return F.max_pool2d(convolved, 2) if self.pool else convolved

    def side_by_side(self, weights: Weights, images: Tensor, twice_differentiable: bool = False) -> Tensor:
        """`forward` for many tasks at once, each with weights of its own and by the statistics of its batch: weights
        (tasks, ...) and images (tasks, n, ...) → logits (tasks, n, outputs)."""
        return self.head_of(weights, self.side_by_side_features(weights, images, twice_differentiable))

    def side_by_side_features(self, weights: Weights, images: Tensor, twice_differentiable: bool = False) -> Tensor:
        """The tasks' channels lie beside each other, so a convolution is a grouped one and batch norm is as usual:
        → (tasks, n, features)."""
        tasks = len(images)
        flat = {name: weight.flatten(0, 1) for name, weight in weights.items() if not name.startswith("head.")}
        beside = _channels_last(images.transpose(0, 1).flatten(1, 2))
        features = self.functional_features(flat, beside, tasks, twice_differentiable)
        return features.unflatten(1, (tasks, -1)).transpose(0, 1)

    def head_of(self, weights: Weights, features: Tensor) -> Tensor:
        """Logits of one task's features (n, features), or of several tasks' (tasks, n, features) by each one's head."""
        weight, bias = weights["head.weight"], weights["head.bias"]
        if features.dim() == 2:
            return F.linear(features, weight, bias)
        return torch.baddbmm(bias[:, None], features, weight.transpose(1, 2))

    def one_at_a_time(self, weights: Weights, support: Tensor, queries: Tensor) -> Tensor:
        """Logits (queries, outputs) of each query image when its batch is the support images and itself, as Nichol et
        al. 2018 classify without transduction: support (n, ...), queries (q, ...)."""
        size = max(1, as_many(ALONE_IMAGES[support.device.type], support[0]) // (len(support) + 1))
        way = self._one_at_a_time_by_parts if support.device.type == "cpu" else self._one_at_a_time_mapped
        return self.head_of(weights, way(weights, support, queries, size))

    def _one_at_a_time_mapped(self, weights: Weights, support: Tensor, queries: Tensor, size: int) -> Tensor:
        """Features of `size` queries at once, by few operations."""

        def alone(query: Tensor) -> Tensor:
            return self.functional_features(weights, torch.cat([support, query[None]]))[-1]

        return torch.vmap(alone, chunk_size=size)(queries)

    def _one_at_a_time_by_parts(self, weights: Weights, support: Tensor, queries: Tensor, size: int) -> Tensor:
        """The batches of `size` queries go through each convolution together, and through the first one only once:
        there the supports are the same in all batches, and only the statistics differ."""
        x = _channels_last(torch.cat([support, queries]))
        x = self._halved(_convolution(x, weights["convolutions.0.weight"], self.stride, 1)).permute(0, 2, 3, 1)
        ours, theirs = x.split([len(support), len(queries)])
        variance, mean = torch.var_mean(ours, dim=(0, 1, 2), correction=0)
        variances, means = torch.var_mean(theirs, dim=(1, 2), correction=0)
        part, apart = 1 / (len(support) + 1), means - mean  # the query's part of its batch
        variances = variance + part * (variances - variance) + part * (1 - part) * apart**2
        scales = weights["norms.0.weight"] * torch.rsqrt(variances + 1e-5)
        shifts = weights["norms.0.bias"] - (mean + part * apart) * scales
        features = []
        for scale, shift, query in zip(*(t.split(size) for t in (scales, shifts, theirs)), strict=True):
            scale, shift = scale[:, None, None, None], shift[:, None, None, None]  # (batches, 1, 1, 1, channels)
            batches = torch.cat([torch.addcmul(shift, ours, scale), torch.addcmul(shift, query[:, None], scale)], dim=1)
            y = batches.relu_().flatten(0, 1).permute(0, 3, 1, 2)
            for block in range(1, 4):
                y = self._halved(_convolution(y, weights[f"convolutions.{block}.weight"], self.stride, 1))
                gain, bias = weights[f"norms.{block}.weight"], weights[f"norms.{block}.bias"]
                y = torch.cat([_norm_relu(batch, gain, bias) for batch in y.split(len(support) + 1)])
            features.append(y[len(support) :: len(support) + 1].flatten(1))
        return torch.cat(features)
