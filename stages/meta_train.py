"""Meta-train one few-shot method: ``python -m stages.meta_train maml lake --task 5w1s --seed 0``.

Methods that need no fixed way take no task, one training serves them all. Under ``torchrun`` several processes share
one training.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from fewlabel import params, tracking
from fewlabel.data import few_shot
from fewlabel.errors import UserError
from fewlabel.fewshot import cells, episodes
from fewlabel.fewshot import train as meta_training
from fewlabel.fewshot.cells import Cell
from fewlabel.fewshot.methods import base
from fewlabel.networks import weights
from fewlabel.results import whole_folder, write_json
from fewlabel.stage import launch
from fewlabel.training import dependencies, device, loop, processes
from fewlabel.training.checkpoint import Checkpoint


def main() -> None:
    cell = cells.parse(__doc__)
    on = device.pick(cell.params.device, cell.params.deterministic)
    rank = processes.join(on)

    with tracking.start(f"meta_train@{cell.name}", cell.settings.model_dump(), cell.trained, on=rank == 0) as run:
        print(f"{cell.name} on {device.describe(on)}")
        data = few_shot.load(cell.episodes / "data.npz")
        train = episodes.table(data.images, data.train, on)
        held_out = episodes.table(data.images, data.validation, on)
        groups = torch.from_numpy(few_shot.groups(data, data.train))
        way, shot = cell.validation_task(len(held_out))
        problem = base.Problem(way, shot, len(train), *data.images.shape[2:4])
        method = base.create(cell.method, cell.settings, problem, on, cell.seed)
        processes.check_share(cell.method, method.shape.tasks)
        fit_way(method, cell, len(train), len(held_out))
        episodes.check(method.shape, len(train), data.drawings, method.way_parameter, method.shot_parameter)
        validation = cell.validation_episodes(way, shot, len(held_out), data.drawings, cell.seed)

        stage = dependencies.digest(f"stages.meta_train {cell.arguments}", cell.params.model_dump())
        depends = [stage, device.mode(on), processes.count()]
        checkpoint = Checkpoint(f"meta_train/{cell.name}", depends, saves=rank == 0)
        outcome = meta_training.train(
            method, train, held_out, validation, cell.settings, cell.seed, cell.name, checkpoint, run.log, groups
        )
        if rank > 0:  # all processes end with the same model; the first one writes it
            return
        facts = {"steps": outcome.steps, "processes": processes.count(), **validated(method, cell, held_out)}
        facts["about"] = about(cell, data, f"{way}w{shot}s")
        with whole_folder(cell.trained) as out:
            weights.write(out / "model.safetensors", weights.of(method.model))
            loop.write_curve(out / "curve.csv", outcome.curve)
            write_json(out / "run.json", device.run_facts(on, outcome.seconds, **facts))
        checkpoint.end()


def validated(method: base.Method, cell: Cell, table: Tensor) -> dict[str, Any]:
    """The accuracy by which trained models are compared, never on test classes; none where these are too few."""
    way, shot = params.parse_task(cell.compared_task)
    if way > len(table):
        return {}
    compared = cell.validation_episodes(way, shot, len(table), table.shape[1], cell.params.episodes.seed)
    return {
        "validation_accuracy": meta_training.accuracy(method, table, compared),
        "validation_protocol": f"{cell.split}-validation/{cell.compared_task}",
    }


def about(cell: Cell, data: few_shot.FewShotData, validation_task: str) -> dict[str, Any]:
    """What the run was made from, and what the network is, for MLflow."""
    protocol = "/".join(filter(None, [cell.split, cell.task]))
    names = {"family": "few-shot", "method": cell.method, "protocol": protocol, "seed": cell.seed}
    way, shot = params.parse_task(cell.compared_task)
    image = [int(length) for length in data.images.shape[2:]]
    return {
        "settings": cell.settings.model_dump(),
        "data": str(cell.episodes / "data.npz"),
        "origin": data.origin,
        "budget": cell.params.budget,
        "validation_task": validation_task,
        "model": names | {"way": way, "shot": shot, "image": image},
    }


def fit_way(method: base.Method, cell: Cell, training: int, validation: int) -> None:
    """Train on all training classes, and say so, where the split has fewer than a parameter for all splits asks for.

    Raises:
        UserError: they, or the validation classes, are fewer than the task of a method that needs its way.
    """
    way = method.shape.way
    if cell.task is None and way > training:
        print(f"{cell.split}: {training} training classes, so {method.way_parameter} is {training} here, not {way}")
        method.shape = replace(method.shape, way=training)
    if cell.task and way > min(training, validation):
        own = f"own_images.{cell.split}"
        divide = f"change {own}.test or {own}.validation, or " if cell.split in cell.params.own_images else ""
        raise UserError(
            f"{cell.name}: {cell.task} takes {way} classes, and {cell.split} has {training} for training and "
            f"{validation} for validation: {divide}lower the way in cells.tasks"
        )


if __name__ == "__main__":
    launch(main)
