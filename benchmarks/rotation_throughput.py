"""Rotation pretraining: our training step against the usual pipeline of PIL images and a DataLoader.

    python -m benchmarks.rotation_throughput [--device auto] [--rounds 5] [--steps 20]

The reference is written the popular way: a Dataset of PIL images with torchvision's transforms, four turned copies of
each with np.rot90, a DataLoader with two workers, float32, torchvision's own ResNet-18 in torch's default memory
layout, torch's default optimiser. Both sides train from the same weights on batches of the same size. First both must
give the same loss on the same images; then they take turns in one process, and the medians are compared. The batches
that the workers have ready when their turn begins are not timed.

Needs an idle machine. On two cores of an AMD EPYC with AVX-512, torch 2.14, it gives 1.56x in float32 (261 against
407 ms a step, medians of 4 rounds). Of the network's step alone, 324 ms plain and in torch's layout, channels last
leaves 296 and no products with padding 231 (`small/resnet.py`, with the ReLU before the pool). Tried and left: the
matrices of small maps by Tensor.unfold (270 instead of 243 ms, as its backward is slow); bfloat16 (167 instead of
216 ms when idle, but 0.23x of the reference beside other work).
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Iterator
from unittest import mock

import numpy as np
import torch
import torch.nn.functional as F
import torchvision
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from fewlabel.labels.rotation import ROTATIONS, four_copies
from fewlabel.networks.classifier import Classifier, linear_head
from fewlabel.networks.small import resnet
from fewlabel.training import augment, device, supervised

IMAGES, BATCH, SHIFT, WORKERS, PREFETCH = 10_000, 64, 4, 2, 2
LR, MOMENTUM, WEIGHT_DECAY = 0.01, 0.9, 5e-4


class FourTurns(Dataset[tuple[Tensor, Tensor]]):
    """Each item: the four turns (4, 3, 32, 32) of one image, and which is which (4,)."""

    def __init__(self, images: NDArray[np.uint8], augmented: bool) -> None:
        self.images = [Image.fromarray(image.transpose(1, 2, 0)) for image in images]
        moves = [transforms.RandomCrop(32, padding=SHIFT), transforms.RandomHorizontalFlip()]
        self.augment = transforms.Compose(moves if augmented else [])
        self.finish = transforms.Compose([transforms.ToTensor(), transforms.Normalize((0.5,) * 3, (0.25,) * 3)])

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        image = np.asarray(self.augment(self.images[index]))
        turned = [self.finish(np.rot90(image, turns).copy()) for turns in range(ROTATIONS)]
        return torch.stack(turned), torch.arange(ROTATIONS)


def network(on: torch.device, stem: resnet.Stem) -> Classifier:
    return Classifier(resnet.resnet18(stem, seed=0), linear_head(resnet.WIDTHS[-1], ROTATIONS, seed=0)).to(on)


def usual_network(on: torch.device, stem: resnet.Stem) -> nn.Module:
    """torchvision's module, with the same weights."""
    usual = torchvision.models.resnet18(num_classes=ROTATIONS)
    if stem == "cifar":
        usual.conv1, usual.maxpool = nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.Identity()
    ours = network(on, stem).state_dict().items()
    usual.load_state_dict({name.replace("backbone.", "").replace("head.", "fc."): value for name, value in ours})
    return usual.to(on)


class Reference:
    """The usual loop, one step at a time."""

    def __init__(self, images: NDArray[np.uint8], on: torch.device, stem: resnet.Stem) -> None:
        self.network, self.on = usual_network(on, stem).train(), on
        self.optimiser = torch.optim.SGD(
            self.network.parameters(), lr=LR, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY, nesterov=True
        )
        self.loader = DataLoader(
            FourTurns(images, augmented=True),
            batch_size=BATCH,
            shuffle=True,
            drop_last=True,
            num_workers=WORKERS,
            prefetch_factor=PREFETCH,
            pin_memory=on.type == "cuda",
        )
        self.batches = self._endless()

    def _endless(self) -> Iterator[tuple[Tensor, Tensor]]:
        while True:
            yield from self.loader

    def steps(self, count: int) -> None:
        for _ in range(count):
            inputs, labels = next(self.batches)
            inputs = inputs.flatten(0, 1).to(self.on, non_blocking=True)
            labels = labels.flatten().to(self.on, non_blocking=True)
            logits = self.network(inputs)
            loss = F.cross_entropy(logits, labels)
            self.optimiser.zero_grad()
            loss.backward()
            self.optimiser.step()
            self.shown = loss.item(), (logits.argmax(1) == labels).sum().item()


class Ours:
    """The rotation pretraining's batches through `supervised.train`."""

    def __init__(self, images: NDArray[np.uint8], on: torch.device, stem: resnet.Stem) -> None:
        self.network, self.images = network(on, stem), torch.from_numpy(images).to(on)

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        which = augment.batch_indices(len(self.images), BATCH, step, 0).to(self.images.device)
        turned, labels = four_copies(augment.shift_and_flip(self.images[which], SHIFT, augment.generator(0, step, 1)))
        return augment.to_float(turned), labels

    def steps(self, count: int) -> None:
        never = 10**9
        recipe = supervised.Recipe(count, LR, MOMENTUM, WEIGHT_DECAY, evaluate_every=never, save_every=never)
        supervised.train(self.network, self.batch, lambda _: (0.0, 0.0), recipe)


def check(images: NDArray[np.uint8], on: torch.device, stem: resnet.Stem) -> None:
    """The same images and labels, and the same loss; in half precision, to its rounding."""
    plain = FourTurns(images[:BATCH], augmented=False)
    theirs, their_labels = (torch.cat(part) for part in zip(*(plain[i] for i in range(BATCH)), strict=True))
    turned, labels = four_copies(torch.from_numpy(images[:BATCH]).to(on))
    by_image = torch.arange(ROTATIONS * BATCH).view(ROTATIONS, BATCH).T.flatten()  # ours has one turn after the other
    torch.testing.assert_close(augment.to_float(turned).cpu()[by_image], theirs)
    assert torch.equal(labels.cpu()[by_image], their_labels)
    expected = F.cross_entropy(usual_network(on, stem)(theirs.to(on)), their_labels.to(on))
    for precision, tolerance in (("fp32", 1e-4), ("bf16", 2e-2)):
        with mock.patch.object(device, "precision", lambda _, precision=precision: precision):
            loss = F.cross_entropy(supervised.forward(network(on, stem), augment.to_float(turned)), labels)
        torch.testing.assert_close(loss, expected, rtol=tolerance, atol=0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=20, help="training steps a round")
    arguments = parser.parse_args()
    on = device.pick(arguments.device)
    stem: resnet.Stem = "cifar" if on.type == "cuda" else "imagenet"
    images = np.random.default_rng(0).integers(256, size=(IMAGES, 3, 32, 32), dtype=np.uint8)
    check(images, on, stem)
    print("both sides: the same loss on the same images")
    reference, ours = Reference(images, on, stem), Ours(images, on, stem)
    seconds: dict[str, list[float]] = {"reference": [], "ours, fp32": [], f"ours, {device.precision(on)}": []}
    for warm in range(arguments.rounds + 1):  # the first round is not counted
        for name, times in seconds.items():
            side: Reference | Ours = ours if name.startswith("ours") else reference
            if side is reference:
                reference.steps(WORKERS * PREFETCH)
            precision = "fp32" if name == "ours, fp32" else device.precision(on)
            with mock.patch.object(device, "precision", lambda _, precision=precision: precision):
                _synchronise(on)
                began = time.perf_counter()
                side.steps(arguments.steps)
                _synchronise(on)
            if warm:
                times.append((time.perf_counter() - began) / arguments.steps)
    print(
        f"{device.describe(on)}; torch {torch.__version__}, torchvision {torchvision.__version__}, "
        f"{torch.get_num_threads()} threads; ResNet-18, {stem} stem, {BATCH} images of 32x32 in four turns"
    )
    base = statistics.median(seconds["reference"])
    for name, times in seconds.items():
        median = statistics.median(times)
        print(
            f"{name:12s} {median * 1e3:7.1f} ms a step  {ROTATIONS * BATCH / median:8.0f} turns/s  {base / median:.2f}x"
        )


def _synchronise(on: torch.device) -> None:
    if on.type == "cuda":
        torch.cuda.synchronize(on)


if __name__ == "__main__":
    main()
