"""Meta-training, the same for every method: sample, step, look at the validation classes, keep the best weights."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from fewlabel.fewshot import distort, episodes
from fewlabel.fewshot.episodes import Indices
from fewlabel.fewshot.methods import base
from fewlabel.fewshot.methods.base import Method
from fewlabel.networks.conv4 import as_many
from fewlabel.params import Training
from fewlabel.training import loop, processes
from fewlabel.training.checkpoint import Checkpoint

CURVE_POINTS = 1000  # about as many as a figure can show
VALIDATION_CHUNK = 50  # episodes


def train(
    method: Method,
    table: Tensor,
    validation_table: Tensor,
    validation: Indices,
    settings: Training,
    seed: int,
    name: str = "meta-training",
    checkpoint: Checkpoint | None = None,
    log: Callable[..., None] = lambda step, **numbers: None,
    groups: Tensor | None = None,
) -> loop.Outcome:
    """Train `method` in place by `loop.train`, which see; it ends with the weights of the lowest validation loss.

    Args:
        table, validation_table: drawings, uint8 (classes, drawings, channels, size, size), on the method's device.
        validation: fixed episodes of the validation table.
        groups: the group of each class of the table, for ``hard_share``; None: there are no groups.
        log: called with the numbers of a step, about `CURVE_POINTS` times.
    """
    learner = MetaLearner(method, table, validation_table, validation, settings, seed, groups)
    limits = loop.Settings(settings.iterations, settings.checkpoint_every)
    outcome = loop.train(learner, limits, name, checkpoint, log)
    if learner.best.weights is not None:
        method.model.load_state_dict(learner.best.weights)
    return outcome


@dataclass
class Best:
    """The weights of the lowest validation loss so far."""

    loss: float = float("inf")
    step: int = 0
    weights: dict[str, Tensor] | None = None


@dataclass
class MetaLearner(loop.Learner):
    """A method that learns batches of episodes; its first attributes are the arguments of `train`. Rows of its curve
    have the step's own loss and accuracy, and now and then those on the validation episodes."""

    method: Method
    table: Tensor
    validation_table: Tensor
    validation: Indices
    settings: Training
    seed: int
    groups: Tensor | None = None
    numbers: Tensor = field(default_factory=lambda: torch.zeros(2))  # the last step's loss and accuracy
    best: Best = field(default_factory=Best)
    average: dict[str, Tensor] = field(default_factory=dict)  # of the weights; empty: there is none

    def step(self, done: int) -> float:
        generator = episodes.generator(self.seed, done)
        settings, sizes = self.settings, (len(self.table), self.table.shape[1])
        indices = episodes.sample(self.method.shape, *sizes, generator, self.groups, settings.hard_share)
        images = map(episodes.as_float, episodes.gather(self.table, indices))
        share = processes.share()  # taken after the draws, which are then those of a single process
        support, query = (distort.affine(each, settings.distortion, generator)[share] for each in images)
        part = done / settings.iterations
        self.numbers = torch.stack(self.method.step(support, query, indices.classes[share], part, generator))
        if settings.average:
            self._average(min(settings.average, (1 + done) / (10 + done)))  # shorter at first, when weights move far
        return self.numbers[0].item()

    def _average(self, decay: float) -> None:
        """Move the average towards the weights and statistics of the model."""
        weights = self.method.model.state_dict()
        if not self.average:
            self.average = {name: value.clone() for name, value in weights.items()}
        for name, value in self.average.items():
            if value.is_floating_point():
                value.lerp_(weights[name], 1 - decay)
            else:
                value.copy_(weights[name])

    @contextlib.contextmanager
    def _averaged(self) -> Iterator[None]:
        """A block in which the model has the averaged weights, where there is an average."""
        if not self.average:
            yield
            return
        own = {name: value.clone() for name, value in self.method.model.state_dict().items()}
        self.method.model.load_state_dict(self.average)
        yield
        self.method.model.load_state_dict(own)

    def measure(self, done: int) -> loop.Row:
        validate = done % self.settings.validate_every == 0 or done == self.settings.iterations
        if not validate and done % max(1, self.settings.iterations // CURVE_POINTS):
            return {}
        row = dict(zip(("loss", "accuracy"), self.numbers.tolist(), strict=True))
        if validate:
            with self._averaged():
                val_loss, val_accuracy = score(self.method, self.validation_table, self.validation)
                row |= {"val_loss": val_loss, "val_accuracy": val_accuracy}
                if val_loss < self.best.loss:
                    weights = {key: value.clone() for key, value in self.method.model.state_dict().items()}
                    self.best = Best(val_loss, done, weights)
        return row

    def satisfied(self, done: int) -> bool:
        """Whether the validation loss has not improved for `patience` steps."""
        return self.settings.patience is not None and done - self.best.step >= self.settings.patience

    def rates(self, done: int) -> loop.Row:
        """As the settings have them, before any schedule."""
        return {key: value for key, value in self.settings if key.endswith("lr") and isinstance(value, float)}

    def state(self) -> dict[str, Any]:
        return {"method": self.method.state(), "best": vars(self.best), "average": self.average}

    def load_state(self, state: dict[str, Any]) -> None:
        self.method.load_state(state["method"])
        self.best, self.average = Best(**state["best"]), state["average"]


def score(method: Method, table: Tensor, indices: Indices) -> tuple[float, float]:
    """Mean validation loss and accuracy over fixed episodes, by which weights are kept."""
    losses, accuracies = zip(*_by_chunks(method.validate, method, table, indices), strict=True)
    return torch.cat(losses).mean().item(), torch.cat(accuracies).mean().item()


def accuracy(method: Method, table: Tensor, indices: Indices) -> float:
    """Mean accuracy over fixed episodes, each query classified without the others: it compares methods."""

    def of(support: Tensor, query: Tensor) -> Tensor:
        return base.accuracies(method.predict(support, query, transductive=False))

    return torch.cat(_by_chunks(of, method, table, indices)).mean().item()


def _by_chunks(function: Callable[..., Any], method: Method, table: Tensor, indices: Indices) -> list[Any]:
    """`function` of embedded episodes, as many at a time as memory allows."""
    with torch.no_grad():
        embedded = method.embed_table(table)
        chunks = indices.chunks(as_many(VALIDATION_CHUNK, embedded[0, 0]))
        return [function(*episodes.gather(embedded, chunk)) for chunk in chunks]
