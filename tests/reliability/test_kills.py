"""Stages killed at random moments and started again: equal bytes, and at most one checkpoint interval repeated."""

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.reliability.bench import KINDS, STEPS, Bench, ended, killed_after
from tests.reliability.sizes import KILLS, LONG, SEED

pytestmark = pytest.mark.pipeline
SHORT = ("prepare", "prototypes", "finetune-scratch")


def seconds_of(command: list[str], folder: Path) -> float:
    began = time.monotonic()
    subprocess.run(command, cwd=folder, check=True)
    return time.monotonic() - began


def repeated(lines: list[str]) -> list[int]:
    """How many steps were made a second time after each start."""
    reached, found = 0, []
    for line in lines:
        if line.startswith("start "):
            found.append(reached - int(line.removeprefix("start ")))
        else:
            reached = int(line)
    return found


@pytest.mark.parametrize("name", KINDS if LONG else SHORT)
def test_a_stage_killed_at_random_moments_ends_as_an_undisturbed_one(bench: Bench, tmp_path: Path, name: str) -> None:
    kind, steps = KINDS[name], tmp_path / "steps"
    bench.ready(name)
    began = time.monotonic()
    ended(bench.start(name, tmp_path / "undisturbed"))
    whole = time.monotonic() - began
    undisturbed = bench.digests(name)
    ended(bench.start(name))
    assert bench.digests(name) == undisturbed  # a second run from scratch
    imports = seconds_of([sys.executable, "-c", f"import stages.{kind.command.split()[0]}"], bench.folder)
    draw, kills = random.Random(f"{SEED} {name}"), 0
    for _ in range(20 * KILLS):
        if kills >= KILLS:
            break
        for _ in range(draw.randint(1, 4)):  # in a row
            if kills < KILLS:
                process = bench.start(name, steps)
                kills += killed_after(process, draw.uniform(0.8 * imports, whole))
                process.communicate(timeout=600)
                assert process.returncode in (0, -signal.SIGKILL)
                if process.returncode == 0:
                    break
        if process.returncode != 0:
            ended(bench.start(name, steps))
        assert bench.digests(name) == undisturbed
        assert not list((bench.folder / ".checkpoints").rglob("*.pt"))
        assert not list(bench.out(name).parent.glob(".*.draft"))
        if kind.every:
            again = repeated(steps.read_text().splitlines())
            assert max(again) <= kind.every, again
            assert int(steps.read_text().split()[-1]) >= STEPS
        steps.unlink(missing_ok=True)
    assert kills == KILLS
    print(f"{name}: {kills} kills within {whole:.1f} s")
