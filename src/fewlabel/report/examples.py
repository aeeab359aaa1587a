"""The first test episode of each task as `evaluate` kept it: its images, and what every method took them for."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from fewlabel import results
from fewlabel.data.prepared import DAMAGE
from fewlabel.errors import DamagedFile
from fewlabel.grammar import Task, few_shot_protocol
from fewlabel.params import OMNIGLOT_SPLITS, Params
from fewlabel.report.leaderboard import named

Entry = tuple[str, bool]  # a method, and whether it predicts transductively


@dataclass(frozen=True)
class Episode:
    """
    Attributes:
        split, task: their names.
        stand_in: drawn here instead of the real data.
        support: uint8 (way, shot, channels, size, size); Omniglot's as ink on paper.
        query: uint8 (way, some of the queries, channels, size, size).
        predicted: by method and mode, int (way, queries): positions along the way axis. Of the first seed.
    """

    split: str
    task: str
    stand_in: bool
    support: NDArray[np.uint8]
    query: NDArray[np.uint8]
    predicted: dict[Entry, NDArray[np.integer]] = field(default_factory=dict)

    @property
    def protocol(self) -> str:
        return few_shot_protocol(self.split, self.task)

    @property
    def way(self) -> int:
        return len(self.support)

    @property
    def public(self) -> bool:
        """Of drawings whose licence lets anyone show them: not a person's own images."""
        return self.split in OMNIGLOT_SPLITS

    def right(self, entry: Entry) -> tuple[int, int]:
        """How many queries were classified rightly, and of how many."""
        predicted = self.predicted[entry]
        return int((predicted == np.arange(self.way)[:, None]).sum()), predicted.size


def read(params: Params) -> list[Episode]:
    """The kept episodes, in the order of the splits and tasks of params.yaml. Raises `DamagedFile`."""
    found: dict[tuple[str, str], Episode] = {}
    for cell in results.finished(params):
        if cell.family != "few-shot" or cell.seed != params.cells.few_shot_seeds[0]:
            continue
        path, metrics = cell.measured / "examples.npz", cell.metrics()
        try:
            with np.load(path, allow_pickle=False) as kept:
                for task, row in metrics.by_task():
                    if f"{task} support" not in kept:  # of too many classes to be shown
                        continue
                    if (cell.split, task) not in found:
                        support, query = kept[f"{task} support"], kept[f"{task} query"]
                        if cell.split in OMNIGLOT_SPLITS:
                            support, query = 255 - support, 255 - query
                        stand_in = metrics.origin == "embedded"
                        found[cell.split, task] = Episode(cell.split, task, stand_in, support, query)
                    predicted = kept[f"{task} transductive predicted" if row.transductive else f"{task} predicted"]
                    _check(found[cell.split, task], predicted)
                    entry = (named(row, metrics, params).method, row.transductive)
                    found[cell.split, task].predicted[entry] = predicted
        except DAMAGE as error:
            raise DamagedFile(path, error) from None
    order = [(split, task) for split in params.cells.splits for task in params.test_tasks(split)]
    return [found[key] for key in order if key in found]


def _check(episode: Episode, predicted: NDArray[np.integer]) -> None:
    """Raise `ValueError` unless the arrays are of one episode, and of what a figure can show."""
    images = (episode.support, episode.query)
    way, queries, *image = episode.query.shape
    if not (
        all(each.dtype == np.uint8 and each.ndim == 5 and each.size and len(each) == way for each in images)
        and list(episode.support.shape[2:]) == image
        and predicted.dtype.kind == "i"
        and predicted.ndim == 2
        and len(predicted) == way
        and predicted.shape[1] >= queries
        and 0 <= predicted.min() <= predicted.max() < way
    ):
        raise ValueError("its arrays are not those of one episode")


def plainest(episodes: list[Episode]) -> Episode:
    """The one to explain a task by: of five classes if there is one, of the fewest images."""

    def size(episode: Episode) -> tuple[bool, int, int, bool]:
        return episode.way != 5, episode.way, episode.support.shape[1], _special(episode)

    return min(episodes, key=size)


def hardest(episodes: list[Episode]) -> Episode:
    """Of the most classes, and of those the one with the fewest shots."""

    def size(episode: Episode) -> tuple[int, int, bool]:
        return -episode.way, episode.support.shape[1], _special(episode)

    return min(episodes, key=size)


def _special(episode: Episode) -> bool:
    """Whether the task says more than its way and shot."""
    task = Task.parse(episode.task)
    return task != Task(task.way, task.shot)
