"""The loop, with a learner of one number: what it saves and resumes, how it stops, what it refuses."""

import math
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from fewlabel.errors import UserError
from fewlabel.training import loop
from fewlabel.training.checkpoint import Checkpoint
from fewlabel.training.loop import Settings, train

SETTINGS = Settings(steps=20, save_every=4)


class Counter(loop.Learner):
    """Adds step numbers up; `hook` is called with each and may break something."""

    def __init__(self, hook: Any = lambda learner, done: None, stop_at: int = 99) -> None:
        self.hook, self.stop_at, self.steps = hook, stop_at, []  # type: ignore[var-annotated]
        self.total, self.loss = torch.zeros(()), 0.5

    def step(self, done: int) -> float:
        self.steps.append(done)
        self.total = self.total + done
        self.hook(self, done)
        return self.loss

    def measure(self, done: int) -> loop.Row:
        return {"total": self.total.item()} if done % 6 == 0 else {}

    def satisfied(self, done: int) -> bool:
        return done >= self.stop_at

    def rates(self, done: int) -> loop.Row:
        return {"lr": 0.125}

    def state(self) -> dict[str, Any]:
        return {"total": self.total}

    def load_state(self, state: dict[str, Any]) -> None:
        self.total = state["total"]


@pytest.fixture
def checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Checkpoint:
    monkeypatch.chdir(tmp_path)
    return Checkpoint("test", {})


def saved_steps(checkpoint: Checkpoint) -> int:
    state = checkpoint.load()
    assert state is not None
    return state["outcome"]["steps"]


def test_a_resumed_training_equals_an_undisturbed_one(checkpoint: Checkpoint) -> None:
    whole = train(Counter(), SETTINGS)

    def kill(learner: Counter, done: int) -> None:
        if done == 15:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        train(Counter(kill), SETTINGS, checkpoint=checkpoint)
    resumed, logged = Counter(), []
    outcome = train(
        resumed, SETTINGS, checkpoint=checkpoint, log=lambda step, **numbers: logged.append((step, numbers))
    )
    assert resumed.steps == list(range(12, 20))
    assert outcome.curve == whole.curve == [{"step": n, "total": n * (n - 1) / 2} for n in (6, 12, 18)]
    assert logged == [(18, {"total": 153.0})]
    assert train(Counter(), SETTINGS, checkpoint=checkpoint).steps == 20  # from the last checkpoint, with nothing to do


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_waits_for_the_end_of_the_step_and_its_state_is_saved(
    number: signal.Signals, checkpoint: Checkpoint, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(learner: Counter, done: int) -> None:
        if done == 9:
            os.kill(os.getpid(), number)

    handler = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt):
        train(Counter(interrupt), SETTINGS, "cell", checkpoint)
    assert signal.getsignal(number) is handler
    assert "cell: interrupted at step 10, which is saved" in capsys.readouterr().out
    assert saved_steps(checkpoint) == 10


def poison(what: str, at: int, interrupted: bool = False) -> Any:
    def hook(learner: Counter, done: int) -> None:
        if done + 1 == at:
            if what == "loss":
                learner.loss = math.nan
            else:
                learner.total = learner.total * math.nan
            if interrupted:
                os.kill(os.getpid(), signal.SIGINT)

    return hook


@pytest.mark.parametrize(
    ("what", "at", "message", "saved"),
    [
        ("loss", 11, "the loss is no longer finite at step 11", 8),
        ("state", 11, "the total is no longer finite at step 12", 8),  # a row of the curve shows it,
        ("state", 15, "the state of the model is no longer finite at step 16", 12),  # or it is seen before it is saved,
        ("state", 20, "the state of the model is no longer finite at step 20", 16),  # or kept as the result
    ],
)
def test_numbers_that_are_not_finite_stop_it_and_leave_the_checkpoint_from_before(
    what: str, at: int, message: str, saved: int, checkpoint: Checkpoint
) -> None:
    with pytest.raises(UserError, match=rf"^cell: {message} \(lr 0\.125\): lower a learning rate"):
        train(Counter(poison(what, at)), SETTINGS, "cell", checkpoint)
    assert saved_steps(checkpoint) == saved


def test_an_interruption_says_that_it_saved_only_when_it_did(
    checkpoint: Checkpoint, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UserError, match="no longer finite at step 10"):
        train(Counter(poison("state", 10, interrupted=True)), SETTINGS, checkpoint=checkpoint)
    assert "saved" not in capsys.readouterr().out
    assert saved_steps(checkpoint) == 8


def test_a_satisfied_learner_stops_and_its_state_is_saved(checkpoint: Checkpoint) -> None:
    assert train(Counter(stop_at=7), SETTINGS, checkpoint=checkpoint).steps == 7
    assert saved_steps(checkpoint) == 7


def test_the_curve_file_leaves_what_was_not_measured_empty(tmp_path: Path) -> None:
    loop.write_curve(tmp_path / "curve.csv", [{"step": 3, "loss": 1.25}, {"step": 6, "loss": 1 / 3, "val_loss": 2.0}])
    assert (tmp_path / "curve.csv").read_text() == "step,loss,val_loss\n3,1.25,\n6,0.333333,2\n"
