"""Pairs per second of a Siamese training step: all pairs of one batch, against two forwards per pair.

The reference is the Siamese network of the tutorials: a batch of left images and a batch of right images each go
through the tower, a linear head takes |f₁ − f₂|, binary cross-entropy, Adam. Same tower (in torch's default memory
layout), same images in memory.

The check gives the reference every pair of our batch. A batch norm would see other statistics on either side; each
image is in as many pairs as any other, so both sides in one forward have exactly the statistics of our batch.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
import torch.nn.functional as F

from benchmarks import common
from benchmarks.common import Row
from fewlabel import params
from fewlabel.fewshot import episodes
from fewlabel.fewshot.methods.base import Problem
from fewlabel.fewshot.methods.siamese import Siamese
from fewlabel.params import Siamese as Settings

PAIRS = 128  # of a reference step, half of them "same"


def chosen(**changes: Any) -> Settings:
    """Those of params.yaml, with the loss that is compared."""
    return params.load().siamese.model_copy(update={"loss": "pairs"} | changes)


def create(settings: Settings, device: torch.device) -> Siamese:
    torch.manual_seed(0)
    return Siamese(settings, Problem(way=0, shot=0, classes=settings.classes), device)


def check(device: torch.device) -> None:
    """Same loss and gradients on the same pairs, in float64."""
    method = create(chosen(classes=6, drawings=3, network=common.network(16, "pool")), device)
    method.model.double()
    network = copy.deepcopy(method.model)
    images = episodes.as_float(common.glyph_table(6, device)[:, :3]).double()
    loss, _ = method.step(images[None], images.new_empty(0), torch.arange(6)[None], 0.0, torch.Generator())

    classes = torch.arange(6, device=device).repeat_interleave(3)
    first, second = torch.triu_indices(18, 18, offset=1, device=device)
    flat = images.flatten(0, 1)
    left, right = network.tower(torch.cat([flat[first], flat[second]])).chunk(2)
    logits = network.head((left - right).abs()).squeeze(1)
    same = classes[first] == classes[second]
    halves = [F.binary_cross_entropy_with_logits(logits[kind], same[kind].double()) for kind in (same, ~same)]
    expected = torch.stack(halves).mean()
    expected.backward()
    common.close("loss", loss, expected)
    for (name, ours), theirs in zip(method.model.named_parameters(), network.parameters(), strict=True):
        assert ours.grad is not None
        assert theirs.grad is not None
        common.close(f"gradient of {name}", ours.grad, theirs.grad)


def measure(device: torch.device, repeats: int) -> list[Row]:
    settings = chosen()
    method = create(settings, device)
    table = common.glyph_table(settings.classes, device)[:, : settings.drawings]
    batch = episodes.as_float(table)[None]
    classes = torch.arange(settings.classes)[None]
    images = batch.flatten(0, 2)
    network = copy.deepcopy(method.model).to(memory_format=torch.contiguous_format).train()
    optimizer = torch.optim.Adam(network.parameters(), lr=settings.lr)
    targets = (torch.arange(PAIRS, device=device) % 2).float()
    generator = torch.Generator().manual_seed(0)

    def reference() -> None:
        first, second = (torch.randint(len(images), (PAIRS,), generator=generator).to(device) for _ in range(2))
        difference = (network.tower(images[first]) - network.tower(images[second])).abs()
        loss = F.binary_cross_entropy_with_logits(network.head(difference).squeeze(1), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    def ours() -> None:
        method.step(batch, batch.new_empty(0), classes, 0.0, generator)

    seconds = common.alternate({"reference": reference, "ours": ours}, repeats, device)
    count = len(images) * (len(images) - 1) // 2
    per_pair = {"reference": seconds["reference"] / PAIRS, "ours": seconds["ours"] / count}
    per_image = {"reference": seconds["reference"] / (2 * PAIRS), "ours": seconds["ours"] / len(images)}
    return [
        common.against("per pair", per_pair["reference"], per_pair["ours"], 5),
        common.against("per image through the tower", per_image["reference"], per_image["ours"]),
    ]


if __name__ == "__main__":
    common.main("siamese_pairs", __doc__, check, measure)
