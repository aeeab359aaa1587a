"""The whole DAG, end to end, by the commands a person types."""

import json
import xml.etree.ElementTree as ElementTree

import numpy as np
import pandas as pd
import pytest
from mlflow import MlflowClient

from fewlabel import params, tracking
from fewlabel.grammar import few_shot_protocol
from fewlabel.report import leaderboard
from fewlabel.results import FINETUNED

pytestmark = pytest.mark.pipeline
TASKS = ("5w1s",)


def stages_of(dry_run: str) -> set[str]:
    """The stages that ``dvc repro --dry`` would run."""
    return {line.split("'")[1] for line in dry_run.splitlines() if line.startswith("Running stage")}


def test_the_leaderboard_is_whole_and_honest(finished) -> None:
    table = pd.read_csv(finished.folder / "metrics" / "comparison.csv")
    settings = params.load(finished.folder / "params.yaml")
    assert list(table.columns) == leaderboard.COLUMNS
    assert set(table["source"]) == {"embedded"}
    assert set(table["budget"]) == {"smoke"}
    assert table["reference"].isna().all()
    assert table["device"].notna().all()
    assert (table["train_seconds"] >= 0).all()
    assert ((table["ci95_low"] <= table["value"]) & (table["value"] <= table["ci95_high"])).all()
    chosen = settings.cells
    for method in chosen.metric_methods:
        protocols = {few_shot_protocol("lake", task) for task in settings.test_tasks("lake")}
        assert set(table[table["method"] == method]["protocol"]) == protocols
    for method in chosen.gradient_methods:
        assert set(table[table["method"] == method]["protocol"]) == {"lake/5w1s", "lake-within/5w1s"}
    few_shot = table[(table["family"] == "few-shot") & table["protocol"].str.startswith("lake/")]
    all_way = few_shot["protocol"].str.contains("/all-")
    assert set(few_shot[~all_way]["n"]) == {settings.episodes.count}
    assert set(few_shot[all_way]["n"]) == {settings.episodes.all_way_count}
    for method in chosen.gradient_methods:  # both modes
        assert set(few_shot[few_shot["method"] == method]["transductive"]) == {True, False}


def test_a_few_shot_number_is_the_mean_of_its_episodes_with_its_interval(finished) -> None:
    table = pd.read_csv(finished.folder / "metrics" / "comparison.csv")
    for folder in sorted((finished.folder / "results" / "evaluate").iterdir()):
        episodes = pd.read_csv(folder / "episodes.csv")
        method = folder.name.split("-")[0]
        for (task, transductive), rows in episodes.groupby(["task", "transductive"]):
            of_method = table[(table["method"] == method) & (table["transductive"] == transductive)]
            row = of_method[of_method["protocol"] == few_shot_protocol("lake", task)]
            assert len(row) == 1
            if params.Task.parse(task).kind in ("runs", "tutorial"):  # their interval is over single answers
                continue
            accuracies = rows["accuracy"].to_numpy()
            mean, half = accuracies.mean(), 1.96 * accuracies.std(ddof=1) / np.sqrt(len(accuracies))
            assert half > 0 or len(set(accuracies)) == 1
            assert row["value"].item() == pytest.approx(mean, abs=1e-5)
            assert row["ci95_low"].item() == pytest.approx(max(0, mean - half), abs=1e-5)
            assert row["ci95_high"].item() == pytest.approx(min(1, mean + half), abs=1e-5)


def test_paired_differences_agree_with_the_leaderboard(finished) -> None:
    table = pd.read_csv(finished.folder / "metrics" / "comparison.csv")
    means = table.groupby(["protocol", "method", "transductive"])["value"].mean()
    pairs = pd.read_csv(finished.folder / "metrics" / "paired.csv")
    several = table["protocol"].str.startswith(("lake/", "lake-within/"))  # others are fixed trials
    assert set(pairs["protocol"]) == set(table[several]["protocol"])
    for row in pairs.to_dict("records"):
        first = means[row["protocol"], row["method"], row["transductive"]]
        other = means[row["protocol"], row["other"], row["other_transductive"]]
        assert row["difference"] == pytest.approx(first - other, abs=1e-5)
        assert row["ci95_low"] <= row["difference"] <= row["ci95_high"]
    assert "falls short by" in (finished.folder / "metrics" / "paired.md").read_text()


def test_figures_and_curves_are_there_and_on_one_page(finished) -> None:
    figures = {path.stem for path in (finished.folder / "metrics" / "figures").iterdir()}
    numbers = {"accuracy_by_method", "few_shot_curves", "label_efficiency", "paired_differences", "training_time"}
    numbers |= {"accuracy_per_second"}
    assert figures == numbers | {"rotation_against_supervised", "episode_lake", "confusion_lake"}
    assert sum(path.stat().st_size for path in (finished.folder / "metrics" / "figures").iterdir()) < 1_000_000
    curve = pd.read_csv(finished.folder / "metrics" / "curves" / "cifar10-20-0" / "test_accuracy.csv")
    assert list(curve) == ["step", *FINETUNED, "scratch-resnet18"]
    finished.run(["dvc", "plots", "show", "--out", "plots"])
    page = (finished.folder / "plots" / "index.html").read_text()
    for shown in figures:
        assert f"{shown}.png" in page
    for shown in ("cifar10-20-0/test_accuracy.csv", "few_shot/maml-lake-5w1s-0.csv"):
        assert f"metrics/curves/{shown}" in page


def test_the_report_says_what_the_leaderboard_says_and_is_out_of_git(finished) -> None:
    page = (finished.folder / "reports" / "index.html").read_text(encoding="utf-8")
    text = " ".join(" ".join(ElementTree.fromstring(page).itertext()).split())
    assert "Stand-in data, not the real ones." in text
    table = pd.read_csv(finished.folder / "metrics" / "comparison.csv")
    for row in leaderboard.over_seeds(table).to_dict("records"):
        assert row["protocol"] in text
        assert f"{row['value']:.1%} {row['ci95_low']:.1%} to {row['ci95_high']:.1%}" in text
    drawn = len(list((finished.folder / "metrics" / "figures").iterdir()))
    assert page.count("data:image/png;base64,") == drawn
    assert page.count("data:image/jpeg;base64,") == 2  # the photographs, which have no licence to be in git
    assert finished.run(["git", "status", "--porcelain", "--", "reports"]).stdout == ""
    assert finished.run(["git", "check-ignore", "reports/index.html"]).stdout


def test_a_second_repro_does_nothing(finished) -> None:
    again = finished.run(["dvc", "repro"])
    assert "Data and pipelines are up to date" in again.stdout + again.stderr


def test_one_parameter_of_a_method_re_runs_that_method_alone(finished) -> None:
    path = finished.folder / "params.yaml"
    before = path.read_text()
    finished.set(**{"learn_inner_lr: true    #": "learn_inner_lr: false    #"})
    try:
        status = json.loads(finished.run(["dvc", "status", "--json"]).stdout)
        dry = finished.run(["dvc", "repro", "--dry"]).stdout
    finally:
        path.write_text(before)
    # Comparing again is known to be due only when the outputs have changed.
    assert set(status) == {f"{stage}@maml-lake-{task}-0" for stage in ("meta_train", "evaluate") for task in TASKS}
    assert stages_of(dry) == set(status)


def test_mlflow_and_dvc_tell_the_same_story(finished) -> None:
    client = MlflowClient(tracking_uri=f"sqlite:///{finished.folder / 'mlflow.db'}")
    experiment = client.get_experiment_by_name(tracking.EXPERIMENT)
    runs = client.search_runs([experiment.experiment_id], max_results=1000)
    parents = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    assert [run.info.run_name for run in parents] == ["smoke"]
    children = {run.info.run_name for run in runs} - {"smoke"}
    shown = finished.run(["dvc", "stage", "list", "--names-only"]).stdout
    assert children == set(shown.split())
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert {run.data.tags["dvc.experiment"] for run in runs} == {"smoke"}


def test_the_figures_are_in_mlflow_too(finished) -> None:
    client = MlflowClient(tracking_uri=f"sqlite:///{finished.folder / 'mlflow.db'}")
    experiment = client.get_experiment_by_name(tracking.EXPERIMENT)
    stored = {
        run.info.run_name: {file.path for file in client.list_artifacts(run.info.run_id)}
        for run in client.search_runs([experiment.experiment_id], max_results=1000)
    }
    drawn = {path.name for path in (finished.folder / "metrics" / "figures").iterdir()}
    assert {"rotation_against_supervised.png", "label_efficiency.png"} <= drawn <= stored["compare"]


def test_label_and_transfer_rows_name_their_arm_and_backbone(finished) -> None:
    table = pd.read_csv(finished.folder / "metrics" / "comparison.csv")
    arms = {family: set(rows["method"]) for family, rows in table.groupby("family")}
    assert arms["label-efficiency"] == {*FINETUNED, "scratch-resnet18"}
    lite0, small = ("scratch", "finetune", "frozen"), ("small-scratch", "small-rotation")
    assert arms["transfer"] == {f"{a}-efficientnet_lite0" for a in lite0} | {f"{a}-compact-8-16-16" for a in small}
    for measured in (finished.folder / "results").glob("*/*/run.json"):
        if measured.parts[-3] in ("finetune", "transfer"):
            assert json.loads(measured.read_text())["precision"] in ("bf16", "fp32")


def test_the_dvc_commands_of_the_readme(finished) -> None:
    assert "meta_train@maml-lake-5w1s-0" in finished.run(["dvc", "dag"]).stdout
    assert "budget" in finished.run(["dvc", "params", "diff", "HEAD"]).stdout
    assert "few-shot" in finished.run(["dvc", "metrics", "show"]).stdout
    shown = json.loads(finished.run(["dvc", "exp", "show", "--json"]).stdout)
    names = [e["name"] for revision in shown for e in (revision["experiments"] or [])]
    assert names == ["smoke"]
