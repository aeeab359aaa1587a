"""What a few-shot method is: a meta-training step on a batch of episodes, and predictions from a support set."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fewlabel.fewshot.distort import affine
from fewlabel.fewshot.episodes import Shape, as_float
from fewlabel.networks.conv4 import Conv4, Weights, as_many
from fewlabel.training.device import task_threads

EMBEDDED_IMAGES = 1024  # at once; bounds the memory
TASKS_SIDE_BY_SIDE = 8  # on a CPU, where more gain nothing and need memory


@dataclass(frozen=True)
class Problem:
    """What a method is made for.

    Attributes:
        way, shot: of the task; methods whose networks need no fixed way ignore them in training.
        classes: of the training split.
        channels, size: of the images.
    """

    way: int
    shot: int
    classes: int
    channels: int = 1
    size: int = 28


class Method:
    """One algorithm; a subclass in ``methods/<name>.py`` called like the file, in CamelCase.

    Episodes come as support (E, way, shot, ...) and query (E, way, queries, ...); the label of an image is its
    position along the way axis. Subclasses set the attributes and implement `step` and `classify`.
    """

    modes: tuple[bool, ...] = (False,)  # how it can predict: True is transductive, the other queries count
    way_parameter: str  # the parameter to lower when the training classes are too few,
    shot_parameter: str  # or the drawings of a class
    model: nn.Module
    optimizer: torch.optim.Optimizer | None = None  # if its state outlives a step
    shape: Shape  # of the batch of episodes that a step is trained on

    def __init__(self, settings: Any, problem: Problem, device: torch.device) -> None:
        """
        Args:
            settings: this method's section of params.yaml.
        """
        self.settings, self.problem, self.device = settings, problem, device

    def step(
        self, support: Tensor, query: Tensor, classes: Tensor, done: float, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """One meta-training step; → loss and accuracy, scalars on the device.

        Args:
            support, query: float images (E, way, n, channels, size, size) of `shape`.
            classes: (E, way), which of the training classes.
            done: fraction of the training that lies behind, for schedules.
            generator: on the CPU, for whatever else is random.
        """
        raise NotImplementedError

    def embed(self, images: Tensor) -> Tensor:
        """What is needed of images (n, channels, size, size) before their episode is known, so that each image goes
        through the network once, however many episodes it is in. By default the images themselves."""
        return images

    def learn(self, support: Tensor) -> Any:
        """What is made of embedded support sets, once for all queries and modes. By default the sets themselves."""
        return support

    def classify(self, learnt: Any, query: Tensor, transductive: bool) -> Tensor:
        """What `learn` made and embedded query images → logits (E, way x queries, way); queries of class 0 come first.

        Args:
            transductive: one of `modes`: whether the prediction for one query may use the other queries.
        """
        raise NotImplementedError

    def predict(self, support: Tensor, query: Tensor, transductive: bool = False) -> Tensor:
        """`classify` after `learn`."""
        return self.classify(self.learn(support), query, transductive)

    def validate(self, support: Tensor, query: Tensor) -> tuple[Tensor, Tensor]:
        """Embedded episodes → losses and accuracies, (E,) each, by the first of `modes`: the weights of the lowest loss
        are kept, for all of them."""
        logits = self.predict(support, query, self.modes[0])
        return losses(logits), accuracies(logits)

    def state(self) -> dict[str, Any]:
        """All that a resumed training needs."""
        optimizer = None if self.optimizer is None else self.optimizer.state_dict()
        return {"model": self.model.state_dict(), "optimizer": optimizer}

    def load_state(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        if self.optimizer is not None:
            self.optimizer.load_state_dict(state["optimizer"])

    def embed_table(self, table: Tensor, copies: int = 1) -> Tensor:
        """`embed` for every drawing of a table uint8 (classes, drawings, channels, size, size).

        Args:
            copies: a drawing is the mean of so many copies, distorted as in training; 1: the drawing as it is.
        """
        generator = torch.Generator().manual_seed(0)

        def embedded(images: Tensor) -> Tensor:
            if copies == 1:
                return self.embed(images)
            distorted = (affine(images, self.settings.distortion, generator) for _ in range(copies))
            return torch.stack([self.embed(copy) for copy in distorted]).mean(0)

        with torch.no_grad():
            parts = table.flatten(0, 1).split(as_many(EMBEDDED_IMAGES, table[0, 0]))
            parts = [embedded(as_float(part)) for part in parts]
        return torch.cat(parts).unflatten(0, table.shape[:2])


class MetricMethod(Method):
    """A method whose network embeds an image whatever its episode, so that one model serves every task.

    Trained by Adam, whose rate falls to zero along half a cosine. Subclasses implement `loss` and `classify`.
    """

    optimizer: torch.optim.Optimizer

    def __init__(self, settings: Any, problem: Problem, device: torch.device) -> None:
        super().__init__(settings, problem, device)
        self.model = self.network().to(device)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=settings.lr)

    def network(self) -> nn.Module:
        """What is trained; a `conv4` if the method says nothing else."""
        return self.conv4()

    def conv4(self, outputs: int | None = None) -> Conv4:
        """The network of the settings, with a linear head where it has outputs."""
        return Conv4(self.settings.network, outputs, channels=self.problem.channels, size=self.problem.size)

    def loss(self, support: Tensor, query: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
        """Loss and accuracy of a training batch, scalars; the arguments are those of `step`."""
        raise NotImplementedError

    def step(
        self, support: Tensor, query: Tensor, classes: Tensor, done: float, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        self.model.train()
        loss, accuracy = self.loss(support, query, classes)
        self.optimizer.zero_grad()
        loss.backward()
        descend(self.optimizer, self.settings.lr * cosine(done))
        return loss.detach(), accuracy

    def embed(self, images: Tensor) -> Tensor:
        self.model.eval()
        return self.model(images)


def among_others(similarity: Tensor, classes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """How a batch of drawings ranks: the log-probability (n, n) that a drawing picks each other one by `similarity`
    (n, n); which pairs are of one class (n, n); and how often the most similar other one is, a scalar.

    Args:
        classes: (n,), the class of each drawing.
    """
    itself = torch.eye(len(classes), dtype=torch.bool, device=similarity.device)
    others = similarity.masked_fill(itself, -torch.inf)
    accuracy = (classes[others.argmax(1)] == classes).float().mean()
    return others.log_softmax(1), (classes[:, None] == classes) & ~itself, accuracy


def labels(episodes: int, way: int, each: int, device: torch.device) -> Tensor:
    """Labels of `each` images per class: (episodes, way x each), 0 0 … 1 1 …"""
    return torch.arange(way, device=device).repeat_interleave(each).expand(episodes, -1)


def _labels_of(logits: Tensor) -> Tensor:
    episodes, queries, way = logits.shape
    return labels(episodes, way, queries // way, logits.device)


def losses(logits: Tensor) -> Tensor:
    """Mean cross-entropy of each episode: (E, way x queries, way) → (E,)."""
    return F.cross_entropy(logits.transpose(1, 2), _labels_of(logits), reduction="none").mean(1)


def accuracies(logits: Tensor) -> Tensor:
    """Fraction of each episode's queries that are right: (E, way x queries, way) → (E,)."""
    return (logits.argmax(-1) == _labels_of(logits)).float().mean(1)


def each_part(function: Callable[..., Any], *batches: Tensor) -> list[Any]:
    """`function` of consecutive parts of the tasks, slices of these tensors (tasks, ...), in order. A GPU gets all as
    one; on a CPU the fastest way through many small tasks is a thread a core, each with several tasks side by side
    (`benchmarks/maml_step.py` and `reptile_step.py` have the figures)."""
    if batches[0].device.type == "cuda":
        return [function(*batches)]
    threads = task_threads()
    size = max(1, min(TASKS_SIDE_BY_SIDE, -(-len(batches[0]) // threads._max_workers)))
    return list(threads.map(function, *(batch.split(size) for batch in batches)))


def joined(parts: Sequence[Weights]) -> Weights:
    """The tasks' weights of several parts, in order."""
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def classified(network: Conv4, weights: Weights, support: Tensor, queries: Tensor, transductive: bool) -> Tensor:
    """Logits (tasks, q, outputs) of each task's queries (tasks, q, ...) by weights of its own (tasks, ...): of all its
    queries at once, or of each beside the support images (tasks, n, ...) alone."""

    def part(support: Tensor, queries: Tensor, *values: Tensor) -> Tensor:
        own = dict(zip(weights, values, strict=True))
        if transductive:
            return network.side_by_side(own, queries)
        each = [{name: value[task] for name, value in own.items()} for task in range(len(queries))]
        return torch.stack([network.one_at_a_time(*task) for task in zip(each, support, queries, strict=True)])

    return torch.cat(each_part(part, support, queries, *weights.values()))


def cosine(done: float) -> float:
    """Learning-rate factor: 1 at the start, 0 at the end, half a cosine between."""
    return 0.5 * (1 + math.cos(math.pi * done))


def descend(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """One optimizer step at this learning rate, on the gradients as they are."""
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.step()


def create(name: str, settings: Any, problem: Problem, device: torch.device, seed: int) -> Method:
    """The method called `name`, with weights that depend on the seed alone."""
    torch.manual_seed(seed)
    kind = getattr(importlib.import_module(f"fewlabel.fewshot.methods.{name}"), name.title().replace("_", ""))
    return kind(settings, problem, device)
