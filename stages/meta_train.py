"""Meta-train one few-shot method: ``python -m stages.meta_train maml lake --task 5w1s --seed 0``.

Siamese networks, prototypes and nearest means need no task, one training serves them all.
"""

from __future__ import annotations

from dataclasses import replace

from safetensors.torch import save_file

from fewlabel import params, tracking
from fewlabel.data import few_shot
from fewlabel.errors import UserError
from fewlabel.fewshot import episodes
from fewlabel.fewshot import train as meta_training
from fewlabel.fewshot.cells import Cell, parse
from fewlabel.fewshot.methods import base
from fewlabel.results import whole_folder, write_json
from fewlabel.stage import launch
from fewlabel.training import device as devices
from fewlabel.training.checkpoint import Checkpoint
from fewlabel.training.device import run_facts

VALIDATION_TASK = "20w1s"  # where a method has no task of its own: the hardest protocol tells models apart best
VALIDATION_QUERIES = 15


def main() -> None:
    cell = parse(__doc__)
    devices.launch_processes(getattr(cell.settings, "processes", 1))
    device = devices.pick(cell.params.device, cell.params.deterministic)
    rank = devices.join_processes(device)
    data_path = cell.episodes / "data.npz"

    with tracking.start(f"meta_train@{cell.name}", cell.settings.model_dump(), cell.trained, on=rank == 0) as run:
        print(f"{cell.name} on {devices.describe(device)}")
        data = few_shot.load(data_path)
        train = episodes.table(data.images, data.train, device)
        held_out = episodes.table(data.images, data.validation, device)
        way, shot = params.parse_task(cell.task or VALIDATION_TASK)
        way = way if cell.task else min(way, len(held_out))
        problem = base.Problem(way, shot, len(train), *data.images.shape[2:4])
        method = base.create(cell.method, cell.settings, problem, device, cell.seed)
        devices.check_share(cell.method, method.shape.tasks)
        fit_way(method, cell, len(train), len(held_out))
        episodes.check(method.shape, len(train), data.drawings, method.way_parameter, method.shot_parameter)
        count = cell.params.episodes.validation_count
        shape = episodes.Shape(count, way, shot, max(1, min(VALIDATION_QUERIES, data.drawings - shot)))
        episodes.check(shape, len(held_out), data.drawings, f"cells.tasks ({cell.split} validation)", "cells.tasks")
        validation = episodes.fixed(shape, len(held_out), data.drawings, cell.seed, "validation")

        checkpoint = Checkpoint(
            f"meta_train/{cell.name}",
            [cell.settings.model_dump(), count, cell.params.budget, devices.mode(device), cell.seed],
            [data_path],
            saves=rank == 0,
        )
        outcome = meta_training.train(
            method, train, held_out, validation, cell.settings, cell.seed, cell.name, checkpoint, run.log
        )
        if rank > 0:  # all processes end with the same model; the first one writes it
            return
        with whole_folder(cell.trained) as out:
            tensors = {name: tensor.cpu().contiguous() for name, tensor in method.model.state_dict().items()}
            save_file(tensors, out / "model.safetensors")
            (out / "curve.csv").write_text(outcome.curve_csv(), encoding="utf-8")
            processes = devices.process_count()
            write_json(out / "run.json", run_facts(device, outcome.seconds, steps=outcome.steps, processes=processes))
        run.tags(origin=data.origin, device=devices.describe(device), validation_task=f"{way}w{shot}s")
        checkpoint.remove()


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
