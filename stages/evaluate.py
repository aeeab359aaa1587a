"""Evaluate one meta-trained model on the fixed test episodes: ``python -m stages.evaluate siamese lake --seed 0``.

With ``--task`` on that task alone, without on all of ``episodes.tasks``.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file

from fewlabel import device as devices
from fewlabel import episodes, params, tracking
from fewlabel.data import omniglot
from fewlabel.evaluation import evaluate
from fewlabel.intervals import mean_interval
from fewlabel.methods import base
from stages.common import launch, run_facts, whole_folder, write_json


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
    model = f"results/{'meta_train' if arguments.task else 'metric_train'}/{cell}/model.safetensors"
    folder = Path("data/episodes") / arguments.split

    with tracking.start(f"evaluate@{cell}", settings.model_dump()) as run:
        print(f"{cell} on {devices.describe(device)}")
        start = time.perf_counter()
        data = omniglot.load("data/prepared/omniglot.npz")
        with np.load(folder / "split.npz", allow_pickle=False) as split:
            classes, train_classes = split["test"], len(split["train"])
        table = episodes.table(data.images, classes, device)
        rows, lines = [], ["task,episode,accuracy"]
        confusion: dict[str, NDArray[np.int64]] = {}
        for task in [arguments.task] if arguments.task else all_params.episodes.tasks:
            way, shot = params.parse_task(task)
            problem = base.Problem(way, shot, train_classes)
            method = base.create(arguments.method, settings, problem, device, seed=0)
            method.model.load_state_dict(load_file(model))
            with np.load(folder / f"{task}.npz", allow_pickle=False) as file:
                arrays = [torch.from_numpy(file[key]).long() for key in ("classes", "support", "query")]
            result = evaluate(method, table, episodes.Indices(*arrays), f"{cell} {task}")
            value, low, high = mean_interval(result.accuracies)
            rows.append(
                {
                    "family": "few-shot",
                    "method": arguments.method,
                    "dataset": "omniglot",
                    "protocol": f"{arguments.split}/{task}",
                    "transductive": method.modes[0],
                    "seed": arguments.seed,
                    "metric": "accuracy",
                    "value": value,
                    "ci95_low": low,
                    "ci95_high": high,
                    "n": len(result.accuracies),
                    "budget": all_params.budget,
                }
            )
            lines += [f"{task},{episode},{accuracy:.6f}" for episode, accuracy in enumerate(result.accuracies)]
            confusion[task] = result.confusion
            run.log(0, **{f"accuracy_{task}": value})
            print(f"{arguments.split}/{task}: {value:.4f} ({low:.4f} to {high:.4f}), {len(result.accuracies)} episodes")
        with whole_folder(f"results/evaluate/{cell}") as out:
            write_json(out / "metrics.json", {"origin": data.origin, "rows": rows})
            (out / "episodes.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
            # per task: true class, predicted class, count; the classes are rows of `classes`: character, turns
            tables: dict[str, Any] = {"names": data.names[classes[:, 0]], "classes": classes, **confusion}
            np.savez_compressed(out / "confusion.npz", **tables)
            write_json(out / "run.json", run_facts(device, time.perf_counter() - start))
        run.tags(origin=data.origin, device=devices.describe(device))


if __name__ == "__main__":
    launch(main)
