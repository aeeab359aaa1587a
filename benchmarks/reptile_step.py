"""Inner steps per second of a Reptile outer step, against the loop that popular code runs.

The reference copies the network for every task (``copy.deepcopy``), makes it a torch optimizer, and loops in Python
over tasks and minibatches; then moves the weights towards the mean of the copies. Same network, meta-batch, inner
batch and images in memory; the inner optimizer is SGD as in params.yaml, or Adam with β₁ = 0 as the authors ran it.

The check takes minibatches as large as the task's images, so that both sides see the same ones.
"""

from __future__ import annotations

import copy
import functools
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks import common
from benchmarks.common import Row
from fewlabel import episodes, params
from fewlabel.methods import base
from fewlabel.params import Reptile as Settings

WAY = 5
TARGET = {"cpu": 3, "cuda": 20}
OPTIMIZERS: tuple[Literal["sgd", "adam"], ...] = ("sgd", "adam")


def reference(network: nn.Module, tasks: Tensor, settings: Settings) -> Tensor:
    """One outer step in place on tasks (T, way, shots, 1, 28, 28) → the mean loss of the last minibatches."""
    weights = dict(network.named_parameters())
    sums = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    losses = []
    targets = torch.arange(tasks.shape[1], device=tasks.device).repeat_interleave(tasks.shape[2])
    for images in tasks.flatten(1, 2):
        learner = copy.deepcopy(network)
        optimizer: torch.optim.Optimizer
        if settings.inner_optimizer == "adam":
            optimizer = torch.optim.Adam(learner.parameters(), lr=settings.inner_lr, betas=(0.0, 0.999))
        else:
            optimizer = torch.optim.SGD(learner.parameters(), lr=settings.inner_lr)
        size = min(settings.inner_batch, len(images))
        order = torch.cat([torch.randperm(len(images)) for _ in range(-(-settings.inner_steps * size // len(images)))])
        for batch in order[: settings.inner_steps * size].to(images.device).split(size):
            loss = F.cross_entropy(learner(images[batch]), targets[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        losses.append(loss.detach())
        for name, weight in learner.named_parameters():
            sums[name] += weight.detach()
    with torch.no_grad():
        for name, weight in weights.items():
            weight.add_(sums[name] / len(tasks) - weight, alpha=settings.outer_step)
    return torch.stack(losses).mean()


def settings(optimizer: Literal["sgd", "adam"]) -> Settings:
    rate = 0.1 if optimizer == "sgd" else 0.001
    return params.load().reptile.model_copy(update={"inner_optimizer": optimizer, "inner_lr": rate})


def check(device: torch.device) -> None:
    """Same losses and same weights after two outer steps, in float64."""
    for optimizer in OPTIMIZERS:
        small = settings(optimizer).model_copy(
            update={"meta_batch": 3, "width": 8, "inner_batch": 20, "inner_steps": 3}
        )
        method = base.create("reptile", small, WAY, 1, device, seed=0)
        method.model.double()
        network = copy.deepcopy(method.model)
        table = common.glyph_table(15, device)[:, :4]
        tasks = episodes.as_float(table).double().unflatten(0, (3, WAY))
        for _ in range(2):
            loss, _ = method.step(tasks, tasks[:, :, :0], 0.0, torch.Generator().manual_seed(0))
            common.close(f"loss with {optimizer}", loss, reference(network, tasks, small))
        for (name, ours), theirs in zip(method.model.named_parameters(), network.parameters(), strict=True):
            common.close(f"{name} with {optimizer}", ours, theirs, atol=1e-6)


def measure(device: torch.device, repeats: int) -> list[Row]:
    rows = []
    for optimizer in OPTIMIZERS:
        chosen = settings(optimizer)
        method = base.create("reptile", chosen, WAY, 1, device, seed=0)
        table = common.glyph_table(chosen.meta_batch * WAY, device)[:, : chosen.train_shots]
        tasks = episodes.as_float(table).unflatten(0, (chosen.meta_batch, WAY))
        network = copy.deepcopy(method.model)
        generator = torch.Generator().manual_seed(0)
        seconds = common.alternate(
            {
                "reference": functools.partial(reference, network, tasks, chosen),
                "ours": functools.partial(method.step, tasks, tasks[:, :, :0], 0.0, generator),
            },
            repeats,
            device,
        )
        steps = chosen.meta_batch * chosen.inner_steps
        target = TARGET[device.type]
        rows.append(common.against(optimizer, seconds["reference"] / steps, seconds["ours"] / steps, target))
    return rows


if __name__ == "__main__":
    common.main("reptile_step", __doc__, check, measure)
