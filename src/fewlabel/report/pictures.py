"""All figures of the report, in the order in which it shows them. Those of a family that has no results are left out.

A new figure is a function in `figures`, a line in one of the functions here, and a section of figures.toml.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from fewlabel.data import hymenoptera
from fewlabel.params import Params
from fewlabel.report import examples, leaderboard, paired
from fewlabel.report.examples import Entry, Episode
from fewlabel.report.figures import episodes, few_shot, labels, overview, photographs, style
from fewlabel.report.page import WORDS, Picture
from fewlabel.results import VALIDATION_TASK, Cell

PHOTOGRAPHS = Path("data/prepared/hymenoptera.npz")


def of_numbers(
    folder: Path, seed: int, table: pd.DataFrame, differences: pd.DataFrame, curves: dict[Cell, pd.DataFrame]
) -> list[Picture]:
    """The figures of the leaderboard and of the trainings.

    Args:
        seed: of the few-shot trainings whose curves are shown.
    """
    meta = {cell.name: curve for cell, curve in curves.items() if cell.family == "few-shot" and cell.seed == seed}
    first = next((cell for cell in curves if cell.labels), None)
    lines = leaderboard.over_seeds(table)
    any_accuracy = (lines["metric"] == "accuracy").any()
    drawn = {}
    if any_accuracy:
        drawn["accuracy_by_method"] = overview.accuracy_by_method(lines)
    if meta:
        drawn["paired_differences"] = few_shot.paired_differences(paired.to_the_best(differences), table)
    if first:
        drawn["label_efficiency"] = labels.label_efficiency(table)
    if any_accuracy:
        drawn["training_time"] = overview.training_time(lines)
    if meta:
        drawn["accuracy_per_second"] = few_shot.accuracy_per_second(_progress(curves, seed), table)
        drawn["few_shot_curves"] = few_shot.few_shot_curves(meta, table)
    if first and first.labels:
        labels_and_seed = (first.labels, first.seed)
        starts = {cell.method: curve for cell, curve in curves.items() if (cell.labels, cell.seed) == labels_and_seed}
        figure = labels.rotation_against_supervised(starts, *labels_and_seed, table)
        drawn["rotation_against_supervised"] = figure
    return [_keep(figure, folder / f"{name}.png", name) for name, figure in drawn.items()]


def _progress(curves: dict[Cell, pd.DataFrame], seed: int) -> pd.DataFrame:
    """The validations of the few-shot trainings, with the seconds of training until then, taken as equal for each
    step."""
    parts = []
    for cell, curve in curves.items():
        if cell.family == "few-shot" and cell.seed == seed:
            seconds = curve["step"] * cell.runs()[-1].seconds / curve["step"].max()
            part = pd.DataFrame({"seconds": seconds, "accuracy": curve["val_accuracy"]}).dropna()
            parts.append(part.assign(task=cell.task or VALIDATION_TASK, method=cell.method))
    return pd.concat(parts)


def of_episodes(folder: Path, private: Path, params: Params, table: pd.DataFrame) -> list[Picture]:
    """One test episode of each split as the best and the last method met it, and one of many classes as a table.

    Pictures of a person's own images are theirs: they go to ``private``, and into the report, but not into git.
    """
    pictures = []
    kept = examples.read(params)
    for split in dict.fromkeys(episode.split for episode in kept):
        of_split = [episode for episode in kept if episode.split == split]
        plain, hard = examples.plainest(of_split), examples.hardest(of_split)
        place = folder if plain.public else private
        best, *others = _ranked(plain, table)
        figure = episodes.episode_picture(plain, [best, *others[-1:]])
        pictures.append(_keep(figure, place / f"episode_{split}.png", "episode"))
        figure = episodes.confusion(hard, _ranked(hard, table)[0])
        pictures.append(_keep(figure, place / f"confusion_{split}.png", "confusion"))
    return pictures


def _ranked(episode: Episode, table: pd.DataFrame) -> list[Entry]:
    """Who met the episode, the best of the leaderboard first."""
    rows = table[table["protocol"] == episode.protocol]
    means = rows.groupby(["method", "transductive"])["value"].mean()
    return sorted(episode.predicted, key=lambda entry: (-means[entry], entry))


def of_photographs(private: Path, cells: list[Cell]) -> list[Picture]:
    """What two networks of the first seed said of the photographs, which have no licence to be in git."""
    first = {cell.method: cell for cell in reversed(cells) if cell.family == "transfer"}  # of the first seed
    if not first:
        return []
    data = hymenoptera.load(PHOTOGRAPHS)
    images = dict(zip(data.names.tolist(), data.images, strict=True))
    stand_in = " (embedded stand-in data)" if data.origin == "embedded" else ""
    pictures = []
    for start, name, draw in (
        ("frozen", "predictions", photographs.predictions),
        ("finetune", "most_wrong", photographs.most_wrong),
    ):
        if start in first:
            row = first[start].metrics().rows[0]
            title = f"Ants and bees{stand_in}, {row.method}, budget {row.budget}"
            pictures.append(_keep(draw(title, first[start].predictions(), images), private / f"{name}.jpg", name))
    return pictures


def _keep(figure: Figure, path: Path, words: str) -> Picture:
    style.save(figure, path)
    return Picture(path, **WORDS[words])
