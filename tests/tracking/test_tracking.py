"""A stage's run is made from its files; a store that is down costs a warning; what is missing there is sent later."""

import os
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fewlabel import tracking
from fewlabel.tracking import execution, models, store
from fewlabel.tracking import send as sending
from tests.tracking.conftest import client_of, result, runs

NO_STORE = "sqlite:////dev/null/none"


def test_no_point_is_lost_between_the_threads(repo, monkeypatch) -> None:
    monkeypatch.setenv("DVC_STAGE", "meta_train@maml-lake-5w1s-0")
    with tracking.start("meta_train", {"inner_lr": 0.4, "nested": {"a": 1}}) as run:
        for step in range(1200):
            run.log(step, loss=1 / (step + 1), train_accuracy=0.5)
    (found,) = runs(repo)
    assert (found.info.run_name, found.info.status) == ("meta_train@maml-lake-5w1s-0", "FINISHED")
    assert found.data.params == {"inner_lr": "0.4", "nested.a": "1"}
    history = client_of(repo).get_metric_history(found.info.run_id, "loss")
    assert sorted(point.step for point in history) == list(range(1200))
    assert found.data.metrics["accuracy"] == 0.5  # the same name in every method


def test_the_stage_does_not_wait_for_mlflow(repo, monkeypatch) -> None:
    monkeypatch.setattr(tracking, "END_S", 0.2)
    monkeypatch.setattr(tracking.Store, "__init__", lambda self, root: time.sleep(1))
    began = time.monotonic()
    with tracking.start("prepare", {}) as run:
        run.log(0, loss=1.0)
    assert 0.2 <= time.monotonic() - began < 0.9


@pytest.mark.parametrize(("error", "status"), [(ZeroDivisionError, "FAILED"), (KeyboardInterrupt, "KILLED")])
def test_a_stage_that_fails_keeps_its_error_and_publishes_nothing(repo, error, status) -> None:
    with pytest.raises(error), tracking.start("evaluate", {}, result("results/evaluate/maml", [{}])):
        raise error
    (found,) = runs(repo)
    assert (found.info.status, found.data.metrics) == (status, {})


def test_stages_of_one_execution_share_its_run(repo, monkeypatch) -> None:
    monkeypatch.setenv("DVC_EXP_NAME", "slow")
    text = Path("params.yaml").read_text()
    Path("params.yaml").write_text(text.replace("budget: cpu", "budget: smoke").replace("official  ", "embedded  "))
    for stage in ("episodes@lake", "prepare"):
        with tracking.start(stage, {}):
            pass
    with pytest.raises(ValueError, match="no"), tracking.start("compare", {}):
        raise ValueError("no")
    (parent,) = runs(repo, "tags.`fewlabel.stage` = 'pipeline'")
    children = runs(repo, f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'")
    assert [child.info.run_name for child in children] == ["episodes@lake", "prepare", "compare"]
    assert (parent.info.run_name, parent.info.status) == ("slow", "FAILED")
    tags = {"budget": "smoke", "origin": "embedded", "fewlabel.failed_stage": "compare", "dvc.experiment": "slow"}
    assert tags.items() <= parent.data.tags.items()
    assert parent.data.params["maml.meta_batch"] == "4"  # as the budget resolves it
    assert [file.path for file in client_of(repo).list_artifacts(parent.info.run_id)] == ["dvc.yaml", "params.yaml"]


@pytest.mark.parametrize(
    ("command", "dvc"),
    [
        ("dvc repro", True),
        ("/venv/bin/python3 /venv/bin/dvc repro", True),
        ("python -m dvc exp run", True),
        ("screen -S dvc", False),
        ("python train.py dvc", False),
        ("", False),
    ],
)
def test_dvc_is_a_program_or_its_script_and_no_other_word(command, dvc) -> None:
    assert execution.runs_dvc(command.split()) == dvc


def test_the_process_of_dvc_names_the_execution(repo, monkeypatch) -> None:
    this = execution.psutil.Process()
    monkeypatch.setattr(execution.psutil.Process, "parents", lambda self: [this])
    monkeypatch.setattr(execution, "runs_dvc", lambda command: True)
    first, second = execution.execution(), execution.execution()
    assert first[0] == second[0]
    assert first[0].split("-")[-2] == str(os.getpid())
    assert first[1].startswith("repro-")


def test_a_run_has_what_the_files_say(repo) -> None:
    Path("data/episodes/lake").mkdir(parents=True)
    Path("data/episodes/lake/data.npz").write_bytes(b"images")
    result("results/meta_train/maml-lake-5w1s-0", seconds=300.0)
    tests = [("lake/5w1s", True, 0.75), ("lake/5w1s", False, 0.5), ("lake-within/5w1s", False, 0.25)]
    rows = [{"protocol": protocol, "transductive": mode, "value": value} for protocol, mode, value in tests]
    about = {"data": "data/episodes/lake/data.npz", "after": ["results/meta_train/maml-lake-5w1s-0"], "tests": True}
    folder = result("results/evaluate/maml-lake-5w1s-0", rows, about=about, peak_memory_mib=900)
    (folder / "picture.png").write_bytes(b"picture")
    with tracking.start("evaluate", {}, folder):
        pass
    (found,) = runs(repo)
    assert found.data.metrics == {
        "test_accuracy": 0.5,  # as of a method that looks at one query at a time
        "test_accuracy_low": 0.25,
        "test_accuracy_high": 1.0,
        "test_accuracy_transductive": 0.75,
        "test_accuracy_transductive_low": 0.25,
        "test_accuracy_transductive_high": 1.0,
        "test_accuracy_5w1s": 0.5,
        "test_accuracy_5w1s_transductive": 0.75,
        "test_accuracy_within-5w1s": 0.25,
        "test_seconds": 2.5,
        "train_seconds": 300.0,
        "peak_memory_mib": 900.0,
    }
    tags = {"method": "maml", "protocol": "lake/5w1s", "seed": "0", "origin": "embedded", "device": "a computer"}
    assert tags.items() <= found.data.tags.items()
    (taken,) = found.inputs.dataset_inputs
    md5 = subprocess.run(["md5sum", about["data"]], capture_output=True, text=True).stdout.split()[0]
    assert (taken.dataset.name, taken.dataset.digest) == ("lake-embedded", md5)
    assert "picture.png" in [file.path for file in client_of(repo).list_artifacts(found.info.run_id)]


@pytest.mark.parametrize(
    ("stage", "names"),
    [("finetune", {"loss", "curve_test_accuracy"}), ("pretrain", {"loss", "curve_pretraining_accuracy"})],
)
def test_a_curve_on_some_test_images_and_another_task_have_names_of_their_own(repo, stage, names) -> None:
    with tracking.start(stage, {}) as run:
        run.log(1, train_loss=1.0, test_accuracy=0.5)
    assert set(runs(repo)[0].data.metrics) == names


def send(**environment: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "fewlabel.tracking.send"]
    source = str(Path(tracking.__file__).parents[2])
    everything = os.environ | environment | {"PYTHONPATH": source}
    return subprocess.run(command, capture_output=True, text=True, env=everything)


def test_what_a_store_missed_is_sent_once(repo, monkeypatch, capsys) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", NO_STORE)
    about = {"settings": {"lr": 0.1}}
    folder = result("results/finetune/scratch-20-0", [{"protocol": "cifar10/20", "value": 0.5}], about=about)
    (folder / "curve.csv").write_text("step,train_loss,test_loss\n1,0.5,\n2,0.25,1\n")
    with tracking.start("finetune", {"lr": 0.1}, folder):
        pass
    out = capsys.readouterr().out
    assert out.count("warning: the run is not whole in MLflow (") == out.count("\n") == 1
    refused = send()
    assert (refused.returncode, refused.stderr.count("\n")) == (1, 1)
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    for lines in (["results/finetune/scratch-20-0: sent"], []):
        assert send().stdout.splitlines() == lines
    (found,) = runs(repo)
    assert (found.info.run_name, found.info.status) == ("finetune@scratch-20-0", "FINISHED")
    assert found.data.params == {"lr": "0.1"}
    assert found.data.metrics["test_accuracy"] == 0.5
    history = client_of(repo).get_metric_history(found.info.run_id, "loss")
    assert [(point.step, point.value) for point in history] == [(1, 0.5), (2, 0.25)]


def test_what_a_stage_published_is_not_sent_again(repo) -> None:
    with tracking.start("finetune", {}, result("results/finetune/scratch-20-0", [{"protocol": "a/b", "value": 0.5}])):
        pass
    sending.send(tracking.Store(repo))
    assert len(runs(repo)) == 1


def test_a_store_that_dies_half_way_costs_one_warning(repo, monkeypatch, capsys) -> None:
    log_curve = sending.log_curve

    def rename(table: str, name: str) -> None:
        with sqlite3.connect(repo / "mlflow.db") as db:
            db.execute(f"ALTER TABLE {table} RENAME TO {name}")

    def break_first(*arguments: object) -> None:  # the run is open by then
        rename("metrics", "gone")
        log_curve(*arguments)

    folder = result("results/finetune/scratch-20-0", [{"protocol": "a/b", "value": 0.5}])
    monkeypatch.setattr(sending, "log_curve", break_first)
    with tracking.start("finetune", {}, folder) as run:
        run.log(0, loss=1.0)
    assert capsys.readouterr().out.count("warning: ") == 1
    rename("gone", "metrics")
    sending.send(tracking.Store(repo))
    assert [run.data.metrics["test_accuracy"] for run in runs(repo, "tags.`fewlabel.result` != ''")] == [0.5]


def test_a_damaged_result_holds_up_no_other(repo, capsys) -> None:
    for name in ("scratch-20-0", "scratch-20-1", "scratch-20-2"):
        result(f"results/finetune/{name}", [{"protocol": "a/b", "value": 0.5}])
    Path("results/finetune/scratch-20-1/metrics.json").write_text("{")
    assert sending.send(tracking.Store(repo)) == 1
    assert "scratch-20-1: not sent: results/finetune/scratch-20-1/metrics.json: damaged (" in capsys.readouterr().out
    assert {run.info.run_name for run in runs(repo)} == {"finetune@scratch-20-0", "finetune@scratch-20-2"}


def test_a_deleted_experiment_is_called_deleted(repo, capsys) -> None:
    client = client_of(repo)
    number = client.create_experiment(tracking.EXPERIMENT)
    client.delete_experiment(number)
    with tracking.start("prepare", {}):
        pass
    assert f"is deleted in MLflow: `mlflow experiments restore --experiment-id {number}`" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("uri", "used"),
    [
        (None, "sqlite:////repo/mlflow.db"),
        ("sqlite:///runs/x.db", "sqlite:////repo/runs/x.db"),
        ("sqlite:////elsewhere/x.db", "sqlite:////elsewhere/x.db"),
        ("http://host:5000", "http://host:5000"),
        ("postgresql://user@host/x", "postgresql://user@host/x"),
    ],
)
def test_a_relative_store_is_relative_to_the_repository(uri, used, monkeypatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    if uri:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    assert store.address(Path("/repo")) == used


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("http://me:qx%2Fzj@h:1/x", "password qx/zj of http://me:qx%2Fzj@h:1/x is wrong"),
        ("http://me:qxzj/x@h:1", "invalid literal for int() with base 10: 'qxzj'"),
        ("postgresql://h/db?user=me&password=qxzj", "no password qxzj"),
        ("", "the proxy http://me:qxzj@h refuses"),
    ],
)
def test_no_message_holds_a_password(uri, said, monkeypatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    assert "q" not in store.explain(ValueError(said))


def test_processes_that_create_a_store_at_once_do_not_crash(repo, root) -> None:
    (repo / "mlflow.db").unlink()
    code = "from fewlabel import tracking\nwith tracking.start('prepare', {}) as run: run.log(0, loss=1.0)\n"
    environment = os.environ | {"PYTHONPATH": str(root / "src")}
    command = [sys.executable, "-c", code]
    started = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) for _ in range(3)]
    assert [process.communicate()[0] for process in started] == [""] * 3
    assert [run.data.metrics for run in runs(repo)] == [{"loss": 1.0}] * 3


def test_off_means_off_and_mlflow_is_not_imported_for_it(repo, root) -> None:
    (repo / "mlflow.db").unlink()
    code = (
        "import sys; from fewlabel import tracking\n"
        "with tracking.start('prepare', {}) as run: run.log(0, loss=1.0)\n"
        "assert 'mlflow' not in sys.modules"
    )
    environment = os.environ | {"PYTHONPATH": str(root / "src"), "FEWLABEL_TRACKING": "off"}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)
    assert not (repo / "mlflow.db").exists()


@pytest.mark.parametrize(
    ("new", "old", "takes"),
    [
        ({}, {"value": "0.4"}, True),
        ({}, {"value": "0.6"}, False),
        ({}, {"value": "0.4", "protocol": "vinyals-validation/5w1s"}, False),
        ({}, {"value": "0.9", "origin": "embedded", "budget": "gpu"}, True),
        ({"origin": "embedded", "budget": "gpu"}, {"value": "0.1"}, False),
        ({}, {"value": "0.9", "budget": "smoke", "protocol": "vinyals-validation/5w1s"}, True),
        ({"budget": "smoke"}, {"value": "0.1"}, False),
    ],
)
def test_no_smoke_run_takes_the_alias_from_a_real_result(new, old, takes) -> None:
    facts = {"value": "0.5", "protocol": "lake-validation/5w1s", "origin": "archive", "budget": "cpu"}
    assert models.better(facts | new, facts | old) == takes
