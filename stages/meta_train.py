"""Meta-train one few-shot method: ``python -m stages.meta_train maml lake --task 5w1s --seed 0``.

Siamese networks and prototypes need no task, one training serves them all.
"""

from __future__ import annotations

import argparse

import numpy as np
from safetensors.torch import save_file

from fewlabel import device as devices
from fewlabel import episodes, meta_training, params, tracking
from fewlabel.checkpoint import Checkpoint
from fewlabel.data import omniglot
from fewlabel.methods import base
from stages.common import launch, run_facts, whole_folder, write_json

VALIDATION_TASK = "20w1s"  # where a method has no task of its own: the hardest protocol tells models apart best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("method", choices=["siamese", "prototypes", "nearest_mean", "maml", "reptile"])
    parser.add_argument("split", choices=["lake", "vinyals"])
    parser.add_argument("--task")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    all_params = params.load()
    settings = getattr(all_params, arguments.method)
    device = devices.pick(all_params.device)
    cell = "-".join(filter(None, [arguments.method, arguments.split, arguments.task, str(arguments.seed)]))
    folder = f"results/{'meta_train' if arguments.task else 'metric_train'}/{cell}"
    data_path, split_path = "data/prepared/omniglot.npz", f"data/episodes/{arguments.split}/split.npz"

    with tracking.start(f"meta_train@{cell}", settings.model_dump()) as run:
        print(f"{cell} on {devices.describe(device)}")
        data = omniglot.load(data_path)
        with np.load(split_path, allow_pickle=False) as split:
            train = episodes.table(data.images, split["train"], device)
            held_out = episodes.table(data.images, split["validation"], device)
        way, shot = params.parse_task(arguments.task or VALIDATION_TASK)
        way = way if arguments.task else min(way, len(held_out))
        problem = base.Problem(way, shot, len(train))
        method = base.create(arguments.method, settings, problem, device, arguments.seed)
        episodes.check(method.shape, len(train), method.way_parameter, method.shot_parameter)
        count, queries = all_params.episodes.validation_count, min(15, episodes.DRAWINGS - shot)
        shape = episodes.Shape(count, way, shot, queries)
        episodes.check(shape, len(held_out), f"cells.tasks ({arguments.split} validation)", "cells.tasks")
        validation = episodes.fixed(shape, len(held_out), arguments.seed, "validation")

        checkpoint = Checkpoint(
            f"meta_train/{cell}",
            [settings.model_dump(), count, all_params.budget, str(device), arguments.seed],
            [data_path, split_path],
        )
        outcome = meta_training.train(
            method, train, held_out, validation, settings, arguments.seed, cell, checkpoint, run.log
        )
        with whole_folder(folder) as out:
            tensors = {name: tensor.cpu().contiguous() for name, tensor in method.model.state_dict().items()}
            save_file(tensors, out / "model.safetensors")
            (out / "curve.csv").write_text(outcome.curve_csv(), encoding="utf-8")
            write_json(out / "run.json", run_facts(device, outcome.seconds, steps=outcome.steps))
        run.tags(origin=data.origin, device=devices.describe(device))
        run.artifact(f"{folder}/model.safetensors")
        checkpoint.remove()


if __name__ == "__main__":
    launch(main)
