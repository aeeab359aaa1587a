import copy
import os
import signal
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from fewlabel.errors import UserError
from fewlabel.networks.classifier import Classifier, linear_head
from fewlabel.training import device
from fewlabel.training import loop as supervised
from fewlabel.training.augment import generator
from fewlabel.training.checkpoint import Checkpoint
from fewlabel.training.loop import Recipe, learning_rate, train


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


def test_a_resumed_training_equals_an_undisturbed_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    undisturbed, killed = small_network(), small_network()
    whole = train(undisturbed, batch, measure, recipe())

    def killed_at_15(step: int) -> tuple[Tensor, Tensor]:
        if step == 15:
            raise KeyboardInterrupt
        return batch(step)

    checkpoint = Checkpoint("test", {}, [])
    with pytest.raises(KeyboardInterrupt):
        train(killed, killed_at_15, measure, recipe(), checkpoint=checkpoint)
    asked = []

    def recorded(step: int) -> tuple[Tensor, Tensor]:
        asked.append(step)
        return batch(step)

    resumed = small_network()
    rest = train(resumed, recorded, measure, recipe(), checkpoint=checkpoint)
    assert asked == list(range(12, 20))
    assert rest.curve == whole.curve
    for name, value in undisturbed.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_waits_for_the_end_of_the_step_and_its_state_is_saved(
    number: signal.Signals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    undisturbed, resumed = small_network(), small_network()
    whole = train(undisturbed, batch, measure, recipe())

    def signalled(step: int) -> tuple[Tensor, Tensor]:
        if step == 9:
            os.kill(os.getpid(), number)
        return batch(step)

    checkpoint, handler = Checkpoint("test", {}, []), signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt):
        train(small_network(), signalled, measure, recipe(), checkpoint=checkpoint)
    assert signal.getsignal(number) is handler
    state = checkpoint.load()
    assert state is not None
    assert state["steps"] == 10
    assert train(resumed, batch, measure, recipe(), checkpoint=checkpoint).curve == whole.curve
    for name, value in undisturbed.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def test_a_loss_that_is_not_finite_stops_it_and_leaves_the_checkpoint_from_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    def poisoned(step: int) -> tuple[Tensor, Tensor]:
        inputs, labels = batch(step)
        return inputs * (float("nan") if step == 10 else 1), labels

    checkpoint = Checkpoint("test", {}, [])
    with pytest.raises(UserError, match=r"cell: the loss is nan at step 11, learning rate 0\.0\d+: lower"):
        train(small_network(), poisoned, measure, recipe(), checkpoint=checkpoint, name="cell")
    state = checkpoint.load()
    assert state is not None
    assert state["steps"] == 8


@pytest.mark.parametrize(
    ("broken", "message", "saved"),
    [
        (7, "the loss is nan at step 8", 4),
        (8, "the weights are no longer finite at step 8", 4),
        (20, "the weights are no longer finite at step 20", 16),
    ],
)
def test_an_update_that_breaks_the_weights_is_seen_before_they_are_saved_or_kept(
    broken: int, message: str, saved: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    def loss(logits: Tensor, labels: Tensor) -> Tensor:
        """Finite, with gradients that are not."""
        value = nn.functional.cross_entropy(logits, labels)
        return value + (logits.sum() * 0).sqrt() if next(steps) == broken else value

    checkpoint, steps = Checkpoint("test", {}, []), iter(range(1, 21))
    with pytest.raises(UserError, match=rf"cell: {message}, learning rate \d.*: lower the learning rate; nothing was"):
        train(small_network(), batch, lambda _: (0.1, 0.5), recipe(), loss, checkpoint, "cell")
    state = checkpoint.load()
    assert state is not None
    assert state["steps"] == saved


def test_measured_losses_that_are_not_finite_are_no_result() -> None:
    measured = iter([(0.5, 0.5), (float("nan"), 0.9)])
    with pytest.raises(UserError, match=r"cell: the test loss is nan at step 12, learning rate 0\.\d+: lower"):
        train(small_network(), batch, lambda _: next(measured), recipe(target_accuracy=0.8), name="cell")


def test_an_interruption_says_that_it_saved_only_when_it_did(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    network = small_network()

    def broken(step: int) -> tuple[Tensor, Tensor]:
        if step == 9:
            network.backbone[1].running_var.fill_(torch.inf)  # of which training itself sees nothing
            os.kill(os.getpid(), signal.SIGINT)
        return batch(step)

    checkpoint = Checkpoint("test", {}, [])
    with pytest.raises(UserError, match="the weights are no longer finite at step 10"):
        train(network, broken, measure, recipe(), checkpoint=checkpoint)
    assert "saved" not in capsys.readouterr().out
    state = checkpoint.load()
    assert state is not None
    assert state["steps"] == 8


def test_a_frozen_backbone_does_not_move_and_neither_do_its_statistics() -> None:
    network = small_network(frozen=True)
    before = copy.deepcopy(network.state_dict())
    train(network, batch, measure, recipe())
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name]) == name.startswith("backbone."), name


def test_without_freezing_everything_moves() -> None:
    network = small_network()
    before = copy.deepcopy(network.state_dict())
    train(network, batch, measure, recipe())
    assert not any(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_it_stops_at_the_target_accuracy() -> None:
    stopped = train(small_network(), batch, lambda _: (0.1, 0.8), recipe(target_accuracy=0.8))
    assert stopped.steps == 6
    assert len(stopped.curve) == 1
    missed = train(small_network(), batch, lambda _: (0.1, 0.79), recipe(target_accuracy=0.8))
    assert missed.steps == 20
    assert [point.step for point in missed.curve] == [6, 12, 18, 20]


def test_the_learning_rate_rises_and_falls() -> None:
    rates = [learning_rate(step, recipe(steps=100)) for step in range(100)]
    assert rates[0] == pytest.approx(0.01)
    assert rates[9] == rates[10] == pytest.approx(0.1)
    assert rates[55] == pytest.approx(0.05)  # half way down the cosine
    assert 0 < rates[-1] < 0.0001
    assert learning_rate(0, recipe(steps=1)) == pytest.approx(0.1)


def test_one_step_of_the_loop_against_plain_sgd() -> None:
    network, plain = small_network(), small_network()
    train(network, batch, measure, recipe(steps=1, evaluate_every=10))
    optimiser = torch.optim.SGD(plain.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4, nesterov=True)
    inputs, labels = batch(0)
    nn.functional.cross_entropy(supervised.forward(plain, inputs), labels).backward()
    optimiser.step()
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(network.state_dict()[name], value)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_half_precision_only_rounds(monkeypatch: pytest.MonkeyPatch, precision: str) -> None:
    monkeypatch.setattr(device, "precision", lambda _: precision)
    network, (inputs, _) = small_network().eval(), batch(0)
    logits = supervised.forward(network, inputs)
    assert logits.dtype == torch.float32
    exact = network(inputs)  # not channels last: the sums may run in another order
    rounding = (logits - exact).abs().max().item()
    assert 1e-5 < rounding < 0.02 if precision == "bf16" else rounding < 1e-6


def test_the_curve_file(tmp_path: Path) -> None:
    supervised.write_curve(tmp_path / "curve.csv", [supervised.Point(3, 0.5, 1.25, 0.5, 2.0, 1 / 3)])
    assert (tmp_path / "curve.csv").read_text() == (
        "step,epoch,train_loss,train_accuracy,test_loss,test_accuracy\n3,0.5,1.25,0.5,2,0.333333\n"
    )
