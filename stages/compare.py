"""Gather what every stage measured: leaderboard, summary, curves and figures into metrics/, all of it in one report.

The expensive stages keep their outputs in DVC's cache; only this cheap one writes into git. A stage with an
uncached output would lose DVC's run-cache, and with it the instant restore of an earlier experiment.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import pandas as pd

from fewlabel import params, results, tracking
from fewlabel.report import leaderboard, page, paired, pictures
from fewlabel.report.figures import style
from fewlabel.results import Cell, write_json
from fewlabel.stage import launch

METRICS, REPORT = Path("metrics"), Path("reports")
PUBLISHED = METRICS / "published.csv"  # of longer trainings, which are none of this pipeline execution's


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
            if PUBLISHED.exists():
                shutil.copyfile(PUBLISHED, out / PUBLISHED.name)
            (out / "figures").mkdir()
            drawn = pictures.of_numbers(out / "figures", settings.cells.few_shot_seeds[0], table, differences, curves)
            drawn += pictures.of_episodes(out / "figures", Path(private), settings, table)
            drawn += pictures.of_photographs(Path(private), finished)
            html = page.html(as_written, differences, runs, drawn, style.DPI)
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


if __name__ == "__main__":
    launch(main)
