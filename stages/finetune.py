"""Train on N labels per class of CIFAR-10, from a given start: ``python -m stages.finetune rotation 20-0``, which is
20 labels per class, chosen by seed 0. With ``--frozen 2`` the first two groups of layers stay as they are pretrained,
and a linear head on them is trained.

Every start gets the same labels, steps, schedule, weight decay, augmentation and batches. With ``--validate`` the last
5,000 training images are held out and measured instead of the test images, and nothing is written: that is how the
settings in params.yaml were chosen, and how to choose others.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, get_args

from fewlabel import grammar, params, tracking
from fewlabel.data import cifar10
from fewlabel.errors import UserError
from fewlabel.intervals import wilson
from fewlabel.labels import starts, subsets
from fewlabel.labels.train import predict, train, validated
from fewlabel.networks import small, weights
from fewlabel.results import Metrics, finetuning, whole_folder, write_json
from fewlabel.stage import launch
from fewlabel.training import dependencies, device, loop
from fewlabel.training.checkpoint import Checkpoint

DATA = Path("data/prepared/cifar10.npz")
HELD_OUT = 5000  # training images, with --validate
TUTORIALS_NETWORK = "resnet18-imagenet"


def main() -> None:
    arguments, everything = parse()
    settings, frozen, start = everything.finetune, arguments.frozen, arguments.start
    per_class, seed = params.parse_label_cell(arguments.cell)
    on = device.pick(everything.device, everything.deterministic)
    cell = finetuning(f"{start}-frozen-{frozen}" if frozen else start, per_class, seed)
    name, folder = (f"{cell.name}-validate", None) if arguments.validate else (cell.name, cell.measured)
    print(f"finetune {name} on {device.describe(on)}")
    called = TUTORIALS_NETWORK if start == "scratch-resnet18" else everything.pretrain.network
    lr, grid = (settings.frozen_lr, settings.frozen_grids[frozen - 1]) if frozen else (settings.lr, 1)
    logged = {"start": start, "labels": per_class, "seed": seed, "network": called, "frozen": frozen, "grid": grid}
    logged |= settings.model_dump()
    with tracking.start("finetune", logged, folder) as run:
        data = cifar10.load(DATA)
        division = subsets.divide(data, per_class, seed, HELD_OUT if arguments.validate else 0)
        if start.startswith("scratch"):
            network = starts.from_scratch(called, data, len(cifar10.CLASSES), seed)
        else:
            backbone = cell.trained[0] / "backbone.safetensors"
            network = starts.from_pretrained(backbone, called, frozen, grid, len(cifar10.CLASSES), seed)
        command = f"stages.finetune {start} {arguments.cell}{f' --frozen {frozen}' if frozen else ''}"
        stage = dependencies.digest(command, everything.model_dump())
        checkpoint = Checkpoint(f"finetune/{name}", [stage, arguments.validate, device.mode(on)])
        training = train(network.to(on), division, settings, lr, seed, name, checkpoint, run.log)

        test = division.test_images[: settings.test_images].to(on)
        correct = int((predict(network, test).argmax(1) == division.test_labels[: len(test)]).sum())
        facts = {"protocol": grammar.labels_protocol(per_class), "budget": everything.budget, "network": called}
        row = cell.row(wilson(correct, len(test)), len(test), **facts)
        what = "held-out training" if arguments.validate else "test"
        print(f"{name}: accuracy {row} {what} images")
        if folder is None:
            run.log(training.steps, val_accuracy=row.value)
            checkpoint.end()
            return
        more: dict[str, Any] = {"stopped_early": training.stopped_early, "target_accuracy": settings.target_accuracy}
        metrics = Metrics(origin=data.origin, rows=[row], steps=training.steps, **more)
        validation = validated(network, division, per_class, on)
        model = {"family": "label-efficiency", "way": len(cifar10.CLASSES), "image": [3, 32, 32]}
        model["backbone_file"] = str(backbone) if frozen else None
        before = [str(folder) for folder in cell.trained[:-1]]
        about = {"settings": logged, "data": str(DATA), "after": before, "model": model}
        with whole_folder(folder) as out:
            weights.write(out / "model.safetensors", weights.of(network.head if network.frozen else network))
            loop.write_curve(out / "curve.csv", training.curve)
            metrics.write(out)
            more = {"steps": training.steps, "about": about, **validation}
            write_json(out / "run.json", device.run_facts(on, training.seconds, **more))
        checkpoint.end()


def parse() -> tuple[argparse.Namespace, params.Params]:
    """The command line and params.yaml. Raises `UserError` when they do not go together."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("start", choices=["scratch", "scratch-resnet18", *get_args(params.PretrainMethod)])
    parser.add_argument("cell", help="labels per class and seed, as in 20-0")
    parser.add_argument("--frozen", type=int, metavar="GROUPS", help="so many groups of layers stay as pretrained")
    parser.add_argument("--validate", action="store_true", help="measure on held-out training images, write nothing")
    arguments, everything = parser.parse_args(), params.load()
    groups, frozen = len(small.widths(everything.pretrain.network)), arguments.frozen
    if frozen is not None and (arguments.start.startswith("scratch") or frozen not in range(1, groups + 1)):
        raise UserError(
            f"{arguments.start} --frozen {frozen}: {everything.pretrain.network} has {groups} groups, of which 1 to "
            f"{groups} may be frozen after pretraining"
        )
    return arguments, everything


if __name__ == "__main__":
    launch(main)
