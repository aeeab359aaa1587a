"""Pretrain a network on CIFAR-10 without labels: ``python -m stages.pretrain rotation``, or emp_ssl."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import torch
from torch import Tensor, nn

from fewlabel import params, tracking
from fewlabel.data import cifar10
from fewlabel.intervals import mean_interval
from fewlabel.labels import pretraining, starts
from fewlabel.networks import small, weights
from fewlabel.networks.classifier import Classifier
from fewlabel.results import Metrics, pretrained, whole_folder, write_json
from fewlabel.stage import launch
from fewlabel.training import augment, dependencies, device, loop, supervised
from fewlabel.training.checkpoint import Checkpoint

DATA = Path("data/prepared/cifar10.npz")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("method", choices=get_args(params.PretrainMethod))
    name = parser.parse_args().method
    everything = params.load()
    settings, own = everything.pretrain, getattr(everything, f"pretrain_{name}")
    cell, on = pretrained(name, settings.seed), device.pick(everything.device, everything.deterministic)
    print(f"pretraining {name}, {settings.network}, on {device.describe(on)}")
    logged = settings.model_dump() | own.model_dump()
    with tracking.start("pretrain", logged, cell.measured) as run:
        data = cifar10.load(DATA)
        method = pretraining.create(name, own)
        backbone = starts.backbone(settings.network, data, settings.seed)
        head = method.head(small.widths(settings.network)[-1], settings.seed)
        stage = dependencies.digest(f"stages.pretrain {name}", everything.model_dump())
        checkpoint = Checkpoint(f"pretrain/{name}", [stage, device.mode(on)])
        network = Classifier(backbone, head).to(on)
        training = train(network, method, data, settings, own.lr, checkpoint, run.log)

        test = torch.from_numpy(data.test_images).to(on)
        _, right = method.measure(network, test, batch_of(settings, method))
        facts = {"metric": "pretraining_accuracy", "network": settings.network, "budget": everything.budget}
        row = cell.row(mean_interval(right.numpy()), len(test), protocol=f"cifar10/{method.question}", **facts)
        with whole_folder(cell.measured) as out:
            weights.write(out / "backbone.safetensors", weights.of(backbone))
            loop.write_curve(out / "curve.csv", training.curve)
            Metrics(origin=data.origin, rows=[row]).write(out)
            about = {"settings": logged, "data": str(DATA)}
            write_json(out / "run.json", device.run_facts(on, training.seconds, steps=training.steps, about=about))
        checkpoint.end()
        print(f"{method.question}: {row} test images, over their views")


def batch_of(settings: params.Pretrain, method: pretraining.Pretraining) -> int:
    """Images in a batch, so that all methods send as many views through the network in a step."""
    return max(2, settings.batch_size // method.copies)


def train(
    network: nn.Module,
    method: pretraining.Pretraining,
    data: cifar10.Cifar10,
    settings: params.Pretrain,
    lr: float,
    checkpoint: Checkpoint,
    log: Callable[..., None],
) -> loop.Outcome:
    """Train in place on views of the training images; the curve is measured on test images, and chooses nothing."""
    on, size = next(network.parameters()).device, batch_of(settings, method)
    images = torch.from_numpy(data.train_images[: settings.images]).to(on)
    curve_images = torch.from_numpy(data.test_images[: settings.curve_images]).to(on)

    def batch(step: int) -> tuple[Tensor, Tensor]:
        which = augment.batch_indices(len(images), size, step, settings.seed).to(on)
        return method.views(images[which], augment.generator(settings.seed, step, 1))

    def measure(network: nn.Module) -> tuple[float, float]:
        loss, right = method.measure(network, curve_images, size)
        return loss, right.mean().item()

    recipe = supervised.Recipe(
        steps=settings.steps,
        lr=lr,
        momentum=settings.momentum,
        weight_decay=settings.weight_decay,
        evaluate_every=settings.evaluate_every,
        save_every=settings.save_every,
        steps_per_epoch=max(1.0, len(images) / size),
    )
    return supervised.train(
        network, batch, measure, recipe, method.loss, "pretraining", checkpoint, log, right=method.right
    )


if __name__ == "__main__":
    launch(main)
