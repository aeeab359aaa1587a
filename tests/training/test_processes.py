"""Two processes make the same step as one, on the same tasks; tasks that they cannot share evenly are
refused."""

import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from fewlabel.errors import UserError
from fewlabel.training import device
from tests.conftest import ROOT

SCRIPT = """
import sys
import torch
from safetensors.torch import save_file
from fewlabel.training import device as devices
from fewlabel import episodes, meta_training
from fewlabel.episodes import Shape
from fewlabel.fewshot.methods import base
from fewlabel.fewshot.methods.base import Problem
from tests.fewshot.test_train import glyphs, settings_of

name, processes, path = sys.argv[1:]
devices.launch_processes(int(processes))
rank = devices.join_processes(torch.device("cpu"))
settings = settings_of(name, iterations=2, meta_batch=4)
method = base.create(name, settings, Problem(5, 1, 12), torch.device("cpu"), seed=0)
method.model.double()
table = glyphs()
for step in range(2):
    generator = episodes.generator(0, step)
    indices = episodes.sample(method.shape, len(table), table.shape[1], generator).part(devices.share())
    support, query = (part.double() / 255 for part in episodes.gather(table, indices))
    loss, _ = method.step(support, query, indices.classes, 0.5, generator)
if rank == 0:
    tensors = {**method.model.state_dict(), "loss": loss}
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)
    print(len(support), "tasks of mine")
"""


@pytest.mark.parametrize("name", ["maml", "reptile"])
def test_two_processes_make_the_step_of_one(name: str, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    results = []
    for processes, tasks in ((1, 4), (2, 2)):
        path = tmp_path / f"{processes}.safetensors"
        command = [sys.executable, str(script), name, str(processes), str(path)]
        environment = {"PYTHONPATH": f"{ROOT}:{ROOT / 'src'}", "PATH": "/usr/bin:/bin"}
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)
        assert done.returncode == 0, done.stderr[-2000:]
        assert done.stdout.strip() == f"{tasks} tasks of mine"
        results.append(load_file(path))
    for key, one in results[0].items():
        torch.testing.assert_close(results[1][key], one, rtol=1e-9, atol=1e-12)


SHARED = """
import os, signal, sys
import psutil, torch
from fewlabel.training import device as devices
from fewlabel.errors import UserError
from stages.common import launch

def main():
    devices.launch_processes(2)
    if sys.argv[1] == "missing" + os.environ["RANK"]:
        os.kill(os.getpid(), signal.SIGKILL)
    rank = devices.join_processes(torch.device("cpu"))
    devices.average([torch.ones(2)])
    if rank == 0 and sys.argv[1] == "listen":
        everyone = [psutil.Process(), *psutil.Process().children(recursive=True)]
        found = [c for p in everyone for c in p.net_connections("inet") if c.status == psutil.CONN_LISTEN]
        print(len(everyone), "processes,", len(found) > 0, {c.laddr.ip for c in found})
    if rank == 1 and sys.argv[1] == "refuse":
        raise UserError("the disk is full")
    if rank == 1 and sys.argv[1] in ("SIGKILL", "SIGTERM"):
        os.kill(os.getpid(), getattr(signal, sys.argv[1]))
    devices.average([torch.ones(2)])

launch(main, shared=True)
"""


@pytest.mark.parametrize(
    ("what", "code", "out", "err"),
    [
        ("listen", 0, "2 processes, True {'127.0.0.1'}", ""),
        ("refuse", 2, "", "error: process 1 of 2 ended: the disk is full"),
        ("SIGKILL", 2, "", "error: process 1 of 2 ended: -9"),
        ("missing1", 2, "", "error: process 1 of 2 ended: -9"),
        ("missing0", -9, "", ""),
        ("SIGTERM", 130, "", "interrupted: run the same command again; a training continues from its checkpoint"),
    ],
)
def test_processes_talk_on_this_machine_alone_and_end_together_in_one_line(what, code, out, err, tmp_path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SHARED)
    environment = {"PYTHONPATH": f"{ROOT}:{ROOT / 'src'}", "PATH": "/usr/bin:/bin", "TMPDIR": str(tmp_path)}
    command = [sys.executable, str(script), what]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=environment)
    assert (done.returncode, done.stdout.strip()) == (code, out), done.stderr
    assert [line for line in done.stderr.splitlines() if not line.startswith("[")] == ([err] if err else [])
    began = time.monotonic()
    while list(tmp_path.glob("fewlabel-*")):  # the other process deletes it when the first was killed
        assert time.monotonic() - began < 60
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("tasks", "processes", "told"),
    [
        (1, 1, None),
        (8, 1, None),
        (8, 4, None),
        (1, 2, "maml: a step has one task, which 2 processes cannot share: start it without torchrun"),
        (8, 3, "maml: 3 processes cannot share maml.meta_batch = 8 tasks evenly: start as many as divide it"),
        (8, 16, "maml: 16 processes cannot share maml.meta_batch = 8 tasks evenly: start as many as divide it"),
    ],
)
def test_only_processes_that_share_tasks_evenly_may(tasks: int, processes: int, told: str | None, monkeypatch) -> None:
    monkeypatch.setattr(device, "process_count", lambda: processes)
    if told is None:
        device.check_share("maml", tasks)
    else:
        with pytest.raises(UserError) as refused:
            device.check_share("maml", tasks)
        assert str(refused.value) == told
