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

from fewlabel import grammar, params, tracking
from fewlabel.data import cifar10
from fewlabel.intervals import wilson
from fewlabel.labels import starts, subsets
from fewlabel.labels.train import predict, train, validated
from fewlabel.networks import weights
from fewlabel.results import PRETRAINED, Metrics, finetuning, whole_folder, write_json
from fewlabel.stage import launch
from fewlabel.training import dependencies, device, loop
from fewlabel.training.checkpoint import Checkpoint

DATA, BACKBONE = Path("data/prepared/cifar10.npz"), PRETRAINED / "backbone.safetensors"
HELD_OUT = 5000  # training images, with --validate


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
    cell = finetuning(start, per_class, seed)
    name, folder = (f"{cell.name}-validate", None) if arguments.validate else (cell.name, cell.measured)
    print(f"finetune {name} on {device.describe(on)}")
    logged = settings.model_dump() | own.model_dump() | {"start": start, "labels": per_class, "seed": seed}
    with tracking.start("finetune", logged, folder) as run:
        data = cifar10.load(DATA)
        division = subsets.divide(data, per_class, seed, HELD_OUT if arguments.validate else 0)
        if start == "scratch":
            network = starts.from_scratch(everything.pretrain_rotation.stem, len(cifar10.CLASSES), seed)
        else:
            network = starts.from_backbone(BACKBONE, own, len(cifar10.CLASSES), seed)
        stage = dependencies.digest(f"stages.finetune {start} {arguments.cell}", everything.model_dump())
        checkpoint = Checkpoint(f"finetune/{name}", [stage, arguments.validate, device.mode(on)])
        training = train(network.to(on), division, settings, own.lr, seed, name, checkpoint, run.log)

        test = division.test_images[: settings.test_images].to(on)
        correct = int((predict(network, test).argmax(1) == division.test_labels[: len(test)]).sum())
        facts = {"protocol": grammar.labels_protocol(per_class), "budget": everything.budget}
        row = cell.row(wilson(correct, len(test)), len(test), **facts)
        what = "held-out training" if arguments.validate else "test"
        print(f"{name}: accuracy {row} {what} images")
        if folder is None:
            run.log(training.steps, val_accuracy=row.value)
            checkpoint.end()
            return
        metrics = Metrics(
            origin=data.origin,
            rows=[row],
            stopped_early=training.stopped_early,
            steps=training.steps,
            target_accuracy=settings.target_accuracy,
        )
        validation = validated(network, division, per_class, on)
        model = {"family": "label-efficiency", "way": len(cifar10.CLASSES), "image": [3, 32, 32]}
        model["backbone_file"] = str(BACKBONE) if own.frozen_blocks else None
        before = [str(folder) for folder in cell.trained[:-1]]
        about = {"settings": logged, "data": str(DATA), "after": before, "model": model}
        with whole_folder(folder) as out:
            weights.write(out / "model.safetensors", weights.of(network.head if network.frozen else network))
            loop.write_curve(out / "curve.csv", training.curve)
            metrics.write(out)
            more = {"steps": training.steps, "about": about, **validation}
            write_json(out / "run.json", device.run_facts(on, training.seconds, **more))
        checkpoint.end()


if __name__ == "__main__":
    launch(main)
