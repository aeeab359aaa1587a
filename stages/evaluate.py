"""Evaluate one meta-trained model on the fixed test episodes: ``python -m stages.evaluate siamese lake --seed 0``.

On all test tasks of the split; with ``--task`` on those with its way and shot. In every mode the method offers: each
query classified without seeing the others, or transductively, all at once.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from fewlabel import tracking
from fewlabel.data import few_shot
from fewlabel.fewshot import episodes
from fewlabel.fewshot.cells import parse
from fewlabel.fewshot.evaluate import evaluate
from fewlabel.fewshot.methods import base
from fewlabel.grammar import Task, few_shot_protocol
from fewlabel.intervals import mean_interval, wilson
from fewlabel.networks import weights
from fewlabel.results import Metrics, Row, whole_folder, write_json
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
        rows, lines, digests = [], ["task,transductive,episode,accuracy"], {}
        confusion: dict[str, NDArray[np.int64]] = {}
        examples: dict[str, NDArray[np.integer]] = {}
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
                mode = "transductive" if transductive else "one by one"
                row = Row.of(
                    *measured(Task.parse(task), result.accuracies, way * indices.query.shape[2]),
                    family="few-shot",
                    method=cell.method,
                    dataset=cell.params.dataset(cell.split),
                    protocol=few_shot_protocol(cell.split, task),
                    transductive=transductive,
                    seed=cell.seed,
                    budget=cell.params.budget,
                )
                rows.append(row)
                lines += [f"{task},{transductive},{i},{accuracy:.6f}" for i, accuracy in enumerate(result.accuracies)]
                named = f"{task} transductive" if transductive else task
                confusion[named] = result.confusion
                if way <= EXAMPLE_WAY:
                    examples[f"{named} predicted"] = result.first
                print(f"{row.protocol}, {mode}: {row}")
        with whole_folder(cell.tested) as out:
            Metrics(origin=data.origin, rows=rows, episodes=digests).write(out)
            (out / "episodes.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
            # per task: true class, predicted class, count; the classes are rows of `classes`: name, turns
            tables: dict[str, Any] = {"names": data.names[data.test[:, 0]], "classes": data.test, **confusion}
            np.savez_compressed(out / "confusion.npz", **tables)
            # the first episode of each task: its images, and what all its queries were taken for
            pictures: dict[str, Any] = dict(examples)
            np.savez_compressed(out / "examples.npz", **pictures)
            about = {"settings": cell.settings.model_dump(), "data": str(cell.episodes / "data.npz")}
            about |= {"after": [str(cell.trained)], "tests": True}
            write_json(out / "run.json", run_facts(device, time.perf_counter() - start, about=about))


def measured(task: Task, accuracies: NDArray[np.float64], queries: int) -> tuple[tuple[float, float, float], int]:
    """The accuracy with its interval, and what is counted: episodes, whose accuracies spread; or the queries of a test
    that is the same for everyone.

    Args:
        queries: of an episode.
    """
    if task.kind in ("runs", "tutorial"):
        trials = len(accuracies) * queries
        return wilson(round(float(accuracies.mean()) * trials), trials), trials
    return mean_interval(accuracies), len(accuracies)


if __name__ == "__main__":
    launch(main)
