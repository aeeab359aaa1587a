"""Which method is better? Differences on the same test episodes.

Two accuracies have intervals of their own, but what makes an episode hard makes it hard for both. The difference in
each episode is free of that, so its interval is narrower, and it is the one that answers the question.
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fewlabel import results
from fewlabel.errors import DamagedFile, UserError
from fewlabel.grammar import Task
from fewlabel.intervals import difference_interval
from fewlabel.params import Params
from fewlabel.report.leaderboard import markdown_table, named

COLUMNS = (
    "protocol, method, transductive, accuracy, other, other_transductive, other_accuracy, "
    "difference, ci95_low, ci95_high, n, seeds"
).split(", ")
Entry = tuple[str, bool]  # a method, and whether it predicts transductively


def differences(params: Params) -> pd.DataFrame:
    """One row for each two methods (or modes of one) and each protocol, the better of the two first.

    The columns are `COLUMNS`; `difference` is the mean over episodes of (method - other), with 1.96 standard errors
    about it. Of several seeds, an episode's difference is the mean over those that both have.

    Raises:
        UserError: when two results of one protocol were not measured on the same episodes.
    """
    rows = []
    for protocol, entries in _accuracies(params).items():
        ranked = sorted(entries, key=lambda entry: (-_mean(entries[entry]), entry))
        for first, second in itertools.combinations(ranked, 2):
            seeds = sorted(entries[first].keys() & entries[second].keys())
            if not seeds:
                continue
            one, other = (np.mean([entries[entry][seed] for seed in seeds], axis=0) for entry in (first, second))
            accuracies = (*first, one.mean(), *second, other.mean())
            rows.append((protocol, *accuracies, *difference_interval(one - other), len(one), len(seeds)))
    return pd.DataFrame(rows, columns=COLUMNS)


def to_the_best(table: pd.DataFrame) -> pd.DataFrame:
    """The rows whose first method is the best of its protocol: what each other one falls short of it by."""
    best = table.groupby("protocol", sort=False)[["method", "transductive"]].transform("first")
    return table[(table["method"] == best["method"]) & (table["transductive"] == best["transductive"])]


def markdown(table: pd.DataFrame) -> str:
    """Each protocol's best method, and what the others fall short of it by, in percentage points."""
    columns = {
        "protocol": lambda row: row["protocol"],
        "best": lambda row: _name(row["method"], row["transductive"]),
        "accuracy": lambda row: f"{row['accuracy']:.2%}",
        "other": lambda row: _name(row["other"], row["other_transductive"]),
        "falls short by, 95 % interval": _points,
        "episodes": lambda row: f"{row['n']:,}",
        "seeds": lambda row: f"{row['seeds']}",
    }
    note = "\nBold: the interval leaves out zero. `paired.csv` has every pair of methods.\n"
    return markdown_table(columns, to_the_best(table)) + note


def _name(method: str, transductive: bool) -> str:
    return f"{method} (transductive)" if transductive else method


def _points(row: dict[str, Any]) -> str:
    mean, low, high = (f"{100 * row[name]:.2f}" for name in ("difference", "ci95_low", "ci95_high"))
    text = f"{mean} [{low}, {high}] points"
    return f"**{text}**" if row["ci95_low"] > 0 else text


def _accuracies(params: Params) -> dict[str, dict[Entry, dict[int, NDArray[np.float64]]]]:
    """Protocol → (method, transductive) → seed → accuracy of each episode, in the order of `results.finished`."""
    found: dict[str, dict[Entry, dict[int, NDArray[np.float64]]]] = {}
    asked: dict[str, tuple[tuple[str | None, int], Path]] = {}  # protocol → digest of its episodes, how many, whose
    for cell in results.finished(params):
        if cell.family != "few-shot":
            continue
        metrics, episodes = cell.metrics(), cell.episodes()
        for task, row in metrics.by_task():
            if Task.parse(task).kind in ("runs", "tutorial"):  # one fixed set of trials, no draw of episodes
                continue
            accuracies = _accuracies_of(episodes, task, row.transductive)
            path = cell.measured / "episodes.csv"
            if len(accuracies) != row.n:
                raise DamagedFile(path, f"{len(accuracies)} episodes of {task}, not {row.n}")
            met = metrics.episodes.get(task), row.n
            first, where = asked.setdefault(row.protocol, (met, cell.measured))
            if met != first:
                raise UserError(
                    f"{cell.measured} and {where} were not measured on the same episodes of {row.protocol}: "
                    "run `dvc repro`, which measures what is out of date again"
                )
            row = named(row, metrics, params)
            found.setdefault(row.protocol, {}).setdefault((row.method, row.transductive), {})[row.seed] = accuracies
    return found


def _accuracies_of(episodes: pd.DataFrame, task: str, transductive: bool) -> NDArray[np.float64]:
    rows = (episodes["task"] == task) & (episodes["transductive"] == transductive)
    return episodes.loc[rows, "accuracy"].to_numpy(dtype=np.float64)


def _mean(by_seed: dict[int, NDArray[np.float64]]) -> float:
    return float(np.mean([accuracies.mean() for accuracies in by_seed.values()]))
