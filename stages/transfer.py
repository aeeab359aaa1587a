"""Tell ants from bees with 244 training photographs: ``python -m stages.transfer frozen --seed 0``.

- ``scratch`` and ``finetune`` train all layers of ``transfer.backbone``, from random and from ImageNet weights;
- ``frozen`` trains a linear head on ImageNet features, extracted by the stage transfer_features;
- ``small-rotation`` trains all layers of the ResNet-18 that learnt to tell rotations on CIFAR-10, on small photographs,
  as its features know images of 32x32; ``small-scratch`` is the same network and size from random weights.

The result is that of the last epoch: the 153 validation photographs choose nothing. With ``--fold`` a quarter of the
training photographs is held out and measured instead, and nothing is written: that is how the settings in params.yaml
were chosen, and how to choose others.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fewlabel import params, tracking
from fewlabel.data import hymenoptera
from fewlabel.errors import UserError
from fewlabel.intervals import wilson
from fewlabel.networks import backbones as pretrained
from fewlabel.networks import resnet, weights
from fewlabel.networks.classifier import Classifier, linear_head
from fewlabel.report import prediction_grid
from fewlabel.results import whole_folder, write_json
from fewlabel.stage import launch
from fewlabel.training import augment, dependencies, device, loop, supervised
from fewlabel.training.checkpoint import Checkpoint
from fewlabel.training.device import run_facts

DATA = Path("data/prepared/hymenoptera.npz")
FEATURES = Path("results/transfer_features/features.safetensors")
ROTATION = Path("results/pretrain_rotation/backbone.safetensors")
WEIGHTS = Path("data/raw/backbone/weights.pth")
FOLDS = 4
CHUNK = 32  # photographs per forward pass when measuring


@dataclass(frozen=True)
class Arm:
    """What is trained, and what goes into it. ``which`` are rows of the prepared photographs."""

    network: nn.Module
    backbone: str
    train_inputs: Callable[[Tensor, torch.Generator], Tensor]  # which, and draws for the augmentation
    test_inputs: Callable[[Tensor], Tensor]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("start", choices=get_args(params.TransferStart))
    parser.add_argument("--seed", type=params.seed, default=0)
    parser.add_argument("--fold", type=int, choices=range(FOLDS), help="hold out and measure this quarter of train")
    arguments = parser.parse_args()
    everything = params.load()
    settings = everything.transfer
    start, seed, on = arguments.start, arguments.seed, device.pick(everything.device, everything.deterministic)
    cell = f"{start}-{seed}" + ("" if arguments.fold is None else f"-fold{arguments.fold}")
    out_folder = Path("results/transfer") / cell
    print(f"transfer {cell} on {device.describe(on)}")
    own = everything.transfer_from[start]
    depends = settings.model_dump() | own.model_dump() | vars(arguments)
    with tracking.start("transfer", depends, out_folder if arguments.fold is None else None) as run:
        data = hymenoptera.load(DATA)
        train, test = split(data.is_train, arguments.fold)
        labels = torch.from_numpy(data.labels).long()
        train_labels, test_labels = labels[train].to(on), labels[test]
        if start == "frozen":
            arm = head_arm(settings, seed, on, len(labels))
        else:
            arm = whole_arm(start, everything, seed, torch.from_numpy(data.images).to(on))

        def batch(step: int) -> tuple[Tensor, Tensor]:
            which = augment.batch_indices(len(train), settings.batch_size, step, seed)
            return arm.train_inputs(train[which], augment.generator(seed, step, 1)), train_labels[which.to(on)]

        def predict(network: nn.Module) -> Tensor:
            return supervised.predict(network, map(arm.test_inputs, test.split(CHUNK)))

        recipe = recipe_of(settings, own, len(train))
        stage = dependencies.digest(f"stages.transfer {start} --seed {seed}", everything.model_dump())
        checkpoint = Checkpoint(f"transfer/{cell}", [stage, arguments.fold, device.mode(on)])
        training = supervised.train(
            arm.network,
            batch,
            lambda network: supervised.loss_and_accuracy(predict(network), test_labels),
            recipe,
            checkpoint=checkpoint,
            name=cell,
            log=run.log,
        )
        probabilities = predict(arm.network).softmax(1).numpy()
        correct = int((probabilities.argmax(1) == test_labels.numpy()).sum())
        value, low, high = wilson(correct, len(test))
        what = "validation" if arguments.fold is None else "held-out training"
        print(f"{cell}, {arm.backbone}: accuracy {value:.2%} [{low:.2%}, {high:.2%}] on {len(test)} {what} photographs")
        if arguments.fold is not None:
            run.log(training.steps, val_accuracy=value)
        if arguments.fold is None:
            row = {
                "family": "transfer",
                "method": f"{start}-{arm.backbone}",
                "dataset": "hymenoptera",
                "protocol": "hymenoptera/train-val",
                "transductive": False,
                "seed": seed,
                "metric": "accuracy",
                "value": value,
                "ci95_low": low,
                "ci95_high": high,
                "n": len(test),
                "budget": everything.budget,
            }
            shown = (data.images[test], data.labels[test], probabilities, hymenoptera.CLASSES)
            stand_in = " (embedded stand-in data)" if data.origin == "embedded" else ""
            budget = "" if everything.budget == "cpu" else f", budget {everything.budget}"  # cpu: the usual one
            title = f"Ants and bees{stand_in}, {row['method']}{budget}"
            with whole_folder(out_folder) as out:
                weights.write(out / "model.safetensors", weights.of(arm.network))
                loop.write_curve(out / "curve.csv", training.curve)
                write_predictions(out / "predictions.csv", data.names[test], data.labels[test], probabilities)
                prediction_grid.draw(out / "predictions.png", title, *shown)
                prediction_grid.draw_most_wrong(out / "most_wrong.png", title, *shown, data.names[test])
                write_json(out / "metrics.json", {"origin": data.origin, "rows": [row]})
                facts = run_facts(on, training.seconds, steps=training.steps)
                write_json(out / "run.json", facts)
        checkpoint.end()


def split(is_train: NDArray[np.bool_], fold: int | None) -> tuple[Tensor, Tensor]:
    """Rows to train on and rows to measure: train and validation, or three quarters of train and the fourth."""
    train, validation = (torch.from_numpy(np.flatnonzero(part)) for part in (is_train, ~is_train))
    if fold is None:
        return train, validation
    held_out = torch.arange(len(train)) % FOLDS == fold  # names are sorted, so every fold has both classes
    return train[~held_out], train[held_out]


def recipe_of(settings: params.Transfer, own: params.TransferFrom, images: int) -> supervised.Recipe:
    per_epoch = images / settings.batch_size
    return supervised.Recipe(
        steps=max(1, round(own.epochs * per_epoch)),
        lr=own.lr,
        momentum=settings.momentum,
        weight_decay=settings.weight_decay,
        evaluate_every=max(1, round(settings.evaluate_every * per_epoch)),
        save_every=max(1, round(settings.save_every * per_epoch)),
        steps_per_epoch=per_epoch,
    )


def whole_arm(start: params.TransferStart, everything: params.Params, seed: int, images: Tensor) -> Arm:
    """All layers train, on random crops and mirror images."""
    settings, small = everything.transfer, everything.transfer_from[start].size
    if start.startswith("small"):
        trained = start == "small-rotation"
        module = resnet.load(ROTATION) if trained else resnet.resnet18(everything.pretrain_rotation.stem, seed)
        name, backbone = "resnet18", pretrained.Backbone(module, resnet.WIDTHS[-1])
    else:
        name = settings.backbone
        weights = WEIGHTS if start == "finetune" else None
        backbone = pretrained.create(name, seed, weights, sizes=(settings.image_size, settings.crop_size))
    size, crop_size = small or settings.image_size, small or settings.crop_size
    network = Classifier(backbone.module, linear_head(backbone.width, len(hymenoptera.CLASSES), seed))

    def train_inputs(which: Tensor, draw: torch.Generator) -> Tensor:
        photographs = images[which.to(images.device)].float()
        return backbone.normalise(augment.resized_crop_and_flip(photographs, crop_size, settings.smallest_crop, draw))

    def test_inputs(which: Tensor) -> Tensor:
        return backbone.normalise(augment.middle(images[which.to(images.device)], size))

    return Arm(network.to(images.device), name, train_inputs, test_inputs)


def head_arm(settings: params.Transfer, seed: int, on: torch.device, photographs: int) -> Arm:
    """A linear head trains on the features of the photographs and of their mirror images, without crops."""
    tensors, _ = weights.read(FEATURES)
    found = [tensors[name] for name in ("upright", "mirrored") if name in tensors]
    if [tensor.shape[:-1] for tensor in found] != [(photographs,)] * 2 or found[0].shape != found[1].shape:
        raise UserError(f"{FEATURES}: not the features of {photographs} photographs; run `dvc repro transfer_features`")
    views = torch.stack(found).to(on)  # (2, photographs, width)

    def train_inputs(which: Tensor, draw: torch.Generator) -> Tensor:
        mirrored = torch.randint(2, which.shape, generator=draw)
        return views[mirrored.to(on), which.to(on)]

    head = linear_head(views.shape[-1], len(hymenoptera.CLASSES), seed).to(on)
    return Arm(head, settings.backbone, train_inputs, lambda which: views[0, which.to(on)])


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
