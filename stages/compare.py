"""Gather what every stage measured: leaderboard, summary, curves and figures into metrics/, all of it in one report.

The expensive stages keep their outputs in DVC's cache; only this cheap one writes into git. A stage with an
uncached output would lose DVC's run-cache, and with it the instant restore of an earlier experiment.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from fewlabel import params, tracking
from fewlabel.errors import UserError
from fewlabel.interrupts import uninterrupted
from fewlabel.report import examples, figures, leaderboard, paired
from fewlabel.report import page as report
from fewlabel.report.examples import Entry, Episode
from fewlabel.report.page import Picture
from fewlabel.results import delete, naming, write_json
from fewlabel.stage import launch

FEW_SHOT_CURVE = ["step", "loss", "accuracy", "val_loss", "val_accuracy"]
SUPERVISED_CURVE = ["step", "epoch", "train_loss", "train_accuracy", "test_loss", "test_accuracy"]
RESULTS, RAW, METRICS, REPORT = Path("results"), Path("data/raw"), Path("metrics"), Path("reports/index.html")
MADE = METRICS / ".made"  # everything, whole, on its way to its place


def main() -> None:
    settings = params.load()
    put_in_place()  # what a run made whole that was killed then
    with tracking.start("compare", settings.cells.model_dump()) as run:
        table = leaderboard.gather(settings, RESULTS, RAW)
        differences = paired.differences(settings, RESULTS)
        few_shot, supervised = read_curves(settings)
        runs = leaderboard.runs(settings, RESULTS)
        METRICS.mkdir(exist_ok=True)
        for left_over in METRICS.glob(".draft-*"):  # of a killed run
            shutil.rmtree(left_over, ignore_errors=True)
        with naming(METRICS), tempfile.TemporaryDirectory(dir=METRICS, prefix=".draft-") as draft:
            out, own, page = Path(draft) / "metrics", Path(draft) / "own", Path(draft) / REPORT.name
            out.mkdir()
            table.to_csv(out / "comparison.csv", index=False, float_format="%.6g")
            # Rounded as in the file, so that all say the same; only an empty field is none, not a split named null.
            as_written = pd.read_csv(out / "comparison.csv", keep_default_na=False, na_values=[""])
            (out / "leaderboard.md").write_text(leaderboard.markdown(as_written), encoding="utf-8")
            differences.to_csv(out / "paired.csv", index=False, float_format="%.6g")
            (out / "paired.md").write_text(paired.markdown(differences), encoding="utf-8")
            write_json(out / "summary.json", leaderboard.summary(table))
            write_json(out / "runs.json", runs)
            write_curves(out / "curves", settings, few_shot, supervised)
            pictures = draw(out / "figures", settings, table, differences, few_shot, supervised)
            pictures += draw_episodes(out / "figures", own, settings, table)
            pictures += photographs(settings)
            page.write_text(report.html(as_written, differences, runs, pictures, figures.DPI), encoding="utf-8")
            page.rename(out / page.name)
            out.rename(MADE)  # everything was made: now, and only now, replace the earlier results
        put_in_place()
        for shown in sorted((*(METRICS / "figures").iterdir(), METRICS / "comparison.csv", REPORT)):
            run.artifact(shown)
        run.summary(leaderboard.summary(table))
        for family, (folder, facts) in leaderboard.best(settings, RESULTS).items():
            run.best(family, folder, **facts)
    print(table.drop(columns=["reference_source", "device"]).to_string(index=False, float_format="%.4g"))


def put_in_place() -> None:
    """Replace the earlier results by those in `MADE`, if there are any. A kill in the middle leaves both kinds, and the
    rest to the next run, whatever else becomes of that."""
    if not MADE.exists():
        return
    with uninterrupted():
        REPORT.parent.mkdir(exist_ok=True)
        for made in sorted(MADE.iterdir()):
            place = REPORT if made.name == REPORT.name else METRICS / made.name
            if place.is_dir():
                delete(place)
            shutil.move(made, place)  # a rename, unless someone has moved that folder to another disk
        MADE.rmdir()


def read_curves(settings: params.Params) -> tuple[dict[str, pd.DataFrame], dict[str, pd.DataFrame]]:
    """The learning curves: of meta-training by cell, first seeds only; of finetuning by ``start-labels-seed``."""
    few_shot, supervised = {}, {}
    for cell in leaderboard.cells(settings, RESULTS):
        folder = cell.trained[-1]
        if folder.parent.name in ("metric_train", "meta_train") and folder.name.endswith(
            f"-{settings.cells.few_shot_seeds[0]}"
        ):
            few_shot[folder.name] = read_curve(folder)
        elif folder.parent.name == "finetune":
            supervised[folder.name] = read_curve(folder)
    return few_shot, supervised


def read_curve(folder: Path) -> pd.DataFrame:
    columns = SUPERVISED_CURVE if folder.parent.name == "finetune" else FEW_SHOT_CURVE
    try:
        return pd.read_csv(folder / "curve.csv", dtype=float)[columns].astype({"step": int})
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{folder / 'curve.csv'}: cannot be read ({error}); run `dvc repro`") from None


def write_curves(
    folder: Path, settings: params.Params, few_shot: dict[str, pd.DataFrame], supervised: dict[str, pd.DataFrame]
) -> None:
    """What `dvc plots` draws and compares between revisions: for each number of labels and seed a table per measure, a
    column a start; one per few-shot training, a row a validation with the means over the steps that led to it."""
    (folder / "few_shot").mkdir(parents=True)
    for name, curve in few_shot.items():
        to_come = curve["val_loss"].notna()[::-1].cumsum()  # validations: the same number from one to the next
        means = curve.groupby(to_come, sort=False).agg(dict.fromkeys(curve, "mean") | {"step": "last"})
        means.dropna().to_csv(folder / "few_shot" / f"{name}.csv", index=False, float_format="%.6g")
    for cell in settings.cells.label_cells:
        curves = {start: supervised[f"{start}-{cell}"].set_index("step") for start in leaderboard.FINETUNE_STARTS}
        (folder / f"cifar10-{cell}").mkdir()
        for measure in SUPERVISED_CURVE[2:]:
            of_measure = pd.DataFrame({start: curve[measure] for start, curve in curves.items()})
            of_measure.to_csv(folder / f"cifar10-{cell}" / f"{measure}.csv", float_format="%.6g")


def draw(
    folder: Path,
    settings: params.Params,
    table: pd.DataFrame,
    differences: pd.DataFrame,
    few_shot: dict[str, pd.DataFrame],
    supervised: dict[str, pd.DataFrame],
) -> list[Picture]:
    """The figures of numbers, in the order in which the report shows them."""
    folder.mkdir()
    cell = settings.cells.label_cells[0]
    starts = {start: supervised[f"{start}-{cell}"] for start in leaderboard.FINETUNE_STARTS}
    lines = leaderboard.over_seeds(table)
    drawn = {
        "accuracy_by_method": figures.accuracy_by_method(lines),
        "paired_differences": figures.paired_differences(paired.to_the_best(differences), table),
        "label_efficiency": figures.label_efficiency(table),
        "training_time": figures.training_time(lines),
        "few_shot_curves": figures.few_shot_curves(few_shot, table),
        "rotation_against_supervised": figures.rotation_against_supervised(starts, cell, table),
    }
    return [keep(figure, folder / f"{name}.png", *report.CAPTIONS[name]) for name, figure in drawn.items()]


def draw_episodes(folder: Path, own: Path, settings: params.Params, table: pd.DataFrame) -> list[Picture]:
    """One test episode of each split as the best and the last method met it, and one of many classes as a table.

    Pictures of a person's own images are theirs: they go to `own`, and into the report, but not into git.
    """
    own.mkdir()
    pictures = []
    episodes = examples.read(settings, RESULTS)
    for split in dict.fromkeys(episode.split for episode in episodes):
        of_split = [episode for episode in episodes if episode.split == split]
        plain, hard = examples.plainest(of_split), examples.hardest(of_split)
        for kind, figure in (
            ("episode", figures.episode_picture(plain, best_and_last(plain, table))),
            ("confusion", figures.confusion(hard, best_and_last(hard, table)[0])),
        ):
            place = folder if plain.public else own
            pictures.append(keep(figure, place / f"{kind}_{split}.png", *report.CAPTIONS[kind]))
    return pictures


def best_and_last(episode: Episode, table: pd.DataFrame) -> list[Entry]:
    """The first and the last of the leaderboard of those that met the episode; one where there is no other."""
    rows = table[table["protocol"] == f"{episode.split}/{episode.task}"]
    means = rows.groupby(["method", "transductive"])["value"].mean()
    ranked = sorted(episode.predicted, key=lambda entry: (-means[entry], entry))
    return ranked if len(ranked) == 1 else [ranked[0], ranked[-1]]


def keep(figure: Figure, path: Path, title: str, caption: str, alt: str) -> Picture:
    figures.save(figure, path)
    return Picture(path, title, caption, alt)


def photographs(settings: params.Params) -> list[Picture]:
    """What two networks said of the photographs, which have no licence to be in git: in the report alone."""
    seed = settings.cells.transfer_seeds[0]
    return [
        Picture(RESULTS / "transfer" / f"{start}-{seed}" / f"{name}.png", *report.CAPTIONS[name], photographs=True)
        for start, name in (("frozen", "predictions"), ("finetune", "most_wrong"))
    ]


if __name__ == "__main__":
    launch(main)
