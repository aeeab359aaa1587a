"""What meta_train and evaluate share: the few-shot training that the command line names, and its folders."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fewlabel import params, results
from fewlabel.errors import UserError
from fewlabel.fewshot import episodes
from fewlabel.fewshot.episodes import Indices

VALIDATION_QUERIES = 15


@dataclass(frozen=True)
class Cell:
    """One method on one split, for one task where the method needs a fixed way, from one seed."""

    params: params.Params
    method: str
    split: str
    task: str | None
    seed: int

    @property
    def name(self) -> str:
        return self.results.name

    @property
    def results(self) -> results.Cell:
        """Its folders and rows."""
        return results.few_shot(self.method, self.split, self.task, self.seed)

    @property
    def arguments(self) -> str:
        """The command line that names it, in the order of dvc.yaml."""
        task = f" --task {self.task}" if self.task else ""
        return f"{self.method} {self.split}{task} --seed {self.seed}"

    @property
    def settings(self) -> Any:
        """The method's own section of params.yaml."""
        return getattr(self.params, self.method)

    @property
    def trained(self) -> Path:
        """The folder of the training's results."""
        return self.results.trained[-1]

    @property
    def tested(self) -> Path:
        """The folder of the test's results."""
        return self.results.measured

    @property
    def episodes(self) -> Path:
        """The folder with the split's data and test episodes."""
        return Path("data/episodes") / self.split

    @property
    def compared_task(self) -> str:
        """The task on which models are compared by validation: their own, or the first of ``cells.tasks``."""
        return self.task or self.params.cells.tasks[0]

    def validation_task(self, classes: int) -> tuple[int, int]:
        """Way and shot of the validation episodes that the weights are chosen by, from so many validation classes."""
        way, shot = params.parse_task(self.task or results.VALIDATION_TASK)
        return way if self.task else min(way, classes), shot

    def validation_episodes(self, way: int, shot: int, classes: int, drawings: int, seed: int) -> Indices:
        """Fixed episodes of the validation classes. Raises `UserError` when there are too few classes or drawings."""
        queries = max(1, min(VALIDATION_QUERIES, drawings - shot))
        shape = episodes.Shape(self.params.episodes.validation_count, way, shot, queries)
        episodes.check(shape, classes, drawings, f"cells.tasks ({self.split} validation)", "cells.tasks")
        return episodes.fixed(shape, classes, drawings, seed, "validation")

    def test_tasks(self) -> list[str]:
        """What its model is tested on: where it was trained for a task, all with that way and shot, and without
        embeddings. No mean over distorted copies where it was not trained on any. Raises `UserError` when there is
        none."""
        names = self.params.test_tasks(self.split)
        if self.task is None:
            distorts = self.settings.distortion != params.Distortion()
            return [name for name in names if distorts or params.Task.parse(name).copies == 1]
        asked = params.parse_task(self.task)
        tasks = {name: params.Task.parse(name) for name in names}
        found = [name for name, task in tasks.items() if (task.way, task.shot) == asked and task.copies == 1]
        if not found:
            raise UserError(f"{self.task}: no test task of {self.split} has that way and shot: {', '.join(names)}")
        return found


def parse(description: str | None) -> Cell:
    """The cell that the command line names. Raises `UserError` when there is no such cell."""
    all_params = params.load()
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("method", choices=[*params.METRIC_METHODS, *params.GRADIENT_METHODS])
    parser.add_argument("split", choices=[*params.OMNIGLOT_SPLITS, *all_params.own_images])
    parser.add_argument("--task", help="way and shot, like 5w1s; for the methods that need a fixed way")
    parser.add_argument("--seed", type=params.seed, default=0)
    arguments = parser.parse_args()
    if arguments.method in params.GRADIENT_METHODS and arguments.task is None:
        raise UserError(f"{arguments.method} needs a fixed way: name the task, like --task 5w1s")
    if arguments.method in params.METRIC_METHODS and arguments.task is not None:
        raise UserError(f"{arguments.method} needs no fixed way, one model serves all tasks: leave --task out")
    if arguments.task:
        params.parse_task(arguments.task)
    return Cell(all_params, **vars(arguments))
