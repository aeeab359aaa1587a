"""The process that holds MLflow for the stages of one `dvc`: shared, ended with it, and its loss costs no result."""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from multiprocessing import AuthenticationError
from pathlib import Path

import psutil
import pytest

from fewlabel import tracking
from fewlabel.tracking import process as mlflow_process
from tests.tracking.test_tracking import fresh, migrated, runs, spooled, store  # noqa: F401 (fixtures)


@pytest.fixture
def dvc(store, monkeypatch) -> Iterator[psutil.Process]:  # noqa: F811
    """A process that stands for `dvc`, above every stage of the test."""
    process = subprocess.Popen(["sleep", "600"])
    monkeypatch.setattr(tracking, "_dvc", lambda: psutil.Process(process.pid))
    monkeypatch.setattr(tracking, "_dvc_process", lambda: f"here-{process.pid}-1.00")
    yield psutil.Process(process.pid)
    process.kill()
    process.wait()


def address(root: Path) -> Path:
    (found,) = (root / ".dvc" / "tmp").glob("mlflow-*.json")
    return found


def holder(root: Path) -> psutil.Process:
    (found,) = (p for p in psutil.process_iter(["cmdline"]) if str(address(root)) in (p.info["cmdline"] or []))
    return found


def gone(process: psutil.Process) -> bool:
    for _ in range(200):
        if not process.is_running() or process.status() == psutil.STATUS_ZOMBIE:
            return True
        time.sleep(0.05)
    return False


def test_the_stages_of_one_dvc_share_a_process_that_ends_with_it(store, tmp_path, dvc, monkeypatch) -> None:  # noqa: F811
    monkeypatch.setattr(tracking, "_SAMPLE_S", 0.05)
    Path("picture.png").write_bytes(b"picture")
    held = []
    for stage in ("episodes", "compare"):
        with tracking.start(stage, {"a": 1}) as run:
            run.log(0, loss=1.0)
            run.artifact("picture.png")
            time.sleep(0.3)
        held.append(holder(tmp_path))
    assert held[0] == held[1]
    assert address(tmp_path).stat().st_mode & 0o777 == 0o600
    found, client = runs(store)
    (parent,) = [run for run in found if "mlflow.parentRunId" not in run.data.tags]
    children = [run for run in found if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    assert [run.info.run_name for run in children] == ["compare", "episodes"]
    for child in children:
        assert (child.info.status, child.data.params, child.data.metrics["loss"]) == ("FINISHED", {"a": "1"}, 1.0)
        assert "system/cpu_utilization_percentage" in child.data.metrics
        assert [file.path for file in client.list_artifacts(child.info.run_id)] == ["picture.png"]
    where = address(tmp_path)
    dvc.kill()
    assert gone(held[0])
    assert not where.exists()


def test_nobody_without_the_key_is_served(store, tmp_path, dvc) -> None:  # noqa: F811
    from fewlabel.tracking.process import _connect

    with tracking.start("episodes", {}):
        pass
    listening = [c for c in holder(tmp_path).net_connections("all") if c.status == psutil.CONN_LISTEN]
    assert [c.laddr.ip for c in listening] == ["127.0.0.1"]
    told = json.loads(address(tmp_path).read_text())
    wrong = tmp_path / "wrong.json"
    wrong.write_text(json.dumps(told | {"key": "00" * 32}))
    with pytest.raises(AuthenticationError):
        _connect(wrong)
    with socket.create_connection(("127.0.0.1", told["port"])):  # one who says nothing holds nobody up
        with tracking.start("compare", {}):
            pass
        assert len(runs(store)[0]) == 3


def test_a_process_that_says_nothing_is_not_waited_for(store, tmp_path, dvc, capsys, monkeypatch) -> None:  # noqa: F811
    with tracking.start("episodes", {}):
        pass
    monkeypatch.setattr(mlflow_process, "_GREETING_S", 0.2)
    monkeypatch.setattr(mlflow_process, "_ANSWER_S", 0.2)
    stopped = holder(tmp_path)
    stopped.suspend()
    try:
        with tracking.start("compare", {}):
            pass
    finally:
        stopped.resume()
    assert "warning: MLflow cannot be reached" in capsys.readouterr().out
    assert len(spooled(tmp_path)) == 1


def test_the_run_of_a_stage_that_is_killed_ends_as_killed(store, tmp_path, dvc) -> None:  # noqa: F811
    code = (
        "import os, psutil, sys\n"
        "from fewlabel import tracking\n"
        "tracking._dvc = lambda: psutil.Process(int(sys.argv[1]))\n"
        "tracking._dvc_process = lambda: 'here'\n"
        "with tracking.start('episodes', {}): os.kill(os.getpid(), 9)\n"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(tracking.__file__).parents[1])}
    subprocess.run([sys.executable, "-c", code, str(dvc.pid)], env=environment, check=False)
    with tracking.start("compare", {}):  # served after that
        pass
    found, _ = runs(store)
    status = {run.info.run_name: run.info.status for run in found if "mlflow.parentRunId" in run.data.tags}
    assert status == {"episodes": "KILLED", "compare": "FINISHED"}


def test_when_it_is_killed_the_run_is_sent_later_and_the_next_stage_starts_another(
    store,  # noqa: F811
    tmp_path,
    dvc,
    capsys,
) -> None:
    with tracking.start("episodes", {}) as run:
        first = holder(tmp_path)
        first.kill()
        assert gone(first)
        run.log(0, loss=1.0)
    assert capsys.readouterr().out.count("warning: MLflow cannot be reached") == 1
    assert len(spooled(tmp_path)) == 1
    with tracking.start("compare", {}):
        pass
    assert holder(tmp_path) != first
    assert tracking.send(tmp_path) == 0
    found, _ = runs(store)
    children = {run.info.run_name: run.info.status for run in found if "mlflow.parentRunId" in run.data.tags}
    assert children == {"episodes": "FINISHED", "compare": "FINISHED"}


def test_what_mlflow_refuses_reaches_the_stage(store, tmp_path, dvc, capsys, monkeypatch) -> None:  # noqa: F811
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "postgresql://me:hunter2@127.0.0.1:1/none")
    with tracking.start("episodes", {}):
        pass
    out = capsys.readouterr().out
    assert out.count("warning: MLflow cannot be reached") == 1
    assert "hunter2" not in out
    assert len(spooled(tmp_path)) == 1
