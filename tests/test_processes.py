"""Two processes under torchrun make the same step as one, on the same tasks; tasks that they cannot share evenly are
refused."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from fewlabel import device
from fewlabel.errors import UserError
from tests.conftest import ROOT

SCRIPT = """
import sys
import torch
from safetensors.torch import save_file
from fewlabel import device as devices
from fewlabel import episodes, meta_training
from fewlabel.episodes import Shape
from fewlabel.methods import base
from fewlabel.methods.base import Problem
from tests.test_meta_training import glyphs, settings_of

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
