"""Pretrain a ResNet-18 on CIFAR-10 without labels: ``python -m stages.pretrain_rotation``."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from fewlabel import params, tracking
from fewlabel.data import cifar10
from fewlabel.intervals import mean_interval
from fewlabel.labels.rotation import ROTATIONS, four_copies
from fewlabel.networks import resnet
from fewlabel.networks.classifier import Classifier, linear_head
from fewlabel.results import PRETRAINED, Metrics, pretraining, whole_folder, write_json
from fewlabel.stage import launch
from fewlabel.training import augment, dependencies, device, loop, supervised
from fewlabel.training.checkpoint import Checkpoint
from fewlabel.training.device import run_facts

DATA = Path("data/prepared/cifar10.npz")
CHUNK = 256  # images per forward pass when measuring


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    everything = params.load()
    settings = everything.pretrain_rotation
    on = device.pick(everything.device, everything.deterministic)
    print(f"rotation pretraining on {device.describe(on)}")
    with tracking.start("pretrain_rotation", settings.model_dump(), PRETRAINED) as run:
        data = cifar10.load(DATA)
        images = torch.from_numpy(data.train_images[: settings.images]).to(on)
        test = torch.from_numpy(data.test_images).to(on)

        backbone = resnet.resnet18(settings.stem, settings.seed)
        network = Classifier(backbone, linear_head(resnet.WIDTHS[-1], ROTATIONS, settings.seed)).to(on)
        stage = dependencies.digest("stages.pretrain_rotation", everything.model_dump())
        checkpoint = Checkpoint("pretrain_rotation", [stage, device.mode(on)])
        training = train(network, images, test[: settings.curve_images], settings, checkpoint, run.log)

        logits, labels = predict(network, test)
        right = (logits.argmax(1) == labels).view(-1, len(test)).float().mean(0)  # per image, over its four copies
        facts = {"protocol": "cifar10/which-rotation", "metric": "rotation_accuracy", "budget": everything.budget}
        row = pretraining(settings.seed).row(mean_interval(right.numpy()), len(test), **facts)
        with whole_folder(PRETRAINED) as out:
            resnet.save(backbone, settings.stem, out / "backbone.safetensors")
            loop.write_curve(out / "curve.csv", training.curve)
            Metrics(origin=data.origin, rows=[row]).write(out)
            about = {"settings": settings.model_dump(), "data": str(DATA)}
            write_json(out / "run.json", run_facts(on, training.seconds, steps=training.steps, about=about))
        checkpoint.end()
        print(f"rotation accuracy {row} test images, over their four rotations")


def train(
    network: nn.Module,
    images: Tensor,
    curve_images: Tensor,
    settings: params.PretrainRotation,
    checkpoint: Checkpoint,
    log: Callable[..., None],
) -> loop.Outcome:
    """Train in place on all rotations of shifted and mirrored images; the curve is measured on others."""

    def batch(step: int) -> tuple[Tensor, Tensor]:
        which = augment.batch_indices(len(images), settings.batch_size, step, settings.seed).to(images.device)
        draw = augment.generator(settings.seed, step, 1)
        turned, labels = four_copies(augment.shift_and_flip(images[which], settings.shift, draw))
        return augment.to_float(turned), labels

    def measure(network: nn.Module) -> tuple[float, float]:
        return supervised.loss_and_accuracy(*predict(network, curve_images))

    recipe = supervised.in_epochs(settings, settings.epochs, settings.lr, max(len(images), settings.batch_size))
    return supervised.train(network, batch, measure, recipe, name="rotation", checkpoint=checkpoint, log=log)


def predict(network: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    """Logits (4 n, 4) and quarter turns (4 n,), on the CPU: all images unturned first, then all turned once, …"""
    chunks = images.split(CHUNK)

    def inputs(quarter_turns: int) -> Iterator[Tensor]:
        return (augment.to_float(torch.rot90(chunk, quarter_turns, (-2, -1))) for chunk in chunks)

    logits = [supervised.predict(network, inputs(quarter_turns)) for quarter_turns in range(ROTATIONS)]
    return torch.cat(logits), torch.arange(ROTATIONS).repeat_interleave(len(images))


if __name__ == "__main__":
    launch(main)
