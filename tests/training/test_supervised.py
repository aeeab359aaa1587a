import copy
import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fewlabel.networks.classifier import Classifier, linear_head
from fewlabel.training import device, supervised
from fewlabel.training.augment import generator
from fewlabel.training.checkpoint import Checkpoint
from fewlabel.training.supervised import Recipe, learning_rate, train


def small_network(frozen: bool = False) -> Classifier:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        backbone = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AvgPool2d(6), nn.Flatten())
    return Classifier(backbone, linear_head(4, 2, seed=0), frozen)


def batch(step: int) -> tuple[Tensor, Tensor]:
    inputs = torch.randn(8, 3, 8, 8, generator=generator(7, step))
    return inputs, (inputs.mean((1, 2, 3)) > 0).long()


def measure(network: nn.Module) -> tuple[float, float]:
    inputs, labels = batch(10_000)
    return supervised.loss_and_accuracy(supervised.predict(network, [inputs]), labels)


def recipe(**changes: float | None) -> Recipe:
    settings = {"steps": 20, "lr": 0.1, "momentum": 0.9, "weight_decay": 1e-4, "evaluate_every": 6, "save_every": 4}
    return Recipe(**(settings | changes))  # type: ignore[arg-type]


def test_a_resumed_training_gives_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    undisturbed, resumed = small_network(), small_network()
    whole = train(undisturbed, batch, measure, recipe())

    def killed_at_15(step: int) -> tuple[Tensor, Tensor]:
        if step == 15:
            raise KeyboardInterrupt
        return batch(step)

    with pytest.raises(KeyboardInterrupt):
        train(small_network(), killed_at_15, measure, recipe(), checkpoint=Checkpoint("test", {}))
    rest = train(resumed, batch, measure, recipe(), checkpoint=Checkpoint("test", {}))
    assert rest.curve == whole.curve
    for name, value in undisturbed.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


@pytest.mark.parametrize("frozen", [True, False])
def test_a_frozen_backbone_does_not_move_and_neither_do_its_statistics(frozen: bool) -> None:
    network = small_network(frozen)
    before = copy.deepcopy(network.state_dict())
    train(network, batch, measure, recipe())
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name]) == (frozen and name.startswith("backbone.")), name


def test_it_stops_at_the_target_accuracy() -> None:
    stopped = train(small_network(), batch, lambda _: (0.1, 0.8), recipe(target_accuracy=0.8))
    assert (stopped.steps, len(stopped.curve)) == (6, 1)
    missed = train(small_network(), batch, lambda _: (0.1, 0.79), recipe(target_accuracy=0.8))
    assert missed.steps == 20
    assert [row["step"] for row in missed.curve] == [6, 12, 18, 20]


def test_the_learning_rate_rises_and_falls() -> None:
    rates = [learning_rate(step, recipe(steps=100)) for step in range(100)]
    assert rates[0] == pytest.approx(0.01)
    assert rates[9] == rates[10] == pytest.approx(0.1)
    assert rates[55] == pytest.approx(0.05)  # half way down the cosine
    assert 0 < rates[-1] < 0.0001
    assert learning_rate(0, recipe(steps=1)) == pytest.approx(0.1)


def test_one_step_against_plain_sgd() -> None:
    network, plain = small_network(), small_network()
    [row] = train(network, batch, measure, recipe(steps=1, evaluate_every=10, steps_per_epoch=2)).curve
    optimiser = torch.optim.SGD(plain.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4, nesterov=True)
    inputs, labels = batch(0)
    loss = nn.functional.cross_entropy(supervised.forward(plain, inputs), labels)
    loss.backward()
    optimiser.step()
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(network.state_dict()[name], value)
    assert list(row) == ["step", "epoch", "train_loss", "train_accuracy", "test_loss", "test_accuracy"]
    assert (row["epoch"], row["train_loss"]) == (0.5, pytest.approx(loss.item()))
    assert (row["test_loss"], row["test_accuracy"]) == pytest.approx(measure(plain.eval()))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_half_precision_only_rounds(monkeypatch: pytest.MonkeyPatch, precision: str) -> None:
    monkeypatch.setattr(device, "precision", lambda _: precision)
    network, (inputs, _) = small_network().eval(), batch(0)
    logits = supervised.forward(network, inputs)
    assert logits.dtype == torch.float32
    exact = network(inputs)  # not channels last: the sums may run in another order
    rounding = (logits - exact).abs().max().item()
    assert 1e-5 < rounding < 0.02 if precision == "bf16" else rounding < 1e-6


def test_focal_loss_against_literal_numbers() -> None:
    # True-class probabilities 0.9 and 0.5; α = 0.5, γ = 2:
    # 0.5·0.1²·0.1053605 = 0.000526803 and 0.5·0.5²·0.6931472 = 0.0866434; their mean is 0.0435851.
    logits = torch.tensor([[math.log(9), 0.0], [0.0, 0.0]], dtype=torch.float64)
    loss = supervised.focal_loss(logits, torch.tensor([0, 1]), alpha=0.5, gamma=2.0)
    assert loss.item() == pytest.approx(0.0435851, abs=1e-7)


def test_focal_loss_without_focus_is_scaled_cross_entropy() -> None:
    logits, labels = torch.randn(32, 10), torch.randint(10, (32,))
    loss = supervised.focal_loss(logits, labels, alpha=0.25, gamma=0.0)
    torch.testing.assert_close(loss, 0.25 * F.cross_entropy(logits, labels))


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_focal_loss_has_finite_gradients_for_a_sure_answer(gamma: float) -> None:
    logits = torch.tensor([[200.0, -200.0], [-200.0, 200.0]], requires_grad=True)
    supervised.focal_loss(logits, torch.tensor([0, 0]), alpha=0.5, gamma=gamma).backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


def test_choose() -> None:
    logits, labels = torch.randn(4, 3), torch.tensor([0, 1, 2, 0])
    assert supervised.choose_loss("cross_entropy", 0.5, 2.0)(logits, labels) == F.cross_entropy(logits, labels)
    assert supervised.choose_loss("focal", 0.5, 2.0)(logits, labels) == supervised.focal_loss(logits, labels, 0.5, 2.0)
