"""Trainings that are killed and started again end with the bytes of one that was not."""

import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.reliability.bench import STAGES, Bench, ended
from tests.reliability.sizes import KILLS, SEED

pytestmark = pytest.mark.pipeline


def signal_once(process: subprocess.Popen[str], there: Callable[[], list[Path]], number: int, seconds: float) -> None:
    """Signal the process group some seconds after a file is there."""
    while not there():
        assert process.poll() is None, process.communicate()
        time.sleep(0.001)
    time.sleep(seconds)
    os.killpg(process.pid, number)


@pytest.mark.parametrize(
    ("name", "number"), [("prototypes", signal.SIGKILL), ("finetune", signal.SIGKILL), ("finetune", signal.SIGTERM)]
)
def test_a_training_goes_on_from_its_checkpoint(bench: Bench, name: str, number: signal.Signals) -> None:
    undisturbed, draw = bench.made(name), random.Random(f"{SEED} {name}")
    for _ in range(KILLS):
        process = bench.start(name)
        signal_once(process, bench.checkpoints, number, draw.uniform(0, 0.02))
        out, err = process.communicate()
        assert bench.digests(name) == undisturbed  # the result of before is whole
        if number == signal.SIGTERM:
            assert process.returncode == 130
            assert "which is saved" in out
            assert err == "interrupted: run the same command again; a training continues from its checkpoint\n"
        else:
            assert process.returncode == -number
        shutil.rmtree(bench.out(name))
        out, _ = ended(bench.start(name))
        assert "continuing from" in out
        assert bench.digests(name) == undisturbed
        assert not bench.checkpoints()
        assert not list(bench.out(name).parent.glob(".*.draft"))


@pytest.mark.parametrize("moment", ["*.pt", "*.ended"], ids=["in the training", "while DVC records it"])
def test_dvc_repro_killed_with_its_stage_goes_on_from_the_checkpoint(bench: Bench, moment: str) -> None:
    """Under DVC the checkpoint stays until the next training begins, as DVC may die before it has recorded a result."""
    name = "prototypes"
    undisturbed, target = bench.made(name), STAGES[name].dvc
    bench.run(["dvc", "repro", target], FEWLABEL_TRACKING="off")
    shutil.rmtree(bench.folder / ".checkpoints", ignore_errors=True)
    again = ["dvc", "repro", "--force", "--single-item", target]
    process = bench.popen(again)
    signal_once(process, lambda: bench.checkpoints(moment), signal.SIGKILL, 0)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    out, _ = ended(bench.popen(again))
    assert "continuing from" in out
    assert bench.digests(name) == undisturbed
    assert "up to date" in bench.run(["dvc", "status", target]).stdout
    shutil.rmtree(bench.folder / ".checkpoints", ignore_errors=True)
