"""Evaluate one meta-trained model on the fixed test episodes: ``python -m stages.evaluate siamese lake --seed 0``.

On all test tasks of the split; with ``--task`` on those with its way and shot. In every mode the method offers: each
query classified without seeing the others, or transductively, all at once.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from torch import Tensor

from fewlabel import tracking
from fewlabel.data import few_shot
from fewlabel.fewshot import episodes
from fewlabel.fewshot.cells import Cell, parse
from fewlabel.fewshot.evaluate import Result, evaluate
from fewlabel.fewshot.methods import base
from fewlabel.grammar import Task, few_shot_protocol
from fewlabel.intervals import mean_interval, wilson
from fewlabel.networks import weights
from fewlabel.results import EPISODES, Metrics, Row, whole_folder, write_json
from fewlabel.stage import launch
from fewlabel.training import device as devices
from fewlabel.training.device import run_facts

EXAMPLE_WAY, EXAMPLE_QUERIES = 20, 5  # the largest way whose first episode is kept as pictures, and queries of a class


def main() -> None:
    cell = parse(__doc__)
    device = devices.pick(cell.params.device, cell.params.deterministic)

    with tracking.start(f"evaluate@{cell.name}", cell.settings.model_dump(), cell.tested):
        print(f"{cell.name} on {devices.describe(device)}")
        start = time.perf_counter()
        data = few_shot.load(cell.episodes / "data.npz")
        table = episodes.table(data.images, data.test, device)
        trained = cell.trained / "model.safetensors"
        tensors, _ = weights.read(trained)
        embedded: dict[int, Tensor] = {}  # by the number of distorted copies
        rows, lines, digests = [], [",".join(EPISODES)], {}
        confusion, examples = dict[str, Any](), dict[str, Any]()
        for task in cell.test_tasks():
            indices = episodes.load(cell.episodes / f"{task}.npz", len(data.test), data.drawings)
            digests[task] = episodes.digest(table, indices)
            _, way, shot = indices.support.shape
            problem = base.Problem(way, shot, len(data.train), *data.images.shape[2:4])
            method = base.create(cell.method, cell.settings, problem, device, seed=0)
            weights.fill(method.model, tensors, trained)
            copies = Task.parse(task).copies
            if copies not in embedded:
                embedded[copies] = method.embed_table(table, copies)
            if way <= EXAMPLE_WAY:
                support, query = episodes.gather(table, indices.part(slice(1)))
                examples[f"{task} support"] = support[0].cpu().numpy()
                examples[f"{task} query"] = query[0, :, :EXAMPLE_QUERIES].cpu().numpy()
            results = evaluate(method, embedded[copies], indices, method.modes, f"{cell.name} {task}")
            for transductive, result in zip(method.modes, results, strict=True):
                rows.append(row_of(cell, task, transductive, result))
                lines += [f"{task},{transductive},{i},{accuracy:.6f}" for i, accuracy in enumerate(result.accuracies)]
                named = f"{task} transductive" if transductive else task
                confusion[named] = result.confusion
                if way <= EXAMPLE_WAY:
                    examples[f"{named} predicted"] = result.first
                print(f"{rows[-1].protocol}, {'transductive' if transductive else 'one by one'}: {rows[-1]}")
        with whole_folder(cell.tested) as out:
            Metrics(origin=data.origin, rows=rows, episodes=digests).write(out)
            (out / "episodes.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
            # per task: true class, predicted class, count; the classes are rows of `classes`: name, turns
            names = data.names[data.test[:, 0]]
            np.savez_compressed(out / "confusion.npz", names=names, classes=data.test, **confusion)
            # the first episode of each task: its images, and what all its queries were taken for
            np.savez_compressed(out / "examples.npz", **examples)
            about = {"settings": cell.settings.model_dump(), "data": str(cell.episodes / "data.npz")}
            about |= {"after": [str(cell.trained)], "tests": True}
            write_json(out / "run.json", run_facts(device, time.perf_counter() - start, about=about))


def row_of(cell: Cell, task: str, transductive: bool, result: Result) -> Row:
    """The accuracy with its interval over episodes; over all queries where the test is the same for everyone."""
    n, interval = len(result.accuracies), mean_interval(result.accuracies)
    if Task.parse(task).kind in ("runs", "tutorial"):
        n *= result.first.size
        interval = wilson(round(float(result.accuracies.mean()) * n), n)
    protocol = few_shot_protocol(cell.split, task)
    facts = {"network": str(cell.settings.network), "budget": cell.params.budget}
    return cell.results.row(interval, n, protocol=protocol, transductive=transductive, **facts)


if __name__ == "__main__":
    launch(main)
