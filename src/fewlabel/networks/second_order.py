"""Convolution and batch norm + ReLU with the values and gradients of torch's own, and cheaper second derivatives.

MAML differentiates through gradients. torch's double backward of a convolution transposes and dilates its operands,
and that of batch norm is some forty elementary operations. Here the second derivative of a convolution is three
convolutions of the ordinary kind, and that of the norm follows the closed form. Second derivatives only: a third, or
`vmap`, is refused by torch.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable


def convolution(images: Tensor, weight: Tensor, stride: int, groups: int = 1) -> Tensor:
    """3x3 convolution, padding 1, no bias: (n, groups x c, h, w) and (out, c, 3, 3) → (n, out, h / stride, ...)."""
    return _Convolution.apply(images, weight, stride, groups)


def norm_relu(images: Tensor, gain: Tensor, shift: Tensor) -> Tensor:
    """ReLU of batch norm by the statistics of the batch at hand: (n, c, h, w), (c,), (c,) → (n, c, h, w)."""
    return _NormRelu.apply(images, gain, shift)


def _convolve(images: Tensor, weight: Tensor, stride: int, groups: int) -> Tensor:
    return torch.convolution(images, weight, None, [stride] * 2, [1, 1], [1, 1], False, [0, 0], groups)


def _backward(
    gradient: Tensor, images: Tensor, weight: Tensor, stride: int, groups: int, which: list[bool]
) -> list[Tensor]:
    """Gradients of images and weight; those not asked for are undefined."""
    return torch.ops.aten.convolution_backward(
        gradient, images, weight, None, [stride] * 2, [1, 1], [1, 1], False, [0, 0], groups, [*which, False]
    )[:2]


class _Convolution(Function):
    @staticmethod
    def forward(ctx: Any, images: Tensor, weight: Tensor, stride: int, groups: int) -> Tensor:
        ctx.save_for_backward(images, weight)
        ctx.how = stride, groups
        return _convolve(images, weight, stride, groups)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
        given = _ConvolutionBackward.apply(gradient, *ctx.saved_tensors, *ctx.how, ctx.needs_input_grad[0])
        return *given, None, None


class _ConvolutionBackward(Function):
    @staticmethod
    def forward(
        ctx: Any, gradient: Tensor, images: Tensor, weight: Tensor, stride: int, groups: int, of_images: bool
    ) -> Any:
        ctx.save_for_backward(gradient, images, weight)
        ctx.how = stride, groups
        ctx.set_materialize_grads(False)
        return tuple(_backward(gradient, images, weight, stride, groups, [of_images, True]))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, to_images: Tensor | None, to_weight: Tensor | None) -> tuple[Any, ...]:
        gradient, images, weight = ctx.saved_tensors
        stride, groups = ctx.how
        of_gradient = of_images = of_weight = None
        if to_weight is not None:
            of_gradient = _convolve(images, to_weight, stride, groups)
            if ctx.needs_input_grad[1]:
                of_images = _backward(gradient, images, to_weight, stride, groups, [True, False])[0]
        if to_images is not None:
            through = _convolve(to_images, weight, stride, groups)
            of_gradient = through if of_gradient is None else of_gradient.add_(through)
            of_weight = _backward(gradient, to_images, weight, stride, groups, [False, True])[1]
        return of_gradient, of_images, of_weight, None, None, None


class _NormRelu(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, gain: Tensor, shift: Tensor) -> Tensor:
        normed, mean, inverse = torch.native_batch_norm(x, gain, shift, None, None, True, 0.1, 1e-5)
        out = normed.relu_()
        ctx.save_for_backward(x, gain, out, mean, inverse)
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
        return _NormReluBackward.apply(gradient, *ctx.saved_tensors)


class _NormReluBackward(Function):
    """In the names of Ioffe and Szegedy 2015: x̂ = (x − μ) / σ, and per channel, with a the gradient that the ReLU lets
    through and P(a) = a − mean(a) − x̂ mean(a x̂), its gradients are x̄ = γ/σ P(a), γ̄ = Σ a x̂ and β̄ = Σ a. Its own
    backward differentiates these three; P is its own transpose, and the derivative of x̂ is P/σ."""

    @staticmethod
    def forward(ctx: Any, gradient: Tensor, x: Tensor, gain: Tensor, out: Tensor, mean: Tensor, inverse: Tensor) -> Any:
        a = torch.ops.aten.threshold_backward(gradient, out, 0)
        of_x, of_gain, of_shift = _norm_backward(a, x, gain, mean, inverse)
        ctx.save_for_backward(a, x, gain, out, mean, inverse, of_gain)
        return of_x, of_gain, of_shift

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, to_x: Tensor, to_gain: Tensor, to_shift: Tensor) -> tuple[Any, ...]:
        a, x, gain, out, mean, inverse, of_gain = ctx.saved_tensors
        rows, scale = x.numel() // x.shape[1], gain * inverse
        projected, along, _ = _norm_backward(to_x, x, None, mean, inverse)  # P(to_x) / σ, Σ to_x x̂
        of_scale = (a * projected).sum((0, 2, 3))
        normed = F.batch_norm(x, mean, 1 / inverse.square(), eps=0.0)

        def each(channels: Tensor) -> Tensor:
            return channels[:, None, None]

        of_a = torch.addcmul(each(to_shift), normed, each(to_gain)).addcmul_(projected, each(gain))
        of_normed = a * each(to_gain - scale * along / rows)
        of_normed.addcmul_(to_x, each(-scale * of_gain / rows))
        of_images = _norm_backward(of_normed, x, None, mean, inverse)[0]
        of_images.addcmul_(normed, each(-scale * of_scale / rows))  # of x through γ/σ
        return torch.ops.aten.threshold_backward(of_a, out, 0), of_images, of_scale, None, None, None


def _norm_backward(
    gradient: Tensor, x: Tensor, gain: Tensor | None, mean: Tensor, inverse: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """γ/σ P(gradient), Σ gradient x̂ and Σ gradient; γ is 1 without `gain`."""
    found: tuple[Tensor, Tensor, Tensor] = torch.ops.aten.native_batch_norm_backward(
        gradient, x, gain, None, None, mean, inverse, True, 1e-5, [True, True, True]
    )
    return found
