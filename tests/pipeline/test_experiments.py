"""The commands of docs/experiments.md on real stages: experiments, grids, queues, comparisons, a remote."""

import io
import json
import re
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd
import pytest
from mlflow import MlflowClient

from fewlabel import intervals, tracking
from tests.conftest import ROOT
from tests.pipeline.conftest import Clone, end
from tests.pipeline.test_whole import stages_of

pytestmark = pytest.mark.pipeline
CELLS = {
    "budget: cpu ": "budget: smoke ",
    "source: official ": "source: embedded ",
    "label_cells: [20-0, 20-1, 20-2, 100-0, 100-1, 100-2, 400-0, 1000-0]": "label_cells: [20-0]",
    "frozen_cells: [20-0, 100-0, 400-0, 1000-0]": "frozen_cells: [20-0]",
    "transfer_seeds: [0, 1, 2]": "transfer_seeds: [0]",
    "  tasks: [5w1s, 5w5s] ": "  tasks: [5w1s] ",
    "metric_methods: [contrastive, prototypes, nearest_mean, siamese]": "metric_methods: [prototypes]",
    "gradient_methods: [maml, fomaml, anil, reptile]": "gradient_methods: [maml]",
}
QUEUE_S = 120  # two experiments that are in the run-cache take 30 s on two idle cores


@pytest.fixture(scope="module")
def repo(finished: Clone, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clone]:
    """A clone with few cells, committed with its results, which come from the run-cache of the finished one."""
    with Clone(tmp_path_factory.mktemp("experiments")).alone() as clone:
        clone.set(**CELLS)
        clone.run(["dvc", "cache", "dir", "--local", str(finished.folder / ".dvc" / "cache")])
        clone.run(["dvc", "repro"])
        commit(clone, "results")
        yield clone


@pytest.fixture(scope="module")
def tried(repo: Clone) -> Clone:
    """The clone after one experiment, which trained MAML with another inner learning rate."""
    repo.run(["dvc", "exp", "run", "--temp", "--name", "slow", "-S", "maml.inner_lr=0.2"])
    return repo


def commit(clone: Clone, message: str) -> None:
    clone.run(["git", "add", "-A"])
    clone.run(["git", "commit", "-qm", message])


def mlflow_runs(clone: Clone) -> dict[str, set[str]]:
    """The stages that ran, by the name of the execution."""
    client = MlflowClient(tracking_uri=f"sqlite:///{clone.folder / 'mlflow.db'}")
    experiment = client.get_experiment_by_name(tracking.EXPERIMENT)
    runs = client.search_runs([experiment.experiment_id], max_results=1000)
    names = {run.info.run_id: run.info.run_name for run in runs}
    told: dict[str, set[str]] = {}
    for run in runs:
        if parent := run.data.tags.get("mlflow.parentRunId"):
            told.setdefault(names[parent], set()).add(run.info.run_name)
    return told


def experiments(clone: Clone) -> set[str]:
    shown = json.loads(clone.run(["dvc", "exp", "show", "--json"]).stdout)
    return {each["name"] for revision in shown for each in (revision["experiments"] or [])}


def test_a_stage_restored_from_the_run_cache_makes_no_run(repo) -> None:
    (ran,) = mlflow_runs(repo).values()
    assert ran == {"compare"}


MAML = {"meta_train@maml-lake-5w1s-0", "evaluate@maml-lake-5w1s-0"}
METRIC = {"metric_train@prototypes-lake-0", "evaluate_metric@prototypes-lake-0"}
FINETUNE = {
    "finetune@rotation-20-0",
    "finetune@emp_ssl-20-0",
    *(f"finetune_frozen@rotation-{groups}-20-0" for groups in (1, 2, 3)),
    "finetune_scratch@20-0",
}
TRANSFER = {
    "transfer@scratch-0",
    "transfer@finetune-0",
    "transfer@small-scratch-0",
    "transfer_rotation@0",
    "transfer_frozen@0",
}
PRETRAIN = {"pretrain@rotation", "pretrain@emp_ssl", "finetune_resnet18"}
SECOND_SEED = {stage.removesuffix("-0") + "-1" for stage in MAML | METRIC}


@pytest.mark.parametrize(
    ("file", "old", "new", "stages"),
    [
        ("params.yaml", "learn_inner_lr: true    #", "learn_inner_lr: false    #", MAML),
        ("params.yaml", "temperature: 16.0", "temperature: 8.0", METRIC),
        ("params.yaml", "crops: {smoke: 4", "crops: {smoke: 3", {"pretrain@emp_ssl"}),
        (
            "params.yaml",
            "momentum: 0.9\n  weight_decay: 0.0005\n  loss",
            "momentum: 0.8\n  weight_decay: 0.0005\n  loss",
            FINETUNE | {"finetune_resnet18"},
        ),
        ("params.yaml", "lr: 0.005", "lr: 0.004", {"transfer@finetune-0"}),
        ("params.yaml", "frozen: {lr: 0.03", "frozen: {lr: 0.02", {"transfer_frozen@0"}),
        ("src/fewlabel/fewshot/methods/maml.py", "", "# changed\n", MAML),
        ("src/fewlabel/networks/conv4.py", "", "# changed\n", MAML | METRIC),
        (
            "src/fewlabel/training/augment.py",
            "",
            "# changed\n",
            FINETUNE | TRANSFER | PRETRAIN | {"transfer_features", "download_backbone"},
        ),
        ("src/fewlabel/report/figures/style.py", "", "# changed\n", {"compare"}),
        ("src/fewlabel/tracking/__init__.py", "", "# changed\n", set()),
        ("params.yaml", "few_shot_seeds: [0]", "few_shot_seeds: [0, 1]", SECOND_SEED | {"compare"}),
        (
            "params.yaml",
            "  splits: [lake]\n",
            "  splits: [lake, vinyals]\n",
            {stage.replace("lake", "vinyals") for stage in MAML | METRIC} | {"compare"},
        ),
        (
            "params.yaml",
            "label_cells: [20-0]",
            "label_cells: [20-0, 50-0]",
            {stage.replace("20", "50") for stage in FINETUNE if "frozen" not in stage} | {"compare"},
        ),
        (
            "params.yaml",
            "transfer_seeds: [0]",
            "transfer_seeds: [0, 1]",
            {stage.removesuffix("0") + "1" for stage in TRANSFER} | {"compare"},
        ),
        (
            "params.yaml",
            "metric_methods: [prototypes]",
            "metric_methods: [prototypes, siamese]",
            {stage.replace("prototypes", "siamese") for stage in METRIC} | {"compare"},
        ),
    ],
    ids=(
        "inner_lr temperature pretrain finetune transfer_finetune transfer_frozen "
        "maml.py conv4.py augment.py style.py tracking.py seed split labels transfer_seed method"
    ).split(),
)
def test_a_change_re_runs_what_depends_on_it(repo, file, old, new, stages) -> None:
    path = repo.folder / file
    before = path.read_text()
    assert not old or before.count(old) == 1
    path.write_text(before.replace(old, new) if old else before + new)
    try:
        changed = set(json.loads(repo.run(["dvc", "status", "--json"]).stdout))
    finally:
        path.write_text(before)
    assert changed == stages


def test_an_experiment_in_a_temporary_copy(tried) -> None:
    assert "slow" in experiments(tried)
    assert tried.run(["git", "status", "--short"]).stdout == ""
    # its runs are in the one store of the repository, under its name
    assert mlflow_runs(tried)["slow"] == {*MAML, "compare"}


def queue_status(clone: Clone, until: Callable[[str], bool], names: set[str]) -> str:
    """What ``dvc queue status`` says once that is as it should be; fails with all there is to read when it never is."""
    last = time.monotonic() + QUEUE_S
    while not until(status := clone.run(["dvc", "queue", "status"]).stdout):
        if time.monotonic() > last:
            told = [f"after {QUEUE_S} s:\n{status}"]
            for name in sorted(names):
                told += clone.run(["dvc", "queue", "logs", name], ok=False).stdout[-2000:].splitlines()
            for file in sorted((clone.folder / ".dvc/tmp/exps/celery").glob("dvc-exp-worker-*.out")):
                told += [file.name, file.read_text()[-3000:]]
            pytest.fail("\n".join(told))
        time.sleep(1)
    return status


def test_a_grid_in_the_queue_on_two_workers(tried) -> None:
    # 0.1 and 0.2 are in the run-cache by now: the grid trains nothing, and makes no runs of training
    queued = tried.run(["dvc", "exp", "run", "--queue", "-S", "maml.inner_lr=0.1,0.2"]).stdout
    names = {line.split("'")[1] for line in queued.splitlines() if line.startswith("Queued experiment")}
    assert len(names) == 2
    try:
        tried.run(["dvc", "queue", "start"])  # two first workers at once can overwrite each other's entry in the broker
        queue_status(tried, lambda status: "0 active, 0 idle" not in status or status.count("Success") == 2, names)
        tried.run(["dvc", "queue", "start", "-j", "2"])
        status = queue_status(tried, lambda status: "Queued" not in status and "Running" not in status, names)
    finally:
        tried.run(["dvc", "queue", "stop", "--kill"], ok=False)
        end(tried.processes())
    assert status.count("Success") == 2, status
    logs = [tried.run(["dvc", "queue", "logs", name]).stdout for name in names]
    assert sorted("Running stage 'compare'" in log for log in logs) == [False, True]  # 0.1 is what was there
    assert experiments(tried) >= names
    told = mlflow_runs(tried)  # with 0.1 all is as it was: an execution that runs no stage is no run
    assert [told[name] for name in names if name in told] == [{"compare"}]
    tried.run(["dvc", "queue", "remove", "--all"])
    assert "No experiment tasks" in tried.run(["dvc", "queue", "status"]).stdout


def test_another_seed_is_one_line_and_the_leaderboard_shows_mean_and_interval_over_seeds(tried) -> None:
    tried.run(["dvc", "exp", "run", "--temp", "--name", "seeds", "-S", "cells.few_shot_seeds=[0,1]"])
    assert mlflow_runs(tried)["seeds"] == SECOND_SEED | {"compare"}
    tried.run(["dvc", "exp", "branch", "seeds", "seeds-branch"])
    kept = {
        name: tried.run(["git", "show", f"seeds-branch:metrics/{name}"]).stdout
        for name in ("comparison.csv", "leaderboard.md")
    }
    table = pd.read_csv(io.StringIO(kept["comparison.csv"]))
    rows = table[(table["method"] == "prototypes") & (table["protocol"] == "lake/5w1s")]
    assert list(rows["seed"]) == [0, 1]
    mean, low, high = intervals.seed_interval(rows["value"].tolist())
    assert (
        f"| prototypes | 8-16-32-64-pool | lake/5w1s | no | **{mean:.1%}** [{low:.1%}, {high:.1%}] | 2 |"
        in kept["leaderboard.md"]
    )


def test_experiments_are_compared(tried) -> None:
    diff = json.loads(tried.run(["dvc", "exp", "diff", "HEAD", "slow", "--json"]).stdout)
    assert diff["params"] == {"params.yaml": {"maml.inner_lr": {"old": 0.1, "new": 0.2, "diff": pytest.approx(0.1)}}}
    assert [key for key in diff["metrics"]["metrics/summary.json"] if "maml" in key]
    assert not [key for key in diff["metrics"]["metrics/summary.json"] if "prototypes" in key]
    assert "maml.inner_lr" in tried.run(["dvc", "params", "diff", "HEAD", "slow"]).stdout
    assert "maml" in tried.run(["dvc", "metrics", "diff", "HEAD", "slow"]).stdout
    tried.run(["dvc", "plots", "diff", "HEAD", "slow", "--out", "difference"])
    assert (tried.folder / "difference" / "index.html").exists()
    shutil.rmtree(tried.folder / "difference")


def show_command() -> str:
    """What ``make show`` runs."""
    recipe = next(line for line in (ROOT / "Makefile").read_text().splitlines() if line.startswith("\tdvc exp show"))
    return recipe.strip().replace("$$", "$")


def test_the_table_of_experiments_has_a_handful_of_columns(tried) -> None:
    shown = tried.run(["sh", "-c", f"{show_command()} --md"]).stdout
    columns = [name.strip() for name in shown.splitlines()[0].strip("|").split("|")]
    assert columns[0] == "Experiment"
    assert "few-shot.maml.lake/5w1s" in columns
    assert "maml.inner_lr" in columns
    assert len(columns) <= 5


def test_of_the_default_cells_it_has_one_protocol_a_family() -> None:
    drop = re.search(r"--drop '(.*)'", show_command())
    assert drop
    summary = json.loads((ROOT / "metrics" / "summary.json").read_text())
    for family, methods in summary.items():
        shown = {
            method: [name for name in numbers if not re.match(drop[1], f"{family}.{method}.{name}")]
            for method, numbers in methods.items()
        }
        assert {len(names) for method, names in shown.items() if not method.endswith("-transductive")} == {1}
        assert not any(names for method, names in shown.items() if method.endswith("-transductive"))
        assert len({name for names in shown.values() for name in names}) == 1


def test_an_experiment_is_applied_and_becomes_a_branch(tried) -> None:
    tried.run(["dvc", "exp", "branch", "slow", "slow-branch"])
    assert "slow-branch" in tried.run(["git", "branch"]).stdout
    tried.run(["dvc", "exp", "apply", "slow"])
    assert "inner_lr: 0.2" in (tried.folder / "params.yaml").read_text()
    assert "up to date" in tried.run(["dvc", "repro"]).stdout
    tried.run(["git", "checkout", "-q", "--", "."])
    tried.run(["dvc", "checkout", "-q"])


def test_a_fresh_clone_pulls_from_the_remote_and_runs_nothing(repo, tmp_path) -> None:
    repo.run(["dvc", "remote", "add", "--local", "--default", "store", str(tmp_path / "remote")])
    repo.run(["dvc", "push"])
    fresh = tmp_path / "fresh"
    repo.run(["git", "clone", "-q", ".", str(fresh)])
    in_fresh = Clone.__new__(Clone)
    in_fresh.folder = Path(fresh)
    in_fresh.run(["dvc", "remote", "add", "--local", "--default", "store", str(tmp_path / "remote")])
    in_fresh.run(["dvc", "pull"])
    assert stages_of(in_fresh.run(["dvc", "repro"]).stdout) == set()


@pytest.mark.parametrize("where", [[], ["--temp"]])
def test_an_experiment_of_chosen_stages_in_a_fresh_clone_is_kept(tmp_path: Path, where: list[str]) -> None:
    """dvc.lock names outputs that the clone's cache does not have; DVC reads plots and metrics at the end."""
    with Clone(tmp_path / "fresh").alone() as clone:
        shutil.copy2(ROOT / "dvc.lock", clone.folder)
        commit(clone, "as cloned")
        clone.run(["dvc", "exp", "run", *where, "-n", "chosen", "-S", "data.source=embedded", "download@hymenoptera"])
        assert experiments(clone) == {"chosen"}
