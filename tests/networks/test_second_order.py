"""First and second derivatives against finite differences, and values against torch's own operations."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from fewlabel.networks import second_order


def numbers(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64).requires_grad_()


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_convolution(stride: int, layout: torch.memory_format) -> None:
    images = numbers(2, 3, 5, 5).detach().to(memory_format=layout).requires_grad_()
    weight = numbers(4, 3, 3, 3, seed=1)
    out = second_order.convolution(images, weight, stride)
    torch.testing.assert_close(out, F.conv2d(images, weight, stride=stride, padding=1))
    inputs = (images, weight, stride)
    assert torch.autograd.gradcheck(second_order.convolution, inputs)
    assert torch.autograd.gradgradcheck(second_order.convolution, inputs)


def test_convolution_of_images_that_need_no_gradient() -> None:
    images, weight = numbers(2, 1, 5, 5).detach(), numbers(4, 1, 3, 3, seed=1)
    assert torch.autograd.gradgradcheck(lambda w: second_order.convolution(images, w, 2), (weight,))


@pytest.mark.parametrize("gain", [1.5, 0.0])
def test_norm_relu(gain: float) -> None:
    images, shift = numbers(3, 2, 2, 2), numbers(2, seed=2)
    gains = torch.full((2,), gain, dtype=torch.float64, requires_grad=True)
    out = second_order.norm_relu(images, gains, shift)
    torch.testing.assert_close(out, F.batch_norm(images, None, None, gains, shift, training=True).relu())
    assert torch.autograd.gradcheck(second_order.norm_relu, (images, gains, shift))
    assert torch.autograd.gradgradcheck(second_order.norm_relu, (images, gains, shift))
