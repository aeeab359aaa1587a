"""MAML's outer gradient against an independent float64 reference that shares no code with the method."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from fewlabel.fewshot.methods import base
from fewlabel.fewshot.methods.anil import Anil
from fewlabel.fewshot.methods.base import Problem
from fewlabel.fewshot.methods.fomaml import Fomaml
from fewlabel.fewshot.methods.maml import Maml, step_importance
from fewlabel.params import Maml as Settings
from tests.conftest import a_network

WAY, SHOT, QUERIES, TASKS = 3, 2, 2, 2


def a_method(inner_steps: int, kind: type[Maml] = Maml, **changes: Any) -> Maml:
    values: dict[str, Any] = {
        "network": a_network(3), "meta_batch": TASKS, "queries": QUERIES, "inner_lr": 0.3,
        "inner_steps": inner_steps, "test_inner_steps": 2, "outer_lr": 0.01, "outer_schedule": "cosine",
        "second_order_from": 0.0, "multi_step_loss": False, "learn_inner_lr": False,
        "iterations": 1, "validate_every": 1, "checkpoint_every": 1, "patience": None,
    }  # fmt: skip
    torch.manual_seed(0)
    method = kind(Settings(**values | changes), Problem(WAY, SHOT, 9), torch.device("cpu"))
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


def outer_loss(
    weights: list[Tensor],
    inner_steps: int,
    first_order: bool = False,
    pool: bool = False,
    anil: bool = False,
    rates: Tensor | None = None,
    importance: list[float] | None = None,
) -> Tensor:
    support, query = some_episodes()
    total = torch.zeros((), dtype=torch.float64)
    for task in range(TASKS):
        fast = list(weights)
        for step in range(inner_steps):
            logits = network(fast, support[task].flatten(0, 1), pool)
            chosen = logits.log_softmax(1)[torch.arange(WAY * SHOT), torch.arange(WAY).repeat_interleave(SHOT)]
            first = 12 if anil else 0
            gradients = torch.autograd.grad(-chosen.mean(), fast[first:], create_graph=True)
            for index, g in enumerate(gradients):
                rate = 0.3 if rates is None else rates[step, index]
                fast[first + index] = fast[first + index] - rate * (g.detach() if first_order else g)
            counts = float(step == inner_steps - 1) if importance is None else importance[step]
            logits = network(fast, query[task].flatten(0, 1), pool)
            chosen = logits.log_softmax(1)[torch.arange(WAY * QUERIES), torch.arange(WAY).repeat_interleave(QUERIES)]
            total = total - counts * chosen.mean() / TASKS
    return total


def gradient_of(method: Maml, done: float = 1.0) -> tuple[float, list[Tensor]]:
    loss, _ = method.outer_gradient(*some_episodes(), done)
    return loss.item(), [weight.grad for weight in method.model.parameters() if weight.grad is not None]


def copies(method: Maml) -> list[Tensor]:
    return [weight.detach().clone().requires_grad_() for weight in method.model.conv4.parameters()]


def assert_same(method: Maml, expected: Tensor, inputs: list[Tensor], done: float = 1.0) -> None:
    loss, gradients = gradient_of(method, done)
    assert loss == pytest.approx(expected.item(), rel=1e-9)
    for got, want in zip(gradients, torch.autograd.grad(expected, inputs), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("inner_steps", [1, 3])
@pytest.mark.parametrize("kind", [Maml, Fomaml, Anil])
@pytest.mark.parametrize("downsample", ["stride", "pool"])
@pytest.mark.parametrize("threads", [1, 2])  # each with its part of the tasks, or one with all, as a GPU has them
def test_outer_gradient_equals_a_plain_double_backward(
    inner_steps: int, kind: type[Maml], downsample: str, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ThreadPoolExecutor(threads) as pool:
        monkeypatch.setattr(base, "task_threads", lambda: pool)
        method = a_method(inner_steps, kind, network=a_network(3, downsample))
        weights = copies(method)
        assert_same(
            method, outer_loss(weights, inner_steps, kind is Fomaml, downsample == "pool", kind is Anil), weights
        )


@pytest.mark.parametrize("done", [0.0, 0.05, 0.5])
def test_multi_step_loss_and_learnt_rates(done: float) -> None:
    method = a_method(3, multi_step_loss=True, learn_inner_lr=True)
    weights, rates = copies(method), method.model.rates.detach().clone().requires_grad_()
    expected = outer_loss(weights, 3, rates=rates, importance=step_importance(method.settings, done))
    inputs = {"rates": rates} | dict(zip(dict(method.model.conv4.named_parameters()), weights, strict=True))
    order = [name.removeprefix("conv4.") for name, _ in method.model.named_parameters()]
    assert_same(method, expected, [inputs[name] for name in order], done)


def test_multi_step_loss_gives_way_to_the_last_step() -> None:
    settings = a_method(4, multi_step_loss=True).settings
    assert step_importance(settings, 0.0) == [0.25] * 4
    assert step_importance(settings, 0.05) == pytest.approx([0.125] * 3 + [0.625])
    assert step_importance(settings, 0.099) == pytest.approx([0.03 / 4] * 3 + [1 - 0.09 / 4])
    assert step_importance(settings, 0.1) == [0, 0, 0, 1]
    assert step_importance(a_method(4).settings, 0.0) == [0, 0, 0, 1]


def test_second_derivatives_from_a_fraction_of_the_training_on() -> None:
    annealed = [gradient_of(a_method(1, second_order_from=0.5), done)[1] for done in (0.4, 0.5)]
    for got, want in zip(annealed, (a_method(1, Fomaml), a_method(1)), strict=True):
        for one, other in zip(got, gradient_of(want)[1], strict=True):
            torch.testing.assert_close(one, other)


def test_anil_moves_the_head_alone() -> None:
    method, images = a_method(3, Anil), some_episodes()[0].flatten(1, 2)
    before = {name: weight.expand(TASKS, *weight.shape) for name, weight in method.model.conv4.weights().items()}
    after = method.adapt(before, images, 3, second_order=False)[-1]
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved == {"head.weight", "head.bias"}


def test_one_at_a_time_normalises_by_the_supports_and_that_query() -> None:
    method = a_method(1, test_inner_steps=1)
    support, query = some_episodes()
    transductive, alone = (method.predict(support, query, mode) for mode in (True, False))
    assert not torch.allclose(transductive, alone)
    one = method.predict(support, query[:, :, :1], transductive=False)  # a query's neighbours do not matter
    torch.testing.assert_close(alone.unflatten(1, (WAY, QUERIES))[:, :, 0], one)
    weights = copies(method)
    logits = network(weights, support[0].flatten(0, 1), pool=False)
    chosen = logits.log_softmax(1)[torch.arange(WAY * SHOT), torch.arange(WAY).repeat_interleave(SHOT)]
    adapted = [w - 0.3 * g for w, g in zip(weights, torch.autograd.grad(-chosen.mean(), weights), strict=True)]
    for number, each in enumerate(query[0].flatten(0, 1)):
        by_hand = network(adapted, torch.cat([support[0].flatten(0, 1), each[None]]), pool=False)[-1]
        torch.testing.assert_close(alone[0, number], by_hand)


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
    first, second = gradient_of(a_method(1, Fomaml))[1], gradient_of(a_method(1))[1]
    assert any((a - b).abs().max() > 1e-3 for a, b in zip(first, second, strict=True))


def test_own_weights_move_in_the_outer_step_alone() -> None:
    method = a_method(1)
    before = copies(method)
    method.predict(*some_episodes())
    assert all(torch.equal(a, b) for a, b in zip(before, method.model.conv4.parameters(), strict=True))
    method.step(*some_episodes(), classes=torch.empty(0), done=0.0, generator=torch.Generator())
    assert not all(torch.equal(a, b) for a, b in zip(before, method.model.conv4.parameters(), strict=True))
