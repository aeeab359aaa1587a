"""Tell ants from bees with 244 training photographs: ``python -m stages.transfer frozen --seed 0``.

- ``scratch`` and ``finetune`` train all layers of ``transfer.backbone``, from random and from ImageNet weights;
- ``frozen`` trains a linear head on ImageNet features, extracted by the stage transfer_features;
- ``small-rotation`` trains all layers of the network that learnt to tell rotations on CIFAR-10, on small photographs,
  as its features know images of 32x32; ``small-scratch`` is the same network and size from random weights.

The result is that of the last epoch: the 153 validation photographs choose nothing. With ``--fold`` a quarter of the
training photographs is held out and measured instead, and nothing is written: that is how the settings in params.yaml
were chosen, and how to choose others.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import get_args

import torch
from torch import Tensor, nn

from fewlabel import params, results, tracking
from fewlabel.data import hymenoptera
from fewlabel.intervals import wilson
from fewlabel.networks import backbones, small, weights
from fewlabel.results import FEATURES, Metrics, whole_folder, write_json
from fewlabel.stage import launch
from fewlabel.training import augment, dependencies, device, loop, supervised
from fewlabel.training.checkpoint import Checkpoint
from fewlabel.transfer import starts
from fewlabel.transfer.photographs import FOLDS, split, write_predictions
from fewlabel.transfer.starts import Start

DATA = Path("data/prepared/hymenoptera.npz")
IMAGENET_FEATURES = FEATURES / "features.safetensors"
WEIGHTS = Path("data/raw/backbone/weights.pth")
CLASSES = len(hymenoptera.CLASSES)
CHUNK = 32  # photographs per forward pass when measuring


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("start", choices=get_args(params.TransferStart))
    parser.add_argument("--seed", type=params.seed, default=0)
    parser.add_argument("--fold", type=int, choices=range(FOLDS), help="hold out and measure this quarter of train")
    arguments = parser.parse_args()
    everything = params.load()
    settings, own = everything.transfer, everything.transfer_from[arguments.start]
    seed, on = arguments.seed, device.pick(everything.device, everything.deterministic)
    cell, fold = results.transfer(arguments.start, seed), arguments.fold
    name, folder = (cell.name, cell.measured) if fold is None else (f"{cell.name}-fold{fold}", None)
    print(f"transfer {name} on {device.describe(on)}")
    logged = settings.model_dump() | own.model_dump() | vars(arguments)
    with tracking.start("transfer", logged, folder) as run:
        data = hymenoptera.load(DATA)
        train_rows, test_rows = split(data.is_train, fold)
        labels = torch.from_numpy(data.labels).long()
        start, backbone = build(arguments.start, everything, seed, torch.from_numpy(data.images), on)
        recipe = supervised.in_epochs(settings, own.epochs, own.lr, len(train_rows))
        stage = dependencies.digest(f"stages.transfer {arguments.start} --seed {seed}", everything.model_dump())
        checkpoint = Checkpoint(f"transfer/{name}", [stage, fold, device.mode(on)])

        def batch(step: int) -> tuple[Tensor, Tensor]:
            which = train_rows[augment.batch_indices(len(train_rows), settings.batch_size, step, seed)]
            return start.train_inputs(which, augment.generator(seed, step, 1)), labels[which].to(on)

        def predict(network: nn.Module) -> Tensor:
            return supervised.predict(network, map(start.test_inputs, test_rows.split(CHUNK)))

        def measure(network: nn.Module) -> tuple[float, float]:
            return supervised.loss_and_accuracy(predict(network), labels[test_rows])

        training = supervised.train(
            start.network, batch, measure, recipe, name=name, checkpoint=checkpoint, log=run.log
        )
        probabilities = predict(start.network).softmax(1).numpy()
        correct = int((probabilities.argmax(1) == data.labels[test_rows]).sum())
        facts = {
            "method": f"{cell.method}-{backbone}",
            "protocol": "hymenoptera/train-val",
            "network": backbone,
            "budget": everything.budget,
        }
        row = cell.row(wilson(correct, len(test_rows)), len(test_rows), **facts)
        what = "held-out training" if folder is None else "validation"
        print(f"{name}, {backbone}: accuracy {row} {what} photographs")
        if folder is None:
            run.log(training.steps, val_accuracy=row.value)
            checkpoint.end()
            return
        model = {"family": "transfer", "way": CLASSES, "image": list(data.images.shape[1:])}
        model["backbone"] = backbone
        before = [str(folder) for folder in cell.trained[:-1]]
        about = {"settings": logged, "data": str(DATA), "after": before, "model": model}
        with whole_folder(folder) as out:
            weights.write(out / "model.safetensors", weights.of(start.network))
            loop.write_curve(out / "curve.csv", training.curve)
            write_predictions(out / "predictions.csv", data.names[test_rows], data.labels[test_rows], probabilities)
            Metrics(origin=data.origin, rows=[row]).write(out)
            write_json(out / "run.json", device.run_facts(on, training.seconds, steps=training.steps, about=about))
        checkpoint.end()


def build(
    name: params.TransferStart, everything: params.Params, seed: int, images: Tensor, on: torch.device
) -> tuple[Start, str]:
    """The start of this name, and what its backbone is called."""
    settings, side = everything.transfer, everything.transfer_from[name].size
    if name == "frozen":
        return starts.frozen(IMAGENET_FEATURES, on, len(images), CLASSES, seed), settings.backbone
    if side:  # the network of CIFAR-10, on small photographs
        called = everything.pretrain.network
        if name == "small-scratch":
            module = small.create(called, seed, augment.to_float(augment.middle(images, side)))
        else:
            module = small.load(results.transfer(name, seed).trained[0] / "backbone.safetensors", called)
        backbone = starts.small_backbone(module, called)
    else:
        pretrained = WEIGHTS if name == "finetune" else None
        called, sizes = settings.backbone, (settings.image_size, settings.crop_size)
        backbone = backbones.create(called, seed, pretrained, sizes)
    size, crop_size = side or settings.image_size, side or settings.crop_size
    start = starts.all_layers(backbone, images.to(on), size, crop_size, settings.smallest_crop, CLASSES, seed)
    return start, called


if __name__ == "__main__":
    launch(main)
