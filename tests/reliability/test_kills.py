"""Stages killed at random moments and started again: equal bytes, and at most one checkpoint interval repeated."""

import contextlib
import hashlib
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import yaml

from tests.conftest import ROOT
from tests.data.test_download import Server, serving
from tests.reliability.bench import KINDS, STEPS, Bench, ended, signalled
from tests.reliability.sizes import KILLS, LONG, SEED

pytestmark = pytest.mark.pipeline
TRAININGS = [name for name in KINDS if KINDS[name].every]
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


def checkpoints(bench: Bench) -> list[Path]:
    return [path for path in (bench.folder / ".checkpoints").rglob("*") if path.suffix in (".pt", ".tmp")]


def trained(bench: Bench, steps: Path) -> bool:
    """Whether a training has ended and put its checkpoint away, though it was killed before its process ended."""
    return steps.exists() and steps.read_text().split()[-1:] == [str(STEPS)] and not checkpoints(bench)


def killed_as_one(process: subprocess.Popen[str], seconds: float) -> bool:
    killed = signalled(process, seconds)
    assert process.returncode in (0, -signal.SIGKILL)
    return killed


def endures(bench: Bench, name: str, steps: Path, kill: Callable[[subprocess.Popen[str], float], bool]) -> None:
    """Have `kill` kill the stage after random seconds, and check what it leaves each time and in the end."""
    kind = KINDS[name]
    bench.ready(name)
    bench.clear(name)
    ended(bench.start(name))
    undisturbed = bench.digests(name)
    bench.clear(name)
    began = time.monotonic()
    ended(bench.start(name))
    whole = time.monotonic() - began
    assert bench.digests(name) == undisturbed  # a second run from scratch
    imports = seconds_of([sys.executable, "-c", f"import stages.{kind.command.split()[0]}"], bench.folder)
    draw, kills, killed = random.Random(f"{SEED} {name}"), 0, False
    while kills < KILLS:
        if draw.random() < 0.5:  # else over an earlier result, as by hand
            bench.clear(name)
        for in_a_row in range(1, draw.randint(2, 5)):
            began = time.monotonic()
            process = bench.start(name, steps)
            killed = kill(process, draw.uniform(min(imports, whole / 2), whole))
            assert "Traceback" not in process.communicate()[1]
            left = bench.digests(name)
            assert left.items() <= undisturbed.items()
            if kind.persists:  # all is there but what was at that moment being replaced
                assert len({Path(file).parts[:2] for file in undisturbed.keys() - left}) <= in_a_row
            kills += killed
            if not killed:
                whole = min(whole, time.monotonic() - began)  # the machine has become faster
            if not killed or trained(bench, steps):
                break
        if killed and not trained(bench, steps):
            ended(bench.start(name, steps))
        assert bench.digests(name) == undisturbed
        assert not checkpoints(bench)
        assert not bench.half_made(name)
        if kind.every:
            again = repeated(steps.read_text().splitlines())
            assert max(again) <= kind.every, again
            assert steps.read_text().split()[-1] == str(STEPS)
        steps.unlink(missing_ok=True)
    print(f"{name}: {kills} kills within {whole:.1f} s")


@pytest.mark.parametrize("name", KINDS if LONG else SHORT)
def test_a_stage_killed_at_random_moments_ends_as_an_undisturbed_one(bench: Bench, tmp_path: Path, name: str) -> None:
    endures(bench, name, tmp_path / "steps", killed_as_one)


def test_a_training_whose_processes_are_killed_together_or_one_alone(tmp_path: Path) -> None:
    bench, draw, count = Bench(tmp_path / "clone"), random.Random(f"{SEED} shared"), Counter[str]()
    bench.configure(**{"maml.processes": 2})

    def kill_some(process: subprocess.Popen[str], seconds: float) -> bool:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.communicate(timeout=seconds)
            return False
        others = psutil.Process(process.pid).children()
        whom = draw.choice(["all", "first", "other"]) if others else "all"
        if whom == "all":
            os.killpg(process.pid, signal.SIGKILL)
        else:
            os.kill(process.pid if whom == "first" else others[0].pid, signal.SIGKILL)
        _, err = process.communicate(timeout=60)
        assert process.returncode in ((0, 2) if whom == "other" else (0, -signal.SIGKILL))
        if process.returncode == 2:
            assert "error: process 1 of 2 ended: -9" in err
        assert not psutil.wait_procs(others, timeout=60)[1]
        count[whom] += process.returncode != 0
        return process.returncode != 0

    endures(bench, "maml", tmp_path / "steps", kill_some)
    print(f"killed: {dict(count)}")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("name", TRAININGS if LONG else ["nearest_mean"])
def test_a_signal_saves_the_step_under_way(bench: Bench, tmp_path: Path, name: str, number: signal.Signals) -> None:
    steps = tmp_path / "steps"
    bench.ready(name)
    ended(bench.start(name))
    undisturbed = bench.digests(name)
    bench.clear(name)
    process = bench.start(name, steps)
    while not steps.exists() or len(steps.read_text().splitlines()) < 6:  # five steps: one after a checkpoint
        assert process.poll() is None, process.communicate()
        time.sleep(0.001)
    process.send_signal(number)
    out, err = ended(process, code=130)
    stopped = int(out.partition("interrupted at step ")[2].partition(",")[0])
    assert f"interrupted at step {stopped}, which is saved" in out
    assert err == "interrupted: run the same command again; a training continues from its checkpoint\n"
    out, _ = ended(bench.start(name, steps))
    assert "continuing from" in out
    assert f"start {stopped}" in steps.read_text().splitlines()  # no step is made again
    assert bench.digests(name) == undisturbed


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("name", [name for name in KINDS if not KINDS[name].every] if LONG else ["prepare"])
def test_a_signal_leaves_nothing_half_made(bench: Bench, name: str, number: signal.Signals) -> None:
    bench.ready(name)
    began = time.monotonic()
    ended(bench.start(name))
    whole = time.monotonic() - began
    undisturbed = bench.digests(name)
    bench.clear(name)
    draw = random.Random(f"{SEED} {name} {number}")
    for _ in range(3):
        process = bench.start(name)
        signalled(process, draw.uniform(0, whole), number)
        _, err = process.communicate()
        if process.returncode == 1:  # Python itself was starting, in whose words this may end
            assert "KeyboardInterrupt" in err, err
            assert set(re.findall(rf'"{bench.folder}/(.+)"', err)) <= {"stages/__init__.py"}, err
        elif process.returncode != -number:  # which it is until the stage answers signals itself
            assert process.returncode in (0, 130)
            assert "Traceback" not in err, err
        assert not bench.half_made(name)
    ended(bench.start(name))
    assert bench.digests(name) == undisturbed


def test_a_download_killed_at_random_moments_goes_on_where_it_was(tmp_path: Path) -> None:
    body = random.Random(SEED).randbytes(2**24)
    digest = hashlib.sha256(body).hexdigest()
    with serving(Server()) as server:
        server.body, server.piece, server.seconds = body, 2**17, 0.005
        code = (
            f"import sys; sys.path.insert(0, {str(ROOT / 'src')!r})\n"
            "from pathlib import Path\n"
            "from fewlabel.data import download as acquire, sources\n"
            f"acquire.obtain(sources.Source('file.bin', {server.url!r}, {digest!r}), Path('out'), None)\n"
        )
        environment = os.environ | {"NO_PROXY": "127.0.0.1"}
        draw, kills = random.Random(f"{SEED} download"), 0
        part = tmp_path / ".checkpoints" / "downloads" / "file.bin.part"

        def had() -> int:
            try:
                return part.stat().st_size
            except FileNotFoundError:
                return 0

        while kills < KILLS:
            expected: list[str | None] = []
            for attempt in range(5):  # the last one is let be
                before, asked = had(), len(server.ranges)
                process = subprocess.Popen(
                    [sys.executable, "-c", code], cwd=tmp_path, env=environment, start_new_session=True,
                    stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                )  # fmt: skip
                while had() <= before and process.poll() is None:  # until it has got something
                    time.sleep(0.001)
                killed = signalled(process, draw.uniform(0, 0.8) if attempt < 4 else 600)
                kills += killed
                if len(server.ranges) > asked:  # not where an earlier one was killed with the whole file in place
                    expected.append(f"bytes={before}-" if before else None)
                if not killed:
                    break
            assert (tmp_path / "out" / "file.bin").read_bytes() == body
            assert server.ranges == expected  # each began where the last had ended, the first at the beginning
            assert expected.count(None) == 1
            shutil.rmtree(tmp_path / "out")
            shutil.rmtree(tmp_path / ".checkpoints")
            server.ranges = []
        print(f"download: {kills} kills")


PIPELINE = {  # the stages by whose names `dvc repro` runs these kinds
    "download": "download@omniglot",
    "prepare": "prepare@omniglot",
    "episodes": "episodes@lake",
    "siamese": "metric_train@siamese-lake-0",
    "prototypes": "metric_train@prototypes-lake-0",
    "nearest_mean": "metric_train@nearest_mean-lake-0",
    "maml": "meta_train@maml-lake-5w1s-0",
    "reptile": "meta_train@reptile-lake-5w1s-0",
    "evaluate": "evaluate_metric@prototypes-lake-0",
    "evaluate-maml": "evaluate@maml-lake-5w1s-0",
    "download-cifar10": "download@cifar10",
    "prepare-cifar10": "prepare@cifar10",
    "pretrain_rotation": "pretrain_rotation",
    "finetune-scratch": "from_scratch@20-0",
    "finetune-rotation": "finetune@rotation-20-0",
    "finetune-rotation-frozen-early": "finetune@rotation-frozen-early-20-0",
    "finetune-rotation-frozen-last": "finetune@rotation-frozen-last-20-0",
    "download-hymenoptera": "download@hymenoptera",
    "prepare-hymenoptera": "prepare@hymenoptera",
    "transfer_features": "transfer_features",
    "transfer-scratch": "transfer@scratch-0",
    "transfer-finetune": "transfer@finetune-0",
    "transfer-small-scratch": "transfer@small-scratch-0",
    "transfer-small-rotation": "transfer_rotation@0",
    "transfer-frozen": "transfer_frozen@0",
    "compare": "compare",
}


@pytest.mark.parametrize("name", PIPELINE if LONG else ["prototypes"])
def test_a_pipeline_killed_at_random_moments(tmp_path: Path, name: str) -> None:
    """The same by ``dvc repro``, which has outputs of its own to record and locks of its own to leave behind."""
    assert set(PIPELINE) == set(KINDS)
    bench, steps, target = Bench(tmp_path / "clone"), tmp_path / "steps", PIPELINE[name]
    if name != "compare":  # for which a method of each family is enough
        every = {"metric_methods": ["siamese", "prototypes", "nearest_mean"], "gradient_methods": ["maml", "reptile"]}
        bench.configure(**{f"cells.{family}": methods for family, methods in every.items()})
    module = f"stages.{KINDS[name].command.split()[0]}"
    pipeline = bench.folder / "dvc.yaml"
    pipeline.write_text(
        pipeline.read_text().replace(f"python -m {module}", f"python -m tests.reliability.counted {steps} {module}")
    )
    repro = ["dvc", "repro", target]

    def forget() -> None:
        """Have DVC run the stage again, from its start."""
        lock = yaml.safe_load((bench.folder / "dvc.lock").read_text())
        lock["stages"].pop(target, None)
        (bench.folder / "dvc.lock").write_text(yaml.safe_dump(lock))
        shutil.rmtree(bench.folder / ".dvc" / "cache" / "runs", ignore_errors=True)
        shutil.rmtree(bench.folder / ".checkpoints", ignore_errors=True)
        steps.unlink(missing_ok=True)

    bench.run(repro, FEWLABEL_TRACKING="off")
    undisturbed = bench.digests(name)
    forget()
    began = time.monotonic()
    bench.run(repro, FEWLABEL_TRACKING="off")
    whole = time.monotonic() - began
    assert bench.digests(name) == undisturbed
    assert steps.exists()  # it was the counted one that ran, from its start
    assert not KINDS[name].every or steps.read_text().startswith("start 0\n")
    draw, kills, stumbled = random.Random(f"{SEED} dvc {name}"), 0, 0
    while kills < KILLS:
        forget()
        for _ in range(draw.randint(1, 4)):
            process = bench.popen(repro)
            killed = signalled(process, draw.uniform(0.3 * whole, whole))
            kills += killed
            if not killed:
                break
        if process.returncode:  # killed, or stumbled over what an earlier kill left
            process = bench.popen(repro)
            _, errors = process.communicate(timeout=600)
        if process.returncode:  # DVC cannot read a file of its own: the mend that docs/reliability.md names
            stumbled += 1
            mended, _ = ended(bench.popen(["python", "-m", "stages.mend"]))
            assert mended, errors[-3000:]
            print(mended, end="")
            ended(bench.popen(repro))
        assert bench.digests(name) == undisturbed
        if KINDS[name].every:
            assert max(repeated(steps.read_text().splitlines())) <= KINDS[name].every
        assert "up to date" in bench.run(["dvc", "status", target]).stdout
    ended(bench.start("download"))  # the next stage, whichever it is, removes what the training left
    assert not list((bench.folder / ".checkpoints").rglob("*.pt"))
    print(f"dvc repro {target}: {kills} kills within {whole:.1f} s; DVC stumbled {stumbled} times")
