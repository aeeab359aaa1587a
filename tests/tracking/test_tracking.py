"""Tracking: one child run a stage under one parent an execution; a broken store costs a warning, not a result."""

import contextlib
import errno
import io
import json
import os
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import mlflow.pyfunc
import numpy as np
import pytest
import torch
from mlflow import MlflowClient
from safetensors.torch import save_file

from fewlabel import tracking
from fewlabel.fewshot.episodes import as_float
from fewlabel.fewshot.methods import base
from fewlabel.networks import resnet
from fewlabel.networks.classifier import Classifier, linear_head
from fewlabel.params import Prototypes
from fewlabel.tracking import store as mlflow_store
from fewlabel.training import augment
from fewlabel.training import loop as supervised

SETTINGS = {
    "width": 8,
    "downsample": "stride",
    "way": 5,
    "shot": 1,
    "queries": 5,
    "lr": 0.001,
    "iterations": 1,
    "validate_every": 1,
    "checkpoint_every": 1,
    "patience": None,
}


@pytest.fixture(scope="module")
def migrated(tmp_path_factory) -> Path:
    """An empty store; making one takes seconds."""
    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    MlflowClient(tracking_uri=f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def fresh(tmp_path, monkeypatch) -> str:
    """No store yet, in a repository without DVC."""
    monkeypatch.delenv("FEWLABEL_TRACKING", raising=False)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    monkeypatch.setattr(tracking, "_dvc_process", lambda: None)
    monkeypatch.chdir(tmp_path)
    return f"sqlite:///{tmp_path / 'mlflow.db'}"


@pytest.fixture
def store(fresh, migrated, tmp_path) -> str:
    shutil.copy(migrated, tmp_path / "mlflow.db")
    return fresh


def runs(uri: str):
    client = MlflowClient(tracking_uri=uri)
    return client.search_runs([client.get_experiment_by_name(tracking.EXPERIMENT).experiment_id]), client


def spooled(root: Path) -> list[Path]:
    return sorted((root / ".tracking_spool").glob("*.jsonl"))


def trained(folder: Path) -> base.Method:
    """A folder as the stage ``metric_train`` leaves it, and the network in it."""
    method = base.create("prototypes", Prototypes(**SETTINGS), base.Problem(5, 1, 9), torch.device("cpu"), seed=1)
    folder.mkdir(parents=True)
    save_file(
        {name: value.contiguous() for name, value in method.model.state_dict().items()}, folder / "model.safetensors"
    )
    (folder / "run.json").write_text(json.dumps({"device": "a computer", "seconds": 2.5, "torch": "2.0"}))
    return method


def test_a_stage_run_holds_its_params_curve_and_status(store, monkeypatch) -> None:
    monkeypatch.setenv("DVC_STAGE", "meta_train@maml-lake-5w1s-0")
    with tracking.start("meta_train", {"inner_lr": 0.4, "nested": {"a": 1}}) as run:
        for step in range(1200):
            run.log(step, loss=1 / (step + 1))
    found, client = runs(store)
    assert [r.info.run_name for r in found] == ["meta_train@maml-lake-5w1s-0"]
    assert found[0].info.status == "FINISHED"
    assert found[0].data.params == {"inner_lr": "0.4", "nested.a": "1"}
    history = client.get_metric_history(found[0].info.run_id, "loss")
    assert {m.step for m in history} == set(range(1200))


def test_stages_of_one_execution_share_a_parent(store, monkeypatch) -> None:
    monkeypatch.setattr(tracking, "_dvc_process", lambda: "here-1-2.00")
    monkeypatch.setenv("DVC_EXP_NAME", "big-inner-lr")
    monkeypatch.setenv("DVC_EXP_BASELINE_REV", "abc")
    Path("params.yaml").write_text("budget: smoke\n")
    for stage in ("episodes", "compare"):
        with tracking.start(stage, {}):
            pass
    found, client = runs(store)
    parent = [r for r in found if r.info.run_name == "big-inner-lr"]
    assert len(found) == 3
    assert len(parent) == 1
    children = [r for r in found if r.data.tags.get("mlflow.parentRunId") == parent[0].info.run_id]
    assert sorted(r.info.run_name for r in children) == ["compare", "episodes"]
    for run in found:
        assert run.data.tags["dvc.experiment"] == "big-inner-lr"
        assert run.data.tags["dvc.baseline"] == "abc"
        assert len(run.data.tags["params.digest"]) == 16
    assert [file.path for file in client.list_artifacts(parent[0].info.run_id)] == ["params.yaml"]


def test_an_execution_has_all_parameters_its_budget_and_its_origin(store, monkeypatch, root) -> None:
    monkeypatch.setattr(tracking, "_dvc_process", lambda: "here-1-2.00")
    text = (root / "params.yaml").read_text()
    Path("params.yaml").write_text(text.replace("budget: cpu", "budget: smoke").replace("official  ", "embedded  "))
    with tracking.start("episodes", {}):
        pass
    found, _ = runs(store)
    (parent,) = [run for run in found if "mlflow.parentRunId" not in run.data.tags]
    assert (parent.data.tags["budget"], parent.data.tags["origin"]) == ("smoke", "embedded")
    told = parent.data.params
    assert (told["maml.inner_lr"], told["maml.meta_batch"], told["cells.tasks"]) == ("0.4", "4", "['5w1s', '5w5s']")
    assert len(told) > 100  # more than MLflow takes at once
    assert re.fullmatch(r"repro-no-commit-\d{8}-\d{6}", parent.info.run_name)


def test_git_is_asked_about_the_tree_that_the_stage_runs_in(store, tmp_path, monkeypatch) -> None:
    """As in the queue and with --temp, where `DVC_ROOT` is the repository that the copy was made from."""
    copy = tmp_path / ".dvc" / "tmp" / "exps" / "copy"
    for folder in (tmp_path, copy):
        folder.mkdir(parents=True, exist_ok=True)
        monkeypatch.chdir(folder)
        for command in ("init -q", "config user.name t", "config user.email t@t", "config commit.gpgsign false"):
            subprocess.run(["git", *command.split()], check=True)
        Path("file").write_text(str(folder))
        subprocess.run(["git", "add", "file"], check=True)
        subprocess.run(["git", "commit", "-qm", "one"], check=True)
    (tmp_path / "file").write_text("changed since")
    with tracking.start("episodes", {}):
        pass
    found, _ = runs(store)
    head = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
    assert (found[0].data.tags["git.commit"], found[0].data.tags["git.dirty"]) == (head, "false")


def test_a_summary_stands_with_the_execution(store, monkeypatch) -> None:
    monkeypatch.setattr(tracking, "_dvc_process", lambda: "here-1-2.00")
    with tracking.start("compare", {}) as run:
        run.summary({"few-shot": {"maml": {"lake/5w1s": 0.5, "lake/5w5s": 0.75}, "maml++": {"lake/5w1s": 0.25}}})
    found, client = runs(store)
    (parent,) = [run for run in found if "mlflow.parentRunId" not in run.data.tags]
    other = "few-shot.mamlpp.lake/5w1s"  # MLflow refuses a "+"
    assert parent.data.metrics == {"few-shot.maml.lake/5w1s": 0.5, "few-shot.maml.lake/5w5s": 0.75, other: 0.25}
    tags = client.get_experiment(parent.info.experiment_id).tags
    view = json.loads(tags["mlflow.sharedViewState.experiments"])  # one column a method
    assert view["selectedColumns"][-2:] == ["metrics.`few-shot.maml.lake/5w1s`", f"metrics.`{other}`"]
    assert {"tags.`budget`", "tags.`origin`", "params.`maml.inner_lr`"} <= set(view["selectedColumns"])


def test_the_next_execution_has_a_parent_of_its_own(store, monkeypatch) -> None:
    for process in ("here-1-2.00", "here-9-8.00"):
        monkeypatch.setattr(tracking, "_dvc_process", lambda process=process: process)
        with tracking.start("compare", {}):
            pass
    found, _ = runs(store)
    assert len({run.data.tags.get("mlflow.parentRunId") for run in found} - {None}) == 2


def test_a_failing_stage_ends_failed_and_raises(store) -> None:
    with pytest.raises(ZeroDivisionError), tracking.start("episodes", {}):
        raise ZeroDivisionError
    found, _ = runs(store)
    assert [r.info.status for r in found] == ["FAILED"]


def test_metrics_are_called_the_same_in_every_method(store) -> None:
    with tracking.start("finetune", {}) as run:
        run.log(1, train_loss=0.5, train_accuracy=0.4)
    with tracking.start("meta_train", {}) as run:
        run.log(1, loss=0.5, accuracy=0.4)
    found, _ = runs(store)
    assert [set(run.data.metrics) for run in found] == [{"loss", "accuracy"}] * 2


def test_the_data_set_is_an_input_with_its_digest(store, root) -> None:
    Path("dvc.yaml").write_text((root / "dvc.yaml").read_text())
    Path("data/episodes/lake").mkdir(parents=True)
    np.savez("data/episodes/lake/data.npz", origin="embedded")
    with tracking.start("meta_train@maml-lake-5w1s-0", {}):
        pass
    found, _ = runs(store)
    (taken,) = found[0].inputs.dataset_inputs
    md5 = subprocess.run(["md5sum", "data/episodes/lake/data.npz"], capture_output=True, text=True).stdout.split()[0]
    assert (taken.dataset.name, taken.dataset.digest) == ("lake-embedded", md5)
    assert [(tag.key, tag.value) for tag in taken.tags] == [("mlflow.data.context", "training")]


def measured(folder: str, rows: list[dict], **facts: object) -> Path:
    """A folder of results as a stage leaves it."""
    made = Path(folder)
    made.mkdir(parents=True)
    common = {"seed": 0, "metric": "accuracy", "transductive": False, "budget": "smoke"}
    numbers = [common | {"ci95_low": row["value"] - 0.1, "ci95_high": row["value"] + 0.1} | row for row in rows]
    (made / "metrics.json").write_text(json.dumps({"origin": "embedded", "rows": numbers}))
    (made / "run.json").write_text(json.dumps(facts))
    return made


def test_numbers_of_the_results_are_metrics_and_tags(store) -> None:
    common = {"family": "few-shot", "method": "maml"}
    rows = [
        common | {"protocol": f"lake/{task}", "transductive": transductive, "value": value}
        for task, transductive, value in (
            ("5w1s", True, 0.75),
            ("5w1s", False, 0.5),
            ("20w1s", True, 0.375),
            ("20w1s", False, 0.25),
        )
    ]
    measured("results/meta_train/maml-lake-0", [{"value": 0}], seconds=300.0)
    folder = measured(
        "results/evaluate/maml-lake-0", rows, device="a computer", seconds=2.5, torch="2.0", peak_memory_mib=900
    )
    with tracking.start("evaluate", {}):
        tracking.outputs(folder)
    found, _ = runs(store)
    tags = found[0].data.tags
    assert found[0].data.metrics == pytest.approx(
        {
            "test_accuracy": 0.5,  # as of a method that looks at one query at a time
            "test_accuracy_low": 0.4,
            "test_accuracy_high": 0.6,
            "test_accuracy_transductive": 0.75,
            "test_accuracy_transductive_low": 0.65,
            "test_accuracy_transductive_high": 0.85,
            "test_accuracy_5w1s": 0.5,
            "test_accuracy_5w1s_transductive": 0.75,
            "test_accuracy_20w1s": 0.25,
            "test_accuracy_20w1s_transductive": 0.375,
            "test_seconds": 2.5,
            "train_seconds": 300.0,
            "peak_memory_mib": 900.0,
        }
    )
    assert (tags["method"], tags["protocol"], tags["device"]) == ("maml", "lake/5w1s", "a computer")
    assert (tags["origin"], tags["torch"]) == ("embedded", "2.0")


def test_a_result_is_not_the_last_point_of_a_curve_on_fewer_images(store) -> None:
    rows = [{"family": "label-efficiency", "method": "scratch", "protocol": "cifar10/20-per-class", "value": 0.5}]
    with tracking.start("finetune", {"start": "scratch"}) as run:
        for step in (2, 4):
            run.log(step, epoch=step, train_loss=2.0, train_accuracy=0.25, test_loss=1.5, test_accuracy=0.75)
        tracking.outputs(measured("results/finetune/scratch-20-0", rows))
    found, client = runs(store)
    assert found[0].data.metrics["test_accuracy"] == 0.5
    assert found[0].data.metrics["curve_test_accuracy"] == 0.75
    assert len(client.get_metric_history(found[0].info.run_id, "test_accuracy")) == 1


def test_which_rotation_is_another_question_than_which_class(store) -> None:
    row = {"family": "label-efficiency", "method": "rotation", "metric": "rotation_accuracy", "value": 0.5}
    with tracking.start("pretrain_rotation", {}) as run:
        run.log(4, train_loss=1.0, train_accuracy=0.25, test_loss=1.5, test_accuracy=0.75)
        tracking.outputs(measured("results/pretrain_rotation", [row | {"protocol": "cifar10/which-rotation"}]))
    found, _ = runs(store)
    numbers = {"rotation_accuracy", "rotation_accuracy_low", "rotation_accuracy_high"}
    assert set(found[0].data.metrics) == numbers | {
        "loss",
        "accuracy",
        "curve_rotation_loss",
        "curve_rotation_accuracy",
    }
    assert found[0].data.metrics["rotation_accuracy"] == 0.5


@pytest.mark.parametrize(
    ("cell", "before", "seconds"),
    [
        ("finetune/rotation-frozen-last-20-0", "pretrain_rotation", 130.0),
        ("finetune/scratch-20-0", "pretrain_rotation", 30.0),
        ("transfer/frozen-0", "transfer_features", 130.0),
        ("transfer/frozen-0", "elsewhere", None),
    ],
)
def test_the_seconds_of_a_training_are_those_of_all_behind_it(store, cell, before, seconds) -> None:
    row = {"family": "any", "method": "any", "protocol": "any/any", "value": 0.5}
    measured(f"results/{before}", [row], seconds=100.0)
    with tracking.start("finetune", {"start": "any"}):
        tracking.outputs(measured(f"results/{cell}", [row], seconds=30.0))
    found, _ = runs(store)
    assert found[0].data.metrics["stage_seconds"] == 30.0
    assert found[0].data.metrics.get("train_seconds") == seconds


def test_the_model_is_served_without_pickle(store, tmp_path) -> None:
    folder = Path("results/metric_train/prototypes-lake-0")
    with tracking.start("metric_train", SETTINGS):
        method = trained(folder)
        tracking.outputs(folder)
    found, client = runs(store)
    (output,) = found[0].outputs.model_outputs
    assert not list(tmp_path.rglob("*.pkl"))
    model = mlflow.pyfunc.load_model(client.get_logged_model(output.model_id).artifact_location)
    assert model.metadata.signature.inputs.to_dict()[0]["tensor-spec"] == {"dtype": "uint8", "shape": (-1, 1, 28, 28)}
    images = np.random.default_rng(0).integers(0, 256, (3 * 2 + 4, 1, 28, 28), dtype=np.uint8)
    served = model.predict(images, params={"way": 3, "shot": 2})
    with torch.no_grad():
        embedded = method.embed(as_float(torch.from_numpy(images)))
        centres = embedded[:6].view(3, 2, -1).mean(1)
        expected = (-torch.cdist(embedded[6:], centres).square()).softmax(1)
    np.testing.assert_allclose(served, expected.numpy(), rtol=1e-3, atol=1e-5)
    assert model.predict(model.input_example).shape == (1, 5)


def test_a_head_on_a_frozen_backbone_is_served_with_it(store, tmp_path, monkeypatch) -> None:
    """Also when the store was down, and neither file is there any more when it is back."""
    backbone, settings = resnet.resnet18("imagenet", seed=1), {"start": "rotation-frozen-early"}
    first = resnet.resnet18("imagenet", seed=1, blocks=1, grid=4)
    head = torch.nn.Sequential(torch.nn.BatchNorm1d(1024, affine=False), linear_head(1024, 10, seed=2))
    folder, pretrained = Path("results/finetune/rotation-frozen-early-20-0"), Path("results/pretrain_rotation")
    for path in (folder, pretrained):
        path.mkdir(parents=True)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:////dev/null/none")
    with tracking.start("finetune", settings | {"frozen_blocks": 1, "grid": 4}):
        resnet.save(backbone, "imagenet", pretrained / "backbone.safetensors")
        save_file(supervised.tensors(head), folder / "model.safetensors")
        tracking.outputs(folder)
    shutil.rmtree("results")
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert tracking.send(tmp_path) == 0
    found, client = runs(store)
    (output,) = found[0].outputs.model_outputs
    model = mlflow.pyfunc.load_model(client.get_logged_model(output.model_id).artifact_location)
    images = np.random.default_rng(0).integers(0, 256, (3, 3, 32, 32), dtype=np.uint8)
    network = Classifier(first, head, frozen=True).eval()
    with torch.no_grad():
        expected = network(augment.to_float(torch.from_numpy(images))).softmax(1)
    np.testing.assert_allclose(model.predict(images), expected.numpy(), rtol=1e-5)
    sizes = [path.stat().st_size for path in tmp_path.glob("mlartifacts/**/model.safetensors")]
    assert len(sizes) == 1
    assert sizes[0] < 2**20  # without the blocks that it has no use for


def test_the_best_of_a_family_carries_the_alias(store, tmp_path, monkeypatch) -> None:
    folders = [tmp_path / f"results/metric_train/prototypes-lake-{seed}" for seed in (0, 1)]
    for folder in folders:
        with tracking.start("metric_train", SETTINGS):
            trained(folder)
            with (folder / "model.safetensors").open("ab") as file:
                file.write(folder.name.encode())  # two models
            tracking.outputs(folder)
    (tmp_path / "copy").mkdir()
    monkeypatch.chdir(tmp_path / "copy")  # as dvc exp run --temp does: another place than the store's
    facts = {"protocol": "lake/5w1s", "origin": "archive", "budget": "cpu"}
    for folder, value in ((folders[0], 0.5), (folders[1], 0.75), (folders[0], 0.625), (folders[1], 0.75)):
        with tracking.start("compare", {}) as run:
            run.best("few-shot", folder, value=value, **facts)
    found, client = runs(store)
    version = client.get_model_version_by_alias("fewlabel-few-shot", "best")
    models = client.search_logged_models([found[0].info.experiment_id])
    assert {model.artifact_location: model.name for model in models}[version.source] == "prototypes-lake-1"
    assert version.description == "the highest test accuracy: 75.0% on lake/5w1s"
    assert version.tags == facts | {"value": "0.75"}
    assert len(client.search_model_versions("name = 'fewlabel-few-shot'")) == 2


@pytest.mark.parametrize(
    ("new", "old", "takes"),
    [
        ({}, {"value": "0.4"}, True),
        ({}, {"value": "0.6"}, False),
        ({}, {"value": "0.5"}, False),
        ({}, {"value": "0.4", "protocol": "vinyals/5w1s"}, False),
        ({}, {"value": "0.4", "origin": "own"}, False),
        ({}, {"value": "0.9", "origin": "embedded", "budget": "gpu"}, True),
        ({"origin": "embedded", "budget": "gpu"}, {"value": "0.1"}, False),
        ({}, {"value": "0.9", "budget": "smoke", "protocol": "vinyals/5w1s"}, True),
        ({"budget": "smoke"}, {"value": "0.1"}, False),
        ({"origin": "embedded"}, {"origin": "embedded", "value": "0.4"}, True),
    ],
)
def test_no_smoke_run_takes_the_alias_from_a_real_result(new, old, takes) -> None:
    facts = {"value": "0.5", "protocol": "lake/5w1s", "origin": "archive", "budget": "cpu"}
    assert mlflow_store.better(facts | new, facts | old) == takes


def test_a_model_registered_before_versions_had_tags_is_replaced() -> None:
    assert mlflow_store.better({"value": "0.1", "protocol": "a/b", "origin": "embedded", "budget": "smoke"}, {})


def test_a_long_stage_has_the_load_of_its_machine(store, monkeypatch) -> None:
    monkeypatch.setattr(tracking, "_SAMPLE_S", 0.05)
    with tracking.start("meta_train", {}):
        time.sleep(1.5)
    with tracking.start("compare", {}):
        pass
    found, _ = runs(store)
    assert found[0].data.metrics == {}
    assert "system/cpu_utilization_percentage" in found[1].data.metrics


def test_a_store_that_is_down_costs_a_warning_and_the_run_is_sent_later(store, tmp_path, monkeypatch, capsys) -> None:
    secret = "postgresql://me:hunter2%21@127.0.0.1:1/none"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", secret)
    monkeypatch.setattr(tracking, "_dvc_process", lambda: "here-1-2.00")
    Path("picture.png").write_bytes(b"picture")
    folder = Path("results/metric_train/prototypes-lake-0")
    with tracking.start("metric_train", SETTINGS) as run:
        run.log(0, loss=1.0)
        run.artifact("picture.png")
        trained(folder)
        tracking.outputs(folder)
    Path("picture.png").unlink()
    (folder / "model.safetensors").unlink()
    out = capsys.readouterr().out
    assert out.count("warning: MLflow cannot be reached; the results are not affected") == 1
    assert len(spooled(tmp_path)) == 1
    assert tracking.send(tmp_path) == 1  # still down
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert tracking.send(tmp_path) == 0
    assert not any((tmp_path / ".tracking_spool").iterdir())
    found, client = runs(store)
    sent = next(run for run in found if "mlflow.parentRunId" in run.data.tags)
    assert len(found) == 2
    assert (sent.info.run_name, sent.info.status) == ("metric_train", "FINISHED")
    assert sent.data.params["width"] == "8"
    assert sent.data.metrics["loss"] == 1.0
    assert "picture.png" in [file.path for file in client.list_artifacts(sent.info.run_id)]
    assert len(sent.outputs.model_outputs) == 1
    written = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert b"hunter2" not in written
    assert "hunter2" not in out + capsys.readouterr().out


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("http://me:qx%2Fzj@h:1/x", "http://me:qx%2Fzj@h:1/x is down"),
        ("http://me:qx%2Fzj@h:1/x", "password qx/zj is wrong"),
        ("http://me:qx%2Fzj@h:1/x", "retry qx%2Fzj"),
        ("http://me:qxzj/x@h:1", "Invalid url: http://me:qxzj/x@h:1/api/2.0/mlflow"),
        ("http://me:qxzj/x@h:1", "invalid literal for int() with base 10: 'qxzj'"),
        ("http://h:1?token=qxzj", "http://h:1?token=qxzj/api/2.0/mlflow"),
        ("postgresql://h/db?user=me&password=qxzj", "postgresql://h/db?user=me&password=qxzj: no password qxzj"),
        ("", "the proxy http://me:qxzj@h refuses"),
    ],
)
def test_no_message_holds_the_password(uri: str, said: str) -> None:
    assert not re.search("[qxzj]{2}", tracking.mask(said, uri))


def test_a_store_that_breaks_half_way_costs_a_warning(store, tmp_path, capsys) -> None:
    with tracking.start("episodes", {"a": 1}) as run:
        with sqlite3.connect(tmp_path / "mlflow.db") as db:
            db.execute("ALTER TABLE metrics RENAME TO gone")
        run.log(0, loss=1.0)
    assert "warning: MLflow cannot be reached" in capsys.readouterr().out
    with sqlite3.connect(tmp_path / "mlflow.db") as db:
        db.execute("ALTER TABLE gone RENAME TO metrics")
    assert tracking.send(tmp_path) == 0
    found, _ = runs(store)
    assert [(run.info.status, run.data.metrics) for run in found] == [("FINISHED", {"loss": 1.0})]


def test_a_run_killed_while_it_was_spooled_is_sent_as_killed(store, tmp_path) -> None:
    code = (
        "import os, sys; sys.path.insert(0, sys.argv[1])\n"
        "from fewlabel import tracking\n"
        "with tracking.start('episodes', {'a': 1}): os.kill(os.getpid(), 9)\n"
    )
    environment = os.environ | {"MLFLOW_TRACKING_URI": "sqlite:////dev/null/none"}
    subprocess.run([sys.executable, "-c", code, str(Path(tracking.__file__).parents[1])], env=environment)
    assert spooled(tmp_path) == []
    assert tracking.send(tmp_path) == 0
    found, _ = runs(store)
    assert [(run.info.status, run.data.params) for run in found] == [("KILLED", {"a": "1"})]


def down(monkeypatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:////dev/null/none")


@pytest.mark.parametrize("place", ["a file", "a folder that takes none"])
def test_a_spool_that_cannot_be_made_costs_the_run_not_the_stage(place, store, tmp_path, monkeypatch, capsys) -> None:
    down(monkeypatch)
    spool = tmp_path / ".tracking_spool"
    if place == "a file":
        spool.touch()
    else:
        spool.symlink_to("/proc")  # nobody can make a file there, not even root
    with tracking.start("episodes", {"a": 1}) as run:
        run.log(0, loss=1.0)
    out = capsys.readouterr().out
    assert out.count("warning") == 1
    assert "the run cannot be kept either" in out


def test_a_spool_that_cannot_be_begun_whole_leaves_nothing(store, tmp_path, monkeypatch, capsys) -> None:
    with tracking.start("episodes", {"a": 1}) as run:
        append = tracking._append

        def full(spool: Path, line: dict) -> None:
            if line.get("do") == "params":
                raise OSError(errno.ENOSPC, "No space left on device")
            append(spool, line)

        monkeypatch.setattr(tracking, "_append", full)
        run._fail(RuntimeError("down"))
    assert "the run cannot be kept either (No space left on device)" in capsys.readouterr().out
    assert not any((tmp_path / ".tracking_spool").iterdir())


def test_a_spool_that_fills_up_keeps_whole_lines_and_says_so_once(store, tmp_path, monkeypatch, capsys) -> None:
    down(monkeypatch)
    Path("picture.png").write_bytes(b"picture")
    with tracking.start("episodes", {"a": 1}) as run:
        (opened,) = (tmp_path / ".tracking_spool").glob("*.open")
        held = opened.read_bytes()
        write = io.FileIO.write
        with monkeypatch.context() as context:

            class Full(io.FileIO):
                def write(self, content: bytes) -> int:
                    return write(self, content[:5])  # what fits

            context.setattr(Path, "open", lambda path, *_, **__: Full(path, "ab"))
            run.tags(lost=1)
            run.tags(lost=2)
        assert opened.read_bytes() == held
        run.tags(kept=1)
        with monkeypatch.context() as context:

            def half(source: Path, target: Path) -> None:
                target.write_bytes(b"pic")
                raise OSError(errno.ENOSPC, "No space left on device")

            context.setattr(tracking.shutil, "copy2", half)
            run.artifact("picture.png")
        assert not list((tmp_path / ".tracking_spool").rglob("*.png"))
    assert capsys.readouterr().out.count("cannot be written (No space left on device)") == 1
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert tracking.send(tmp_path) == 0
    (sent,) = runs(store)[0]
    assert (sent.info.status, sent.data.tags["kept"], "lost" in sent.data.tags) == ("FINISHED", "1", False)


@pytest.mark.parametrize("name", ["done.jsonl", "killed.open"])
def test_a_run_whose_end_was_lost_does_not_stay_running(name, store, tmp_path) -> None:
    (tmp_path / ".tracking_spool").mkdir()
    spool(tmp_path / ".tracking_spool" / name, process=[tracking.mlflow_store.node(), 2**30])
    os.utime(tmp_path / ".tracking_spool" / name, (5000, 5000))
    assert tracking.send(tmp_path) == 0
    (sent,) = runs(store)[0]
    assert (sent.info.status, sent.info.end_time) == ("KILLED", 5000 * 1000)


def spool(path: Path, started: int = 1000, **more) -> None:
    """A spooled run that has not ended."""
    record = {"name": path.stem, "started": started, "tags": {tracking.KEY: path.stem}, "execution": None} | more
    path.write_text(json.dumps(record) + "\n" + json.dumps({"do": "tags", "values": {"a": "1"}}) + "\n")


def test_a_bad_spool_holds_up_no_other(store, tmp_path, capsys) -> None:
    folder = tmp_path / ".tracking_spool"
    folder.mkdir()
    here = {"process": [tracking.mlflow_store.node(), 2**30]}  # of no process
    for name in ("1-empty.open", "1-cut.open"):
        (folder / name).write_bytes(b"")
    (folder / "1-cut.open").write_bytes(b'{"name": "epi')
    (folder / "2-damaged.jsonl").write_bytes(b"\xff{\n")
    (folder / "3-foreign.jsonl").write_bytes(b"[]\n")
    spool(folder / "4-cut.open", **here)
    with (folder / "4-cut.open").open("ab") as file:
        file.write(b'{"do": "tags", "val')
    spool(folder / "5-good.jsonl")
    assert tracking.send(tmp_path) == 2
    assert sorted(path.name for path in folder.iterdir()) == ["2-damaged.jsonl", "3-foreign.jsonl"]
    assert sorted((run.info.run_name, run.data.tags["a"]) for run in runs(store)[0]) == [
        ("4-cut", "1"),
        ("5-good", "1"),
    ]
    out = capsys.readouterr().out
    assert "2-damaged.jsonl: not sent: " in out
    assert "3-foreign.jsonl: not sent: " in out
    assert "2 sent, 2 left in" in out


def test_what_is_skipped_is_said_and_a_reused_process_number_skips_nothing(store, tmp_path, capsys) -> None:
    folder = tmp_path / ".tracking_spool"
    folder.mkdir()
    node = tracking.mlflow_store.node()
    spool(folder / "elsewhere.open", process=["another-machine", os.getpid()])
    spool(folder / "reused.open", process=[node, os.getpid()])  # of a run of 1970, long before this process began
    spool(folder / "running.open", started=tracking._now(), process=[node, os.getpid()])
    assert tracking.send(tmp_path) == 1
    assert [run.info.run_name for run in runs(store)[0]] == ["reused"]
    out = capsys.readouterr().out
    assert f"running: still running, as process {os.getpid()}; skipped" in out
    assert "elsewhere: not sent: it is another-machine's; send it there or, if it has ended, rename " in out
    (folder / "elsewhere.open").rename(folder / "elsewhere.jsonl")
    assert tracking.send(tmp_path) == 0
    assert [path.name for path in folder.iterdir()] == ["running.open"]


@contextlib.contextmanager
def server(folder: Path, port: int) -> Iterator[subprocess.Popen]:
    """A tracking server with its database and artifacts in `folder`; ends with the block, if not before."""
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{folder}/server.db", "--artifacts-destination", f"{folder}/files"]
    with (folder / "server.log").open("a") as log:
        process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, start_new_session=True)
    try:
        for _ in range(3000):  # a busy machine takes minutes
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                break
            assert process.poll() is None, (folder / "server.log").read_text()
            time.sleep(0.1)
        yield process
    finally:
        kill(process)


def kill(process: subprocess.Popen) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def test_a_server_that_dies_half_way_gets_the_rest_later(fresh, migrated, tmp_path, monkeypatch, capsys) -> None:
    shutil.copy(migrated, tmp_path / "server.db")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://me:hunter2@127.0.0.1:{port}")
    folder = Path("results/metric_train/prototypes-lake-0")
    with server(tmp_path, port) as process, tracking.start("metric_train", SETTINGS) as run:
        for step in range(500):  # one flush
            run.log(step, loss=1.0)
        kill(process)
        for step in range(500, 600):
            run.log(step, loss=1.0)
        trained(folder)
        tracking.outputs(folder)
    assert capsys.readouterr().out.count("warning: MLflow cannot be reached") == 1
    assert len(spooled(tmp_path)) == 1
    with server(tmp_path, port):
        assert tracking.send(tmp_path) == 0
        found, client = runs(f"http://127.0.0.1:{port}")
        assert [run.info.status for run in found] == ["FINISHED"]
        history = client.get_metric_history(found[0].info.run_id, "loss")
        assert [m.step for m in sorted(history, key=lambda m: m.step)] == list(range(600))
        assert len(found[0].outputs.model_outputs) == 1
        model = mlflow.pyfunc.load_model(f"models:/{found[0].outputs.model_outputs[0].model_id}")
        assert model.predict(model.input_example).shape == (1, 5)
    out = capsys.readouterr()
    written = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert b"hunter2" not in written
    assert "hunter2" not in out.out + out.err
    assert not (tmp_path / "mlflow.db").exists()


def test_four_first_users_of_a_store_do_not_crash(fresh, root, tmp_path) -> None:
    """Two checkouts, two at once in each."""
    checkouts = [tmp_path / "one", tmp_path / "other"] * 2
    code = (
        "import sys; sys.path.insert(0, 'src')\n"
        "from fewlabel import tracking\n"
        "with tracking.start('episodes', {}) as run: run.log(0, loss=1.0)\n"
    )
    started = [
        subprocess.Popen(
            [sys.executable, "-c", code],
            cwd=root,
            env=os.environ | {"MLFLOW_TRACKING_URI": fresh, "DVC_ROOT": str(checkout)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for checkout in checkouts
    ]
    assert ["" for _ in started] == [process.communicate()[0] for process in started]
    found, _ = runs(fresh)
    assert len(found) == 4


def test_off_means_off(fresh, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("FEWLABEL_TRACKING", "off")
    with tracking.start("episodes", {}) as run:
        run.log(0, loss=1.0)
    assert not (tmp_path / "mlflow.db").exists()
