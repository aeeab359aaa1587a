"""Gather what every stage measured into metrics/: the leaderboard, the summary, the curves, the figures.

The expensive stages keep their outputs in DVC's cache; only this cheap one writes into git. A stage with an
uncached output would lose DVC's run-cache, and with it the instant restore of an earlier experiment.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import pandas as pd

from fewlabel import figures, leaderboard, paired, params, tracking
from fewlabel.errors import UserError
from stages.common import launch, write_json

RESULTS, RAW, METRICS = Path("results"), Path("data/raw"), Path("metrics")


def main() -> None:
    settings = params.load()
    with tracking.start("compare", settings.cells.model_dump()) as run:
        table = leaderboard.gather(settings, RESULTS, RAW)
        differences = paired.differences(settings, RESULTS)
        few_shot, supervised = read_curves(settings)
        METRICS.mkdir(exist_ok=True)
        for left_over in METRICS.glob(".draft-*"):  # of a killed run
            shutil.rmtree(left_over, ignore_errors=True)
        with tempfile.TemporaryDirectory(dir=METRICS, prefix=".draft-") as draft:
            out = Path(draft)
            table.to_csv(out / "comparison.csv", index=False, float_format="%.6g")
            as_written = pd.read_csv(out / "comparison.csv")
            (out / "leaderboard.md").write_text(leaderboard.markdown(as_written), encoding="utf-8")
            differences.to_csv(out / "paired.csv", index=False, float_format="%.6g")
            (out / "paired.md").write_text(paired.markdown(differences), encoding="utf-8")
            write_json(out / "summary.json", leaderboard.summary(table))
            write_json(out / "runs.json", leaderboard.runs(settings, RESULTS))
            write_curves(out / "curves", settings, supervised)
            draw(out / "figures", settings, table, few_shot, supervised)
            figures.save(
                figures.paired_differences(paired.to_the_best(differences)), out / "figures" / "paired_differences.png"
            )
            for picture in sorted((out / "figures").iterdir()):
                run.artifact(picture)
            run.artifact(out / "comparison.csv")
            for made in sorted(out.iterdir()):  # everything was made: now, and only now, replace the earlier results
                shutil.rmtree(METRICS / made.name, ignore_errors=True)
                made.replace(METRICS / made.name)
        run.summary(leaderboard.summary(table))
        for family, (folder, why) in leaderboard.best(settings, RESULTS).items():
            run.best(family, folder, why)
    print(table.drop(columns=["reference_source", "device"]).to_string(index=False, float_format="%.4g"))


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
    try:
        return pd.read_csv(folder / "curve.csv")
    except (OSError, ValueError) as error:
        raise UserError(f"{folder / 'curve.csv'}: cannot be read ({error}); run `dvc repro`") from None


def write_curves(folder: Path, settings: params.Params, supervised: dict[str, pd.DataFrame]) -> None:
    """One wide table per label cell, so that `dvc plots` draws all starts on one axis and compares revisions."""
    folder.mkdir()
    for cell in settings.cells.label_cells:
        curves = {
            start: supervised[f"{start}-{cell}"].set_index("step").drop(columns="epoch")
            for start in leaderboard.FINETUNE_STARTS
        }
        wide = pd.concat(curves, axis=1)
        wide.columns = ["_".join(pair) for pair in wide.columns.to_flat_index()]
        wide.to_csv(folder / f"cifar10-{cell}.csv", float_format="%.6g")


def draw(
    folder: Path,
    settings: params.Params,
    table: pd.DataFrame,
    few_shot: dict[str, pd.DataFrame],
    supervised: dict[str, pd.DataFrame],
) -> None:
    folder.mkdir()
    cell = settings.cells.label_cells[0]
    starts = {start: supervised[f"{start}-{cell}"] for start in leaderboard.FINETUNE_STARTS}
    figures.save(figures.accuracy_by_method(leaderboard.over_seeds(table)), folder / "accuracy_by_method.png")
    figures.save(figures.few_shot_curves(few_shot), folder / "few_shot_curves.png")
    figures.save(figures.rotation_against_supervised(starts, cell), folder / "rotation_against_supervised.png")
    figures.save(figures.label_efficiency(table), folder / "label_efficiency.png")


if __name__ == "__main__":
    launch(main)
