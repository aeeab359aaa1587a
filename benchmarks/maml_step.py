"""Tasks per second of a MAML outer step, second order, against the loop that popular code runs.

The reference does as learn2learn's ``MAML`` does: for every task clone the network (its parameters become
differentiable copies), take inner steps with ``torch.autograd.grad(create_graph=True)``, update the clone's parameters,
and call ``backward`` on the query loss. Same network (in torch's default memory layout), tasks and images in memory. On
a CPU the reference uses all cores as torch does by itself, and freed memory is kept for both sides.
"""

from __future__ import annotations

import copy
import functools
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks import common
from benchmarks.common import Row
from fewlabel import params
from fewlabel.fewshot import episodes
from fewlabel.fewshot.methods.base import Problem
from fewlabel.fewshot.methods.maml import Maml, step_importance
from fewlabel.params import Maml as Settings

TASKS, WAY, QUERIES = 32, 5, 15
TARGET = {"cpu": 2, "cuda": 20}
CASES = ((1, 1), (5, 1), (1, 5), (5, 5))  # shot, inner steps


def clone(module: nn.Module) -> nn.Module:
    """A copy whose parameters are differentiable copies of the module's."""
    copied = copy.copy(module)
    copied.__dict__ = module.__dict__.copy()
    own: dict[str, Any] = module._parameters
    copied._parameters = {name: value if value is None else value.clone() for name, value in own.items()}
    copied._buffers = dict(module._buffers)
    copied._modules = {name: value if value is None else clone(value) for name, value in module._modules.items()}
    return copied


def update(module: nn.Module, gradients: dict[int, Tensor], rate: float) -> None:
    """One inner step on a clone, by the gradients of its parameters' ids."""
    for name, value in module._parameters.items():
        if value is not None:
            module._parameters[name] = value - rate * gradients[id(value)]  # type: ignore[assignment]
    for child in module.children():
        update(child, gradients, rate)


def reference(network: nn.Module, support: Tensor, query: Tensor, settings: Settings) -> Tensor:
    """Put the outer gradient into the network's ``.grad``; → the mean query loss."""
    network.zero_grad()
    way, shot, queries = *support.shape[1:3], query.shape[2]
    labels = torch.arange(way, device=support.device)
    total = torch.zeros((), device=support.device)
    for images, questions in zip(support.flatten(1, 2), query.flatten(1, 2), strict=True):
        learner = clone(network)
        for _ in range(settings.inner_steps):
            loss = F.cross_entropy(learner(images), labels.repeat_interleave(shot))
            weights = _parameters(learner)
            gradients = torch.autograd.grad(loss, weights, create_graph=True)
            found = {id(weight): gradient for weight, gradient in zip(weights, gradients, strict=True)}
            update(learner, found, settings.inner_lr)
        loss = F.cross_entropy(learner(questions), labels.repeat_interleave(queries)) / len(support)
        loss.backward()
        total += loss.detach()
    return total


def _parameters(module: nn.Module) -> list[Tensor]:
    own = [value for value in module._parameters.values() if value is not None]
    return own + [value for child in module.children() for value in _parameters(child)]


def create(steps: int, shot: int, device: torch.device, width: int = 64) -> Maml:
    settings = params.load().maml.model_copy(
        update={
            "meta_batch": TASKS,
            "inner_steps": steps,
            "network": common.network(width, "stride"),
        }
    )
    torch.manual_seed(0)
    return Maml(settings, Problem(WAY, shot, classes=100), device)


def episodes_of(tasks: int, shot: int, device: torch.device) -> tuple[Tensor, Tensor]:
    shape = episodes.Shape(tasks, WAY, shot, min(QUERIES, 20 - shot))
    table = common.glyph_table(100, device)
    indices = episodes.sample(shape, len(table), table.shape[1], episodes.generator(0, 0))
    support, query = map(episodes.as_float, episodes.gather(table, indices))
    return support, query


def check(device: torch.device) -> None:
    """Same loss and same outer gradient, in float64."""
    for shot, steps in CASES:
        method = create(steps, shot, device, width=8)
        method.model.double()
        support, query = (images.double() for images in episodes_of(3, shot, device))
        network = copy.deepcopy(method.model.conv4)
        expected = reference(network, support, query, method.settings)
        loss, _ = method.outer_gradient(support, query)
        common.close(f"loss, {shot} shots, {steps} steps", loss, expected)
        for (name, ours), theirs in zip(method.model.conv4.named_parameters(), network.parameters(), strict=True):
            assert ours.grad is not None
            assert theirs.grad is not None
            common.close(f"gradient of {name}, {shot} shots, {steps} steps", ours.grad, theirs.grad, atol=1e-9)


def measure(device: torch.device, repeats: int) -> list[Row]:
    rows = []
    for shot, steps in CASES:
        method = create(steps, shot, device)
        support, query = episodes_of(TASKS, shot, device)
        network = copy.deepcopy(method.model.conv4).to(memory_format=torch.contiguous_format)
        seconds = common.alternate(
            {
                "reference": functools.partial(reference, network, support, query, method.settings),
                "ours": functools.partial(method.outer_gradient, support, query),
                "product": common.product(device),
            },
            repeats,
            device,
        )
        case = f"{WAY}w{shot}s, {steps} inner steps"
        images, queries = support[:1].flatten(1, 2), query[:1].flatten(1, 2)  # of one task
        importance = step_importance(method.settings, 1.0)
        work = functools.partial(method._part_gradient, images, queries, importance, second_order=True)
        limit = common.limit(seconds["reference"], TASKS * common.operations(work), seconds["product"])
        tasks = {f"{name}_tasks_per_s": TASKS / seconds[name] for name in ("reference", "ours")}
        rows.append(
            common.against(case, seconds["reference"], seconds["ours"], TARGET[device.type], limit=limit, **tasks)
        )
    return rows


if __name__ == "__main__":
    common.main("maml_step", __doc__, check, measure)


# Ways to the same outer gradient on a CPU, torch 2.14.1, AMD EPYC with AVX-512, 2 cores, freed memory kept for all.
# Milliseconds per task, medians of 11 rounds in turns on two idle threads, the loop against ours:
#   21.1  12.5  5w1s, 1 inner step        52.8  24.5  5w1s, 5 inner steps
#   32.1  20.3  5w5s, 1 inner step        104   60.3  5w5s, 5 inner steps
# The ratios of 7 rounds minutes before were 1.7, 2.0 (5w5s, 1 step), 2.5 and 1.7, those of another day, with the norm's
# second derivative in more passes, 1.9, 1.5, 2.4 and 2.0: the loop's time varies more than ours.
# Milliseconds of one thread's CPU time per task, with 15 queries a class, the least of 7 rounds beside other work, in
# the order 5w1s and 5w5s with 1 step, 5w1s with 5:
#   40.0  50.7  84.2  task after task (a thread a core; channels last, the query pass differentiated once, second
#                     derivatives as plain convolutions): 1.1 to 1.2 times the loop, as was measured when it was alone
#   29.7  44.0  59.5  2 tasks side by side in grouped convolutions, second derivatives too
#   27.3  41.4  52.2  4 tasks
#   25.8  41.5  49.4  8 tasks
#   25.0  41.8  58.1  8 tasks, the query pass task after task
#   22.5  40.6        8 tasks, the norm's second derivative in the terms of its first, as it is now
# What is left: torch's convolutions take 28 of the 40.6, at 45 to 135 GFLOP/s where large products reach 100; the norm
# and the ReLU most of the rest, which move memory. With the convolutions alone 5w5s would be 2.3 times the loop.
# Sharing the first inner step, whose weights are those of all tasks: convolutions of one weight take 2 to 25 % less
# than grouped ones (8 tasks of 25 images), which is 4 % of the step at 5w5s, before the tasks' channels are brought
# beside each other: not done. torch.compile does not differentiate twice.
# On a GPU, not measured: all tasks side by side, in one part. By vmap over the tasks an outer gradient of 8 tasks is
# 1,380 of torch's operations with 1 inner step and 5,648 with 5, 178 of them convolutions, as the second derivative
# of a grouped one goes task after task; side by side 657 and 2,473, of which 59 are convolutions, whatever the tasks.
