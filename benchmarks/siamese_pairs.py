"""Pairs per second of a Siamese training step: all pairs of one batch, against two forwards per pair.

The reference is the Siamese network of the tutorials: a batch of left images and a batch of right images each go
through the tower, a linear head takes |f₁ − f₂|, binary cross-entropy, Adam. Same tower, same images in memory.

The check gives the reference every pair of our batch. A batch norm would see other statistics on either side; each
image is in as many pairs as any other, so both sides in one forward have exactly the statistics of our batch.
"""

from __future__ import annotations

import copy
import functools

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.testing import assert_close

from benchmarks import common
from benchmarks.common import Row
from fewlabel import episodes, params
from fewlabel.methods import base
from fewlabel.methods.siamese import SiameseNetwork
from fewlabel.params import Siamese as Settings

PAIRS = 128  # of a reference step, half of them "same"


def settings() -> Settings:
    return params.load().siamese


def reference_logits(network: SiameseNetwork, first: Tensor, second: Tensor) -> Tensor:
    return network.head((network.tower(first) - network.tower(second)).abs()).squeeze(1)


def check(device: torch.device) -> None:
    """Same loss and gradients on the same pairs, in float64."""
    small = settings().model_copy(update={"classes": 6, "drawings": 3, "width": 16})
    method = base.create("siamese", small, 0, 0, device, seed=0)
    method.model.double()
    network = copy.deepcopy(method.model)
    images = episodes.as_float(common.glyph_table(6, device)[:, :3]).double()
    loss, _ = method.step(images[None], images.new_empty(0), 0.0, torch.Generator())

    classes = torch.arange(6, device=device).repeat_interleave(3)
    first, second = torch.triu_indices(18, 18, offset=1, device=device)
    flat = images.flatten(0, 1)
    left, right = network.tower(torch.cat([flat[first], flat[second]])).chunk(2)
    logits = network.head((left - right).abs()).squeeze(1)
    same = classes[first] == classes[second]
    halves = [F.binary_cross_entropy_with_logits(logits[kind], same[kind].double()) for kind in (same, ~same)]
    expected = torch.stack(halves).mean()
    expected.backward()
    close = functools.partial(assert_close, rtol=1e-5, atol=1e-7, check_dtype=False)
    close(loss, expected)
    for (name, ours), theirs in zip(method.model.named_parameters(), network.parameters(), strict=True):
        close(ours.grad, theirs.grad, msg=lambda message, name=name: f"gradient of {name}: {message}")


def measure(device: torch.device, repeats: int) -> list[Row]:
    chosen = settings()
    method = base.create("siamese", chosen, 0, 0, device, seed=0)
    table = common.glyph_table(chosen.classes, device)[:, : chosen.drawings]
    batch = episodes.as_float(table)[None]
    images = batch.flatten(0, 2)
    network = copy.deepcopy(method.model).train()
    optimizer = torch.optim.Adam(network.parameters(), lr=chosen.lr)
    targets = (torch.arange(PAIRS, device=device) % 2).float()
    generator = torch.Generator().manual_seed(0)

    def reference() -> None:
        first, second = (torch.randint(len(images), (PAIRS,), generator=generator).to(device) for _ in range(2))
        loss = F.binary_cross_entropy_with_logits(reference_logits(network, images[first], images[second]), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    def ours() -> None:
        method.step(batch, batch.new_empty(0), 0.0, generator)

    seconds = common.alternate({"reference": reference, "ours": ours}, repeats, device)
    count = len(images) * (len(images) - 1) // 2
    per_pair = {"reference": seconds["reference"] / PAIRS, "ours": seconds["ours"] / count}
    per_image = {"reference": seconds["reference"] / (2 * PAIRS), "ours": seconds["ours"] / len(images)}
    return [
        common.against("per pair", per_pair["reference"], per_pair["ours"], 5),
        common.against("per image through the tower", per_image["reference"], per_image["ours"], 1),
    ]


if __name__ == "__main__":
    common.main("siamese_pairs", __doc__, check, measure)
