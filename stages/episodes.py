"""All that few-shot training and test on a split read: images, class lists, fixed test episodes.

``python -m stages.episodes lake``, or vinyals, or a name in ``own_images``.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch

from fewlabel import params, tracking
from fewlabel.data import few_shot, omniglot, own_images
from fewlabel.errors import UserError
from fewlabel.fewshot import episodes, protocols, requirements, splits
from fewlabel.results import whole_folder
from fewlabel.stage import launch


def main() -> None:
    all_params = params.load()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("split", choices=[*params.OMNIGLOT_SPLITS, *all_params.own_images])
    split = parser.parse_args().split
    settings = all_params.episodes
    own = all_params.own_images.get(split)
    with tracking.start(f"episodes@{split}", (own or settings).model_dump()):
        if own:
            listing = own_images.scan(split, own)
            requirements.check(all_params, listing)
            data, runs = own_images.read(listing), None
        else:
            drawn = omniglot.load("data/prepared/omniglot.npz")
            data, runs = splits.divide(drawn, split, settings.validation_alphabets, settings.seed), drawn.runs
        tasks = all_params.test_tasks(split)
        with whole_folder(Path("data/episodes") / split) as out:
            few_shot.save(out / "data.npz", data)
            for name in tasks:
                fixed = test_episodes(name, data, settings, f"test task {name} of {split}", runs)
                episodes.save(out / f"{name}.npz", fixed)
                if (way := fixed.classes.shape[1]) < (params.Task.parse(name).way or 0):
                    print(f"{name}: its episodes have {way} ways, as no group has more classes")
        sizes = f"{len(data.train)} training, {len(data.validation)} validation, {len(data.test)} test classes"
        print(f"{split}: {sizes}, {data.drawings} images of each; test tasks {', '.join(tasks)}")


def test_episodes(
    name: str, data: few_shot.FewShotData, settings: params.Episodes, where: str, runs: omniglot.Runs | None
) -> episodes.Indices:
    """The fixed episodes of a test task. Raises `UserError` when the test classes cannot fill one."""
    task = params.Task.parse(name)
    if task.kind in ("runs", "tutorial") and (runs is None or (data.test[:, 1] > 0).any()):
        raise UserError(f"{where}: that test is lake's alone: put it under episodes.published_tasks.lake")
    if task.kind == "runs" and runs is not None:
        return protocols.lake_runs(runs, data.images[data.test[:, 0], :, 0])
    if task.kind == "tutorial":
        way = task.way or len(data.test)
        episodes.check(episodes.Shape(1, way, task.shot, 1), len(data.test), data.drawings, where, where)
        return protocols.tutorial(way, task.shot, data.drawings)
    upright = np.flatnonzero(data.test[:, 1] == 0)
    if task.upright and len(upright) in (0, len(data.test)):
        which = "all" if len(upright) else "none"
        raise UserError(
            f"{where}: {which} of its test classes are upright, leave -upright out; a task of one split of Omniglot "
            "alone goes under episodes.published_tasks"
        )
    classes = len(upright) if task.upright else len(data.test)
    count = settings.count if task.way else settings.all_way_count
    shape = episodes.Shape(count, task.way or classes, task.shot, task.queries or settings.queries)
    episodes.check(shape, classes, data.drawings, where, where)
    if task.kind == "within":
        groups = few_shot.groups(data, data.test)
        return protocols.within(shape, groups, data.drawings, settings.seed, name)
    fixed = episodes.fixed(shape, classes, data.drawings, settings.seed, name)
    if task.upright:
        rows = torch.from_numpy(upright.astype(np.int32))[fixed.classes.long()]
        fixed = episodes.Indices(rows, fixed.support, fixed.query)
    return fixed


if __name__ == "__main__":
    launch(main)
