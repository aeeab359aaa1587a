"""Two processes make the same step as one; tasks that they cannot share evenly are refused."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from fewlabel.errors import UserError
from fewlabel.training import processes
from tests.conftest import ROOT

SCRIPT = """
import sys
import torch
from safetensors.torch import save_file
from fewlabel.fewshot import episodes
from fewlabel.fewshot.methods import base
from fewlabel.training import processes
from tests.fewshot.test_train import glyphs, settings_of

rank = processes.join(torch.device("cpu"))
results = {}
for name in ("maml", "reptile"):
    settings = settings_of(name, iterations=2, meta_batch=4)
    method = base.create(name, settings, base.Problem(5, 1, 12), torch.device("cpu"), seed=0)
    method.model.double()
    table = glyphs()
    for step in range(2):
        generator = episodes.generator(0, step)
        indices = episodes.sample(method.shape, len(table), table.shape[1], generator).part(processes.share())
        support, query = (part.double() / 255 for part in episodes.gather(table, indices))
        loss, _ = method.step(support, query, indices.classes, 0.5, generator)
    results |= {f"{name} {key}": value.contiguous() for key, value in method.model.state_dict().items()}
    results[f"{name} loss"] = loss
if rank == 0:
    save_file(results, sys.argv[1])
    print(len(support), "tasks of mine")
"""


def test_two_processes_make_the_step_of_one(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    results = []
    for launch, tasks in (([], 4), (["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"], 2)):
        command = [sys.executable, *launch, str(tmp_path / "script.py"), str(tmp_path / "result")]
        environment = {"PYTHONPATH": f"{ROOT}:{ROOT / 'src'}", "PATH": "/usr/bin:/bin"}
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)
        assert done.returncode == 0, done.stderr[-2000:]
        assert done.stdout.strip() == f"{tasks} tasks of mine"
        results.append(load_file(tmp_path / "result"))
    for key, one in results[0].items():
        torch.testing.assert_close(results[1][key], one, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("tasks", "count", "fits"), [(1, 1, True), (8, 4, True), (1, 2, False), (8, 3, False)])
def test_only_processes_that_share_tasks_evenly_may(tasks: int, count: int, fits: bool, monkeypatch) -> None:
    monkeypatch.setattr(processes, "count", lambda: count)
    if fits:
        processes.check_share("maml", tasks)
    else:
        with pytest.raises(UserError, match=f"maml: {count} processes cannot share the tasks of a step evenly"):
            processes.check_share("maml", tasks)


def test_more_processes_than_gpus_are_refused(monkeypatch) -> None:
    for name, value in (("WORLD_SIZE", "3"), ("RANK", "2"), ("LOCAL_RANK", "2"), ("LOCAL_WORLD_SIZE", "3")):
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(UserError, match="3 processes for 2 GPUs: lower --nproc-per-node in launch"):
        processes.join(torch.device("cuda"))
