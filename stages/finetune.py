"""Train on N labels per class of CIFAR-10, from a given start: ``python -m stages.finetune rotation 20-0``, which is
20 labels per class, chosen by seed 0.

Every start gets the same labels, steps, schedule, weight decay, augmentation and batches. With ``--validate`` the last
5,000 training images are held out and measured instead of the test images, and nothing is written: that is how the
settings in params.yaml were chosen, and how to choose others.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import get_args

import torch
from torch import Tensor, nn

from fewlabel import params, tracking
from fewlabel.data import cifar10
from fewlabel.intervals import wilson
from fewlabel.labels import subsets as label_subsets
from fewlabel.networks import resnet, weights
from fewlabel.networks.classifier import Classifier, linear_head
from fewlabel.results import whole_folder, write_json
from fewlabel.stage import launch
from fewlabel.training import augment, dependencies, device, loop, losses, supervised
from fewlabel.training.checkpoint import Checkpoint
from fewlabel.training.device import run_facts

DATA, BACKBONE = Path("data/prepared/cifar10.npz"), Path("results/pretrain_rotation/backbone.safetensors")
HELD_OUT = 5000  # training images, with --validate
CHUNK = 1000  # images per forward pass when measuring


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("start", choices=get_args(params.FinetuneStart))
    parser.add_argument("cell", help="labels per class and seed, as in 20-0")
    parser.add_argument("--validate", action="store_true", help="measure on held-out training images, write nothing")
    arguments = parser.parse_args()
    everything = params.load()
    settings, own = everything.finetune, everything.finetune_from[arguments.start]
    start, (per_class, seed) = arguments.start, params.parse_label_cell(arguments.cell)
    on = device.pick(everything.device, everything.deterministic)
    cell = f"{start}-{per_class}-{seed}{'-validate' if arguments.validate else ''}"
    out_folder = Path("results/finetune") / cell
    print(f"finetune {cell} on {device.describe(on)}")
    depends = settings.model_dump() | own.model_dump() | {"start": start, "labels": per_class, "seed": seed}
    with tracking.start("finetune", depends, None if arguments.validate else out_folder) as run:
        data = cifar10.load(DATA)
        images, labels, test, test_labels = split(data, arguments.validate)
        chosen = label_subsets.nested_subset(labels, per_class, seed)
        images, labels, test = images[chosen].to(on), labels[chosen].to(on), test[: settings.test_images].to(on)
        test_labels = test_labels[: settings.test_images]

        def batch(step: int) -> tuple[Tensor, Tensor]:
            which = augment.batch_indices(len(images), settings.batch_size, step, seed).to(on)
            draw = augment.generator(seed, step, 1)
            return augment.to_float(augment.shift_and_flip(images[which], settings.shift, draw)), labels[which]

        def measure(network: nn.Module) -> tuple[float, float]:
            curve_images = test[: settings.curve_images]
            return supervised.loss_and_accuracy(predict(network, curve_images), test_labels[: len(curve_images)])

        stem = everything.pretrain_rotation.stem if start == "scratch" else None  # else the backbone's own
        network = build(own, stem, seed).to(on)
        per_epoch = len(images) / settings.batch_size
        recipe = supervised.Recipe(
            steps=max(settings.steps, round(settings.epochs * per_epoch)),
            lr=own.lr,
            momentum=settings.momentum,
            weight_decay=settings.weight_decay,
            evaluate_every=settings.evaluate_every,
            save_every=settings.save_every,
            target_accuracy=settings.target_accuracy,
            steps_per_epoch=per_epoch,
        )
        stage = dependencies.digest(f"stages.finetune {start} {arguments.cell}", everything.model_dump())
        checkpoint = Checkpoint(f"finetune/{cell}", [stage, arguments.validate, device.mode(on)])
        loss = losses.choose(settings.loss, settings.focal_alpha, settings.focal_gamma)
        training = supervised.train(network, batch, measure, recipe, loss, cell, checkpoint, run.log)

        logits = predict(network, test)
        correct = int((logits.argmax(1) == test_labels).sum())
        value, low, high = wilson(correct, len(test))
        what = "held-out training" if arguments.validate else "test"
        print(f"{cell}: accuracy {value:.2%} [{low:.2%}, {high:.2%}] on {len(test):,} {what} images")
        stopped_early = training.steps < recipe.steps
        if stopped_early:
            print(f"stopped at step {training.steps}: the target accuracy {settings.target_accuracy} was reached")
        if arguments.validate:
            run.log(training.steps, val_accuracy=value)
            checkpoint.end()
            return
        row = {
            "family": "label-efficiency",
            "method": start,
            "dataset": "cifar10",
            "protocol": f"cifar10/{per_class}-per-class",
            "transductive": False,
            "seed": seed,
            "metric": "accuracy",
            "value": value,
            "ci95_low": low,
            "ci95_high": high,
            "n": len(test),
            "budget": everything.budget,
        }
        stop = {"stopped_early": stopped_early, "steps": training.steps, "target_accuracy": settings.target_accuracy}
        with whole_folder(out_folder) as out:
            weights.write(out / "model.safetensors", weights.of(network.head if network.frozen else network))
            loop.write_curve(out / "curve.csv", training.curve)
            write_json(out / "metrics.json", {"origin": data.origin, "rows": [row], **stop})
            facts = run_facts(on, training.seconds, steps=training.steps)
            write_json(out / "run.json", facts)
        checkpoint.end()


def split(data: cifar10.Cifar10, validate: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Images and labels to train on, and those to measure: the test images, or held-out training images."""
    images, labels = torch.from_numpy(data.train_images), torch.from_numpy(data.train_labels).long()
    if validate:
        return images[:-HELD_OUT], labels[:-HELD_OUT], images[-HELD_OUT:], labels[-HELD_OUT:]
    return images, labels, torch.from_numpy(data.test_images), torch.from_numpy(data.test_labels).long()


def build(own: params.FinetuneFrom, stem: resnet.Stem | None, seed: int) -> Classifier:
    """The network before training: random where a stem is given, or with the pretrained backbone, or with its first
    blocks frozen."""
    if stem is not None:
        return Classifier(resnet.resnet18(stem, seed), linear_head(resnet.WIDTHS[-1], len(cifar10.CLASSES), seed))
    if not own.frozen_blocks:
        return Classifier(resnet.load(BACKBONE), linear_head(resnet.WIDTHS[-1], len(cifar10.CLASSES), seed))
    # The features of the last block are pooled, as the rotation head saw them; those of an early one keep a grid.
    width = resnet.WIDTHS[own.frozen_blocks - 1] * own.grid**2
    # Normalised without parameters, as the features of a frozen backbone come on every scale.
    head = nn.Sequential(nn.BatchNorm1d(width, affine=False), linear_head(width, len(cifar10.CLASSES), seed))
    return Classifier(resnet.load(BACKBONE, own.frozen_blocks, own.grid), head, frozen=True)


def predict(network: nn.Module, images: Tensor) -> Tensor:
    return supervised.predict(network, (augment.to_float(chunk) for chunk in images.split(CHUNK)))


if __name__ == "__main__":
    launch(main)
