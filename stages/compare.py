"""Gather what every stage measured: leaderboard, summary, curves and figures into metrics/, all of it in one report.

The expensive stages keep their outputs in DVC's cache; only this cheap one writes into git. A stage with an
uncached output would lose DVC's run-cache, and with it the instant restore of an earlier experiment.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from fewlabel import params, results, tracking
from fewlabel.data import hymenoptera
from fewlabel.report import examples, leaderboard, page, paired
from fewlabel.report.examples import Entry, Episode
from fewlabel.report.figures import episodes, few_shot, labels, overview, photographs, style
from fewlabel.report.page import Picture
from fewlabel.results import Cell, write_json
from fewlabel.stage import launch

METRICS, REPORT = Path("metrics"), Path("reports")
PUBLISHED = METRICS / "published.csv"  # of longer trainings, which are none of this pipeline execution's
PHOTOGRAPHS = Path("data/prepared/hymenoptera.npz")


def main() -> None:
    settings = params.load()
    with tracking.start("compare", settings.cells.model_dump(), METRICS):
        table = leaderboard.gather(settings)
        differences = paired.differences(settings)
        runs = leaderboard.runs(settings)
        finished = results.finished(settings)
        curves = {cell: cell.curve() for cell in finished if cell.family != "transfer"}
        with (
            results.whole_folder(METRICS) as out,
            results.whole_folder(REPORT) as report,
            tempfile.TemporaryDirectory() as private,
        ):
            table.to_csv(out / "comparison.csv", index=False, float_format="%.6g")
            # Rounded as in the file, so that all say the same; only an empty field is none, not a split named null.
            as_written = pd.read_csv(out / "comparison.csv", keep_default_na=False, na_values=[""])
            (out / "leaderboard.md").write_text(leaderboard.markdown(as_written), encoding="utf-8")
            differences.to_csv(out / "paired.csv", index=False, float_format="%.6g")
            (out / "paired.md").write_text(paired.markdown(differences), encoding="utf-8")
            write_json(out / "summary.json", leaderboard.summary(table))
            write_json(out / "runs.json", runs)
            write_json(out / "best.json", leaderboard.best(settings))
            write_curves(out / "curves", curves)
            pictures = draw(out / "figures", settings, table, differences, curves)
            pictures += draw_episodes(out / "figures", Path(private), settings, table)
            pictures += draw_photographs(Path(private), settings, finished)
            if PUBLISHED.exists():
                shutil.copyfile(PUBLISHED, out / PUBLISHED.name)
            html = page.html(as_written, differences, runs, pictures, style.DPI)
            (report / "index.html").write_text(html, encoding="utf-8")
    print(table.drop(columns=["reference_source", "device"]).to_string(index=False, float_format="%.4g"))
    for cell in results.cells(settings):
        if cell not in finished:
            print(f"left out, as `dvc repro` has not made it yet: {cell.measured}")


def write_curves(folder: Path, curves: dict[Cell, pd.DataFrame]) -> None:
    """What `dvc plots` draws and compares between revisions: for each number of labels and seed a table per measure, a
    column a start; one per few-shot training, a row a validation with the means over the steps that led to it."""
    (folder / "few_shot").mkdir(parents=True)
    wide: dict[str, dict[str, pd.Series]] = {}
    for cell, curve in curves.items():
        if cell.family == "few-shot":
            to_come = curve["val_loss"].notna()[::-1].cumsum()  # validations: the same number from one to the next
            means = curve.groupby(to_come, sort=False).agg(dict.fromkeys(curve, "mean") | {"step": "last"})
            means.dropna().to_csv(folder / "few_shot" / f"{cell.name}.csv", index=False, float_format="%.6g")
        elif cell.labels:
            for measure in results.SUPERVISED_CURVE[2:]:
                place = wide.setdefault(f"cifar10-{cell.labels}-{cell.seed}/{measure}.csv", {})
                place[cell.method] = curve.set_index("step")[measure]
    for name, columns in wide.items():
        (folder / name).parent.mkdir(exist_ok=True)
        pd.DataFrame(columns).to_csv(folder / name, float_format="%.6g")


def draw(
    folder: Path,
    settings: params.Params,
    table: pd.DataFrame,
    differences: pd.DataFrame,
    curves: dict[Cell, pd.DataFrame],
) -> list[Picture]:
    """The figures of numbers, in the order in which the report shows them; none without its numbers."""
    folder.mkdir()
    number, seed = params.parse_label_cell(settings.cells.label_cells[0])
    starts = {cell.method: curve for cell, curve in curves.items() if (cell.labels, cell.seed) == (number, seed)}
    first = settings.cells.few_shot_seeds[0]
    meta = {cell.name: curve for cell, curve in curves.items() if cell.family == "few-shot" and cell.seed == first}
    lines = leaderboard.over_seeds(table)
    any_accuracy, any_labels = (lines["metric"] == "accuracy").any(), any(cell.labels for cell in curves)

    def figures() -> Iterator[tuple[str, Figure]]:
        if any_accuracy:
            yield "accuracy_by_method", overview.accuracy_by_method(lines)
        if meta:
            yield "paired_differences", few_shot.paired_differences(paired.to_the_best(differences), table)
        if any_labels:
            yield "label_efficiency", labels.label_efficiency(table)
        if any_accuracy:
            yield "training_time", overview.training_time(lines)
        if meta:
            yield "few_shot_curves", few_shot.few_shot_curves(meta, table)
        if starts:
            curves_of_starts = labels.rotation_against_supervised(starts, number, seed, table)
            yield "rotation_against_supervised", curves_of_starts

    return [keep(figure, folder / f"{name}.png", name) for name, figure in figures()]


def draw_episodes(folder: Path, private: Path, settings: params.Params, table: pd.DataFrame) -> list[Picture]:
    """One test episode of each split as the best and the last method met it, and one of many classes as a table.

    Pictures of a person's own images are theirs: they go to ``private``, and into the report, but not into git.
    """
    pictures = []
    kept = examples.read(settings)
    for split in dict.fromkeys(episode.split for episode in kept):
        of_split = [episode for episode in kept if episode.split == split]
        plain, hard = examples.plainest(of_split), examples.hardest(of_split)
        place = folder if plain.public else private
        figure = episodes.episode_picture(plain, best_and_last(plain, table))
        pictures.append(keep(figure, place / f"episode_{split}.png", "episode"))
        figure = episodes.confusion(hard, best_and_last(hard, table)[0])
        pictures.append(keep(figure, place / f"confusion_{split}.png", "confusion"))
    return pictures


def best_and_last(episode: Episode, table: pd.DataFrame) -> list[Entry]:
    """The first and the last of the leaderboard of those that met the episode; one where there is no other."""
    rows = table[table["protocol"] == episode.protocol]
    means = rows.groupby(["method", "transductive"])["value"].mean()
    ranked = sorted(episode.predicted, key=lambda entry: (-means[entry], entry))
    return ranked if len(ranked) == 1 else [ranked[0], ranked[-1]]


def draw_photographs(private: Path, settings: params.Params, finished: list[Cell]) -> list[Picture]:
    """What two networks said of the photographs, which have no licence to be in git: in the report alone."""
    pictures = []
    for start, name, figure in (
        ("frozen", "predictions", photographs.predictions),
        ("finetune", "most_wrong", photographs.most_wrong),
    ):
        cell = results.transfer(start, settings.cells.transfer_seeds[0])
        if cell not in finished:
            continue
        data = hymenoptera.load(PHOTOGRAPHS)
        images = dict(zip(data.names.tolist(), data.images, strict=True))
        stand_in = " (embedded stand-in data)" if data.origin == "embedded" else ""
        title = f"Ants and bees{stand_in}, {cell.metrics().rows[0].method}, budget {settings.budget}"
        pictures.append(keep(figure(title, cell.predictions(), images), private / f"{name}.jpg", name))
    return pictures


def keep(figure: Figure, path: Path, words: str) -> Picture:
    style.save(figure, path)
    return Picture(path, **page.WORDS[words])


if __name__ == "__main__":
    launch(main)
