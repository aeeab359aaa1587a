"""Tell ants from bees with 244 training photographs: ``python -m stages.transfer frozen --seed 0``.

``scratch`` and ``finetune`` train all layers, from random and from ImageNet weights; ``frozen`` trains a linear head
on ImageNet features, extracted once of each photograph and its mirror image, without crops. The result is that of the
last epoch: the 153 validation photographs choose nothing. With ``--fold`` a quarter of the training photographs is
held out and measured instead, and nothing is written: for choosing settings.
"""

from __future__ import annotations

import argparse
import csv
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor, nn

from fewlabel import augment, device, params, prediction_grid, supervised, tracking
from fewlabel.checkpoint import Checkpoint
from fewlabel.data import hymenoptera
from fewlabel.intervals import wilson
from fewlabel.models import pretrained
from fewlabel.models.classifier import Classifier, linear_head
from stages.common import launch, run_facts, whole_folder, write_json

DATA = Path("data/prepared/hymenoptera.npz")
FOLDS = 4
CHUNK = 32  # photographs per forward pass when measuring


@dataclass(frozen=True)
class Task:
    """What is trained, on which batches, and its logits on the photographs it is measured on."""

    trained: nn.Module
    batch: Callable[[int], tuple[Tensor, Tensor]]
    predict: Callable[[nn.Module], Tensor]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("start", choices=["scratch", "finetune", "frozen"])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--fold", type=int, choices=range(FOLDS), help="hold out and measure this quarter of train")
    arguments = parser.parse_args()
    everything = params.load()
    settings = everything.transfer
    start, seed, on = arguments.start, arguments.seed, device.pick(everything.device)
    cell = f"{start}-{seed}" + ("" if arguments.fold is None else f"-fold{arguments.fold}")
    print(f"transfer {cell}, {settings.backbone}, on {device.describe(on)}")
    with tracking.start("transfer", settings.model_dump() | vars(arguments)) as run:
        data = hymenoptera.load(DATA)
        train, test = split(data.is_train, arguments.fold)
        images, labels = torch.from_numpy(data.images[train]).to(on), torch.from_numpy(data.labels[train]).long().to(on)
        test_images, test_labels = (
            torch.from_numpy(data.images[test]).to(on),
            torch.from_numpy(data.labels[test]).long(),
        )

        made = pretrained.create(settings.backbone, start != "scratch", seed, everything.data.mirror)
        head = linear_head(made.width, len(hymenoptera.CLASSES), seed)
        network = Classifier(made.module, head, frozen=start == "frozen").to(on).to(memory_format=torch.channels_last)
        normalise = Normalise(settings, made, on)
        began = time.monotonic()
        make_task = head_task if network.frozen else whole_task
        task = make_task(network, normalise, images, labels, test_images, settings, seed)
        extraction = time.monotonic() - began  # of features, where the backbone is frozen

        recipe = recipe_of(start, settings, len(images))
        depends = settings.model_dump() | vars(arguments) | {"device": str(on)}
        checkpoint = Checkpoint(f"transfer/{cell}", depends, [DATA])
        training = supervised.train(
            task.trained,
            task.batch,
            lambda model: supervised.loss_and_accuracy(task.predict(model), test_labels),
            recipe,
            checkpoint=checkpoint,
            name=cell,
            log=run.log,
        )
        probabilities = task.predict(task.trained).softmax(1).numpy()
        correct = int((probabilities.argmax(1) == test_labels.numpy()).sum())
        value, low, high = wilson(correct, len(test_labels))
        what = "validation" if arguments.fold is None else "held-out training"
        print(f"{cell}: accuracy {value:.2%} [{low:.2%}, {high:.2%}] on {len(test_labels)} {what} photographs")
        run.log(training.steps, accuracy=value)
        if arguments.fold is None:
            row = {
                "family": "transfer",
                "method": start,
                "dataset": "hymenoptera",
                "protocol": "hymenoptera/train-val",
                "transductive": False,
                "seed": seed,
                "metric": "accuracy",
                "value": value,
                "ci95_low": low,
                "ci95_high": high,
                "n": len(test_labels),
                "budget": everything.budget,
            }
            with whole_folder(f"results/transfer/{cell}") as out:
                save_file(supervised.tensors(network), out / "model.safetensors")
                supervised.write_curve(out / "curve.csv", training.curve)
                write_predictions(out / "predictions.csv", data.names[test], data.labels[test], probabilities)
                prediction_grid.draw(
                    out / "predictions.png",
                    f"Ants and bees, {start}, {settings.backbone}",
                    data.images[test],
                    data.labels[test],
                    probabilities,
                    hymenoptera.CLASSES,
                )
                write_json(out / "metrics.json", {"origin": data.origin, "rows": [row], "backbone": settings.backbone})
                write_json(out / "run.json", run_facts(on, training.seconds + extraction, steps=training.steps))
            run.artifact(f"results/transfer/{cell}/predictions.png")
        checkpoint.remove()


def split(is_train: NDArray[np.bool_], fold: int | None) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Rows to train on and rows to measure: train and validation, or three quarters of train and the fourth."""
    train, validation = np.flatnonzero(is_train), np.flatnonzero(~is_train)
    if fold is None:
        return train, validation
    held_out = np.arange(len(train)) % FOLDS == fold  # names are sorted, so every fold has both classes
    return train[~held_out], train[held_out]


def recipe_of(start: str, settings: params.Transfer, images: int) -> supervised.Recipe:
    per_epoch = images / settings.batch_size
    epochs = settings.frozen_epochs if start == "frozen" else settings.epochs
    lr = {"scratch": settings.scratch_lr, "finetune": settings.finetune_lr, "frozen": settings.frozen_lr}[start]
    return supervised.Recipe(
        steps=max(1, round(epochs * per_epoch)),
        lr=lr,
        momentum=settings.momentum,
        weight_decay=settings.weight_decay,
        evaluate_every=max(1, round(settings.evaluate_every * per_epoch)),
        save_every=max(1, round(settings.save_every * per_epoch)),
        steps_per_epoch=per_epoch,
    )


class Normalise:
    """uint8 photographs (B, 3, 256, 256) → the network's input; the middle 7/8 of the side, or a random crop of each.

    Channels last: training EfficientNet-Lite0 on a CPU is then 1.4 to 1.8 times as fast.
    """

    def __init__(self, settings: params.Transfer, made: pretrained.Pretrained, on: torch.device) -> None:
        self.size, self.crop_size, self.smallest = settings.image_size, settings.crop_size, settings.smallest_crop
        self.mean, self.std = made.mean.to(on), made.std.to(on)

    def middle(self, photographs: Tensor) -> Tensor:
        edge = photographs.shape[-1] // 16
        return self._finish(augment.resize(photographs[..., edge:-edge, edge:-edge].float(), self.size))

    def crop(self, photographs: Tensor, draw: torch.Generator) -> Tensor:
        crops = augment.resized_crop_and_flip(photographs.float(), self.crop_size, self.smallest, draw)
        return self._finish(crops)

    def _finish(self, images: Tensor) -> Tensor:
        return augment.to_float(images, self.mean, self.std).contiguous(memory_format=torch.channels_last)


def whole_task(
    network: Classifier,
    normalise: Normalise,
    images: Tensor,
    labels: Tensor,
    test_images: Tensor,
    settings: params.Transfer,
    seed: int,
) -> Task:
    """All layers train, on random crops and mirror images."""

    def batch(step: int) -> tuple[Tensor, Tensor]:
        which = augment.batch_indices(len(images), settings.batch_size, step, seed).to(images.device)
        return normalise.crop(images[which], augment.generator(seed, step, 1)), labels[which]

    def predict(model: nn.Module) -> Tensor:
        return supervised.predict(model, map(normalise.middle, test_images.split(CHUNK)))

    return Task(network, batch, predict)


def head_task(
    network: Classifier,
    normalise: Normalise,
    images: Tensor,
    labels: Tensor,
    test_images: Tensor,
    settings: params.Transfer,
    seed: int,
) -> Task:
    """The head trains on features of the frozen backbone, which never change and so are extracted once."""

    def features(photographs: Tensor) -> Tensor:
        batches = map(normalise.middle, photographs.split(CHUNK))
        return supervised.predict(network.backbone, batches).to(images.device)

    views = torch.stack([features(images), features(images.flip(-1))])
    test_features = features(test_images)

    def batch(step: int) -> tuple[Tensor, Tensor]:
        which = augment.batch_indices(len(images), settings.batch_size, step, seed)
        mirrored = torch.randint(2, which.shape, generator=augment.generator(seed, step, 1))
        return views[mirrored.to(images.device), which.to(images.device)], labels[which.to(images.device)]

    return Task(network.head, batch, lambda head: supervised.predict(head, iter([test_features])))


def write_predictions(
    path: Path, names: NDArray[np.str_], labels: NDArray[np.integer], probabilities: NDArray[np.floating]
) -> None:
    classes = hymenoptera.CLASSES
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["name", "true", "predicted", "confidence"])
        for name, label, row in zip(names, labels, probabilities, strict=True):
            writer.writerow([name, classes[label], classes[row.argmax()], f"{row.max():.4f}"])


if __name__ == "__main__":
    launch(main)
