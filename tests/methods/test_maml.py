"""MAML's outer gradient against an independent float64 reference that shares no code with the method."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from fewlabel.methods.maml import Maml
from fewlabel.params import Maml as Settings

WAY, SHOT, QUERIES, TASKS = 3, 2, 2, 2


def a_method(
    inner_steps: int, first_order: bool = False, downsample: str = "stride", vmapped: bool | None = None
) -> Maml:
    settings = Settings(
        width=3, downsample=downsample, meta_batch=TASKS, queries=QUERIES, inner_lr=0.3, inner_steps=inner_steps,
        test_inner_steps=2, outer_lr=0.01, first_order=first_order, iterations=1, validate_every=1,
        checkpoint_every=1, patience=None,
    )  # fmt: skip
    torch.manual_seed(0)
    method = Maml(settings, WAY, SHOT, torch.device("cpu"), vmapped)
    method.model.double()
    return method


def some_episodes() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    support = torch.rand(TASKS, WAY, SHOT, 1, 28, 28, generator=generator, dtype=torch.float64)
    return support, torch.rand(TASKS, WAY, QUERIES, 1, 28, 28, generator=generator, dtype=torch.float64)


def network(weights: list[Tensor], images: Tensor, pool: bool) -> Tensor:
    """Conv4 with batch statistics, from elementary operations; weights in the order of Conv4's parameters."""
    x = images
    for convolution, gain, shift in zip(weights[:4], weights[4:12:2], weights[5:12:2], strict=True):
        x = F.conv2d(x, convolution, stride=1 if pool else 2, padding=1)
        if pool:
            x = F.max_pool2d(x, 2)
        mean = x.mean((0, 2, 3), keepdim=True)
        variance = (x - mean).square().mean((0, 2, 3), keepdim=True)
        x = (x - mean) / (variance + 1e-5).sqrt() * gain[:, None, None] + shift[:, None, None]
        x = x.clamp(min=0)
    return x.flatten(1) @ weights[12].T + weights[13]


def outer_loss(weights: list[Tensor], inner_steps: int, first_order: bool = False, pool: bool = False) -> Tensor:
    support, query = some_episodes()
    total = torch.zeros((), dtype=torch.float64)
    for task in range(TASKS):
        fast = list(weights)
        for _ in range(inner_steps):
            logits = network(fast, support[task].flatten(0, 1), pool)
            chosen = logits.log_softmax(1)[torch.arange(WAY * SHOT), torch.arange(WAY).repeat_interleave(SHOT)]
            gradients = torch.autograd.grad(-chosen.mean(), fast, create_graph=True)
            fast = [w - 0.3 * (g.detach() if first_order else g) for w, g in zip(fast, gradients, strict=True)]
        logits = network(fast, query[task].flatten(0, 1), pool)
        chosen = logits.log_softmax(1)[torch.arange(WAY * QUERIES), torch.arange(WAY).repeat_interleave(QUERIES)]
        total = total - chosen.mean() / TASKS
    return total


def gradient_of(method: Maml) -> tuple[float, list[Tensor]]:
    weights = dict(method.model.named_parameters())
    loss, _ = method.outer_gradient(weights, *some_episodes())
    return loss.item(), [weight.grad for weight in weights.values() if weight.grad is not None]


def copies(method: Maml) -> list[Tensor]:
    return [weight.detach().clone().requires_grad_() for weight in method.model.parameters()]


@pytest.mark.parametrize("inner_steps", [1, 3])
@pytest.mark.parametrize("first_order", [False, True])
@pytest.mark.parametrize("downsample", ["stride", "pool"])
@pytest.mark.parametrize("vmapped", [False, True])
def test_outer_gradient_equals_a_plain_double_backward(
    inner_steps: int, first_order: bool, downsample: str, vmapped: bool
) -> None:
    method = a_method(inner_steps, first_order, downsample, vmapped)
    weights = copies(method)
    expected = outer_loss(weights, inner_steps, first_order, downsample == "pool")
    loss, gradients = gradient_of(method)
    assert loss == pytest.approx(expected.item(), rel=1e-9)
    for got, want in zip(gradients, torch.autograd.grad(expected, weights), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("inner_steps", [1, 3])
def test_outer_gradient_equals_finite_differences(inner_steps: int) -> None:
    method = a_method(inner_steps)
    weights = copies(method)
    _, gradients = gradient_of(method)
    generator = torch.Generator().manual_seed(2)
    direction = [torch.randn(w.shape, generator=generator, dtype=w.dtype) for w in weights]
    slope = sum((g * d).sum().item() for g, d in zip(gradients, direction, strict=True))
    h = 1e-7
    ends = [
        outer_loss([(w + sign * h * d).detach().requires_grad_() for w, d in zip(weights, direction, strict=True)],
                   inner_steps).item()
        for sign in (1, -1)
    ]  # fmt: skip
    assert (ends[0] - ends[1]) / (2 * h) == pytest.approx(slope, rel=1e-4)


def test_first_order_differs_from_second_order() -> None:
    first, second = gradient_of(a_method(1, first_order=True))[1], gradient_of(a_method(1))[1]
    assert any((a - b).abs().max() > 1e-3 for a, b in zip(first, second, strict=True))


def test_vmap_and_the_loop_predict_the_same() -> None:
    loop, vmapped = (a_method(1, vmapped=vmapped).predict(*some_episodes()) for vmapped in (False, True))
    torch.testing.assert_close(loop, vmapped)


def test_own_weights_move_in_the_outer_step_alone() -> None:
    method = a_method(1)
    before = copies(method)
    method.predict(*some_episodes())
    assert all(torch.equal(a, b) for a, b in zip(before, method.model.parameters(), strict=True))
    method.step(*some_episodes(), done=0.0, generator=torch.Generator())
    assert not all(torch.equal(a, b) for a, b in zip(before, method.model.parameters(), strict=True))
