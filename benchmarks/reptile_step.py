"""Inner steps per second of a Reptile outer step, against the loop that popular code runs.

The reference copies the network for every task (``copy.deepcopy``), makes it a torch optimizer, and loops in Python
over tasks and minibatches; then moves the weights towards the mean of the copies. Same network (in torch's default
memory layout), meta-batch, inner batch and images in memory; the inner optimizer is SGD as in params.yaml, or Adam with
β₁ = 0 as the authors ran it, whose second moments outlive the task. On a CPU both sides profit from
`fewlabel.device.pick`, which keeps freed memory.

The check takes minibatches as large as the task's images, so that both sides see the same ones.
"""

from __future__ import annotations

import copy
import functools
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks import common
from benchmarks.common import Row
from fewlabel import params
from fewlabel.fewshot import episodes
from fewlabel.fewshot.methods.base import Problem
from fewlabel.fewshot.methods.reptile import Reptile, ReptileNetwork, minibatches
from fewlabel.params import Reptile as Settings

WAY = 5
TARGET = {"cpu": 3, "cuda": 20}
OPTIMIZERS: tuple[Literal["sgd", "adam"], ...] = ("sgd", "adam")


def reference(network: ReptileNetwork, tasks: Tensor, settings: Settings) -> Tensor:
    """One outer step in place on tasks (T, way, shots, 1, 28, 28) → the mean loss of the last minibatches."""
    weights = dict(network.named_parameters())
    sums = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    losses, moments = [], [torch.zeros_like(moment) for moment in network.moments()]
    targets = torch.arange(tasks.shape[1], device=tasks.device).repeat_interleave(tasks.shape[2])
    for images in tasks.flatten(1, 2):
        learner = copy.deepcopy(network)
        optimizer: torch.optim.Optimizer
        if settings.inner_optimizer == "adam":
            optimizer = torch.optim.Adam(learner.parameters(), lr=settings.inner_lr, betas=(0.0, 0.999))
            steps = torch.tensor(float(network.moment_steps))
            for weight, moment in zip(learner.parameters(), learner.moments(), strict=True):
                state = {"step": steps.clone(), "exp_avg": torch.zeros_like(weight), "exp_avg_sq": moment}
                optimizer.state[weight] = state  # which it changes in place
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
        moments = [total + moment for total, moment in zip(moments, learner.moments(), strict=True)]
        for name, weight in learner.named_parameters():
            sums[name] += weight.detach()
    with torch.no_grad():
        for name, weight in weights.items():
            weight.add_(sums[name] / len(tasks) - weight, alpha=settings.outer_step)
        if moments:
            torch._foreach_copy_(network.moments(), [moment / len(tasks) for moment in moments])
            network.moment_steps += settings.inner_steps
    return torch.stack(losses).mean()


def settings(optimizer: Literal["sgd", "adam"]) -> Settings:
    rate = 0.1 if optimizer == "sgd" else 0.001
    return params.load().reptile.model_copy(update={"inner_optimizer": optimizer, "inner_lr": rate})


def create(settings: Settings, device: torch.device) -> Reptile:
    torch.manual_seed(0)
    return Reptile(settings, Problem(WAY, shot=1, classes=100), device)


def check(device: torch.device) -> None:
    """Same losses and same weights after two outer steps, in float64."""
    for optimizer in OPTIMIZERS:
        small = settings(optimizer).model_copy(
            update={
                "meta_batch": 3,
                "network": common.network(8, "stride"),
                "inner_batch": 20,
                "inner_steps": 3,
            }
        )
        method = create(small, device)
        method.model.double()
        network = copy.deepcopy(method.model)
        table = common.glyph_table(15, device)[:, :4]
        tasks = episodes.as_float(table).double().unflatten(0, (3, WAY))
        classes = torch.arange(15).view(3, WAY)
        for _ in range(2):
            loss, _ = method.step(tasks, tasks[:, :, :0], classes, 0.0, torch.Generator().manual_seed(0))
            common.close(f"loss with {optimizer}", loss, reference(network, tasks, small))
        for (name, ours), theirs in zip(method.model.named_parameters(), network.parameters(), strict=True):
            common.close(f"{name} with {optimizer}", ours, theirs, atol=1e-6)


def measure(device: torch.device, repeats: int) -> list[Row]:
    rows = []
    for optimizer in OPTIMIZERS:
        chosen = settings(optimizer)
        method = create(chosen, device)
        table = common.glyph_table(chosen.meta_batch * WAY, device)[:, : chosen.train_shots]
        tasks = episodes.as_float(table).unflatten(0, (chosen.meta_batch, WAY))
        classes = torch.arange(chosen.meta_batch * WAY).view(-1, WAY)
        network = copy.deepcopy(method.model).to(memory_format=torch.contiguous_format)
        generator = torch.Generator().manual_seed(0)
        seconds = common.alternate(
            {
                "reference": functools.partial(reference, network, tasks, chosen),
                "ours": functools.partial(method.step, tasks, tasks[:, :, :0], classes, 0.0, generator),
                "product": common.product(device),
            },
            repeats,
            device,
        )
        steps = chosen.meta_batch * chosen.inner_steps
        batches = minibatches(WAY * chosen.train_shots, chosen.inner_batch, chosen.inner_steps, generator)[None]
        one = functools.partial(method.adapt, method.model.weights(), tasks[:1].flatten(1, 2), batches)
        limit = common.limit(seconds["reference"], chosen.meta_batch * common.operations(one), seconds["product"])
        each = {name: taken / steps for name, taken in seconds.items()}
        rows.append(common.against(optimizer, each["reference"], each["ours"], TARGET[device.type], limit=limit))
    return rows


if __name__ == "__main__":
    common.main("reptile_step", __doc__, check, measure)


# Ways to the same outer step on a CPU. torch 2.14.1, AMD EPYC with AVX-512, 2 cores, 2 threads, freed memory kept,
# milliseconds per inner step, medians of 15 rounds in turns, scratch versions with SGD:
#   2.63  the reference loop (3.08 with Adam)
#   1.61  a thread a core, each with whole tasks, first-order backward by hand: 5 tasks are 3 + 2, one core idles
#   1.43  task after task on both cores, backward by hand
#   1.25  grouped convolutions (the tasks' channels side by side, channels last), backward by hand
#   1.16  the same through torch.compile, which takes 10 to 20 s
#   0.96  grouped in bfloat16, backward by hand; 0.88 compiled
# By autograd, grouped convolutions took 1.20 where the loop took 2.32. They lose without channels last (one thread:
# 3.69 against 2.81) and lose most of their gain where the C library gives freed memory back (one thread: 2.88 against
# 1.63). Unfolding with batched matrix products runs at half the speed of the convolutions in float32 (95 against 200
# GFLOP/s a core). bfloat16 reaches 3x, but not the same losses, and is slow on CPUs without its instructions.
# As it is now (grouped convolutions, a thread a core), medians of 7 rounds on an idle machine, the loop against ours:
# SGD 3.18 and 1.79, Adam 4.16 and 2.10; on another day 4.37 and 2.14, 4.95 and 2.55.
# What is left: of 3.0 ms of one thread an inner step (SGD, 4 tasks), torch's convolutions take 1.85, at 40 (the last
# block, weights) to 130 GFLOP/s where large products reach 100. With nothing else it would be 3.4 times the loop.
