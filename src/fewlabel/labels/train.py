"""Supervised training on few labels of CIFAR-10, the same whatever it starts from."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from fewlabel import params
from fewlabel.labels.subsets import Division
from fewlabel.training import augment, loop, supervised
from fewlabel.training.checkpoint import Checkpoint

CHUNK = 1000  # images per forward pass when measuring


def train(
    network: nn.Module,
    division: Division,
    settings: params.Finetune,
    lr: float,
    seed: int,
    name: str,
    checkpoint: Checkpoint,
    log: Callable[..., None],
) -> loop.Outcome:
    """Train in place, on shifted and mirrored images; some of the test images are measured for the curve."""
    on = next(network.parameters()).device
    images, labels = division.images.to(on), division.labels.to(on)
    curve_images = division.test_images[: min(settings.test_images, settings.curve_images)].to(on)
    per_epoch = len(images) / settings.batch_size
    recipe = supervised.Recipe(
        steps=max(settings.steps, round(settings.epochs * per_epoch)),
        lr=lr,
        momentum=settings.momentum,
        weight_decay=settings.weight_decay,
        evaluate_every=settings.evaluate_every,
        save_every=settings.save_every,
        target_accuracy=settings.target_accuracy,
        steps_per_epoch=per_epoch,
    )

    def batch(step: int) -> tuple[Tensor, Tensor]:
        which = augment.batch_indices(len(images), settings.batch_size, step, seed).to(on)
        draw = augment.generator(seed, step, 1)
        return augment.to_float(augment.shift_and_flip(images[which], settings.shift, draw)), labels[which]

    def measure(network: nn.Module) -> tuple[float, float]:
        return supervised.loss_and_accuracy(predict(network, curve_images), division.test_labels[: len(curve_images)])

    loss = supervised.choose_loss(settings.loss, settings.focal_alpha, settings.focal_gamma)
    training = supervised.train(network, batch, measure, recipe, loss, name, checkpoint, log)
    if training.stopped_early:
        print(f"stopped at step {training.steps}: the target accuracy {settings.target_accuracy} was reached")
    return training


def validated(network: nn.Module, division: Division, per_class: int, on: torch.device) -> dict[str, Any]:
    """The accuracy by which models may be compared; none where the training got all labels."""
    if not len(division.validation_labels):
        return {}
    logits = predict(network, division.validation_images.to(on))
    return {
        "validation_accuracy": supervised.loss_and_accuracy(logits, division.validation_labels)[1],
        "validation_protocol": f"cifar10-validation/{per_class}-per-class",
    }


def predict(network: nn.Module, images: Tensor) -> Tensor:
    """Logits (n, classes) of uint8 images, on the CPU."""
    return supervised.predict(network, (augment.to_float(chunk) for chunk in images.split(CHUNK)))
