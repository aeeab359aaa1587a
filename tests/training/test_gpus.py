"""One experiment a GPU: stage processes that run side by side take different ones."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
import torch

from fewlabel.errors import UserError
from fewlabel.training import device

MACHINE = ["chip-a", "chip-b", "chip-c", "chip-d"]


def visible() -> list[str]:
    """The chips that CUDA shows: the first two, or those of ``CUDA_VISIBLE_DEVICES``."""
    return [MACHINE[int(number)] for number in os.environ.get("CUDA_VISIBLE_DEVICES", "0,1").split(",")]


@pytest.fixture
def gpus(monkeypatch, tmp_path, root):
    """A machine with GPUs, two of them visible; → the list of devices that were made current."""
    chosen: list[int] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(visible()))
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: SimpleNamespace(uuid=visible()[index]))
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    monkeypatch.setattr(device, "_held", [])
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    monkeypatch.setenv("PYTHONPATH", str(root / "src"))
    yield chosen
    for lock in device._held:
        lock.release()


@contextlib.contextmanager
def other_process(tmp_path, chips: str = "chip-a,chip-b") -> Iterator[subprocess.Popen]:
    """A process that sees these chips and holds the first free one, as a stage of another experiment does."""
    code = (
        "import sys, tempfile, types, torch\n"
        "folder, chips = sys.argv[1], sys.argv[2].split(',')\n"
        "tempfile.gettempdir = lambda: folder\n"
        "torch.cuda.set_device = lambda index: None\n"
        "torch.cuda.get_device_properties = lambda index: types.SimpleNamespace(uuid=chips[index])\n"
        "from fewlabel.training import device\n"
        "device._take_gpu(len(chips))\n"
        "print('holds it', flush=True)\n"
        "sys.stdin.read()\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path), chips]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert "holds it\n" in iter(process.stdout.readline, "")
        yield process
        process.kill()


def test_a_second_process_takes_the_next_gpu_and_a_third_says_that_it_shares(gpus, tmp_path, capsys) -> None:
    with other_process(tmp_path) as first:
        assert device.pick("auto") == torch.device("cuda")
        assert gpus == [1]
        assert capsys.readouterr().out == "GPU 1 of 2\n"
        mine = device._held.copy()
        device._held.clear()  # as a third process would begin
        device.pick("auto")
        assert gpus == [1]
        assert capsys.readouterr().out == (
            "all 2 GPUs are taken by other stages: sharing GPU 0; start fewer workers to give each its own\n"
        )
        first.kill()  # a killed stage gives its GPU back
        first.wait()
        device.pick("auto")
        assert gpus == [1, 0]
        mine[0].release()


def test_one_process_keeps_its_gpu(gpus) -> None:
    device.pick("cuda")
    device.pick("cuda")
    assert gpus == [0]


def test_workers_of_a_scheduler_that_made_gpus_visible_take_one_each_of_these(gpus, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,3")
    with other_process(tmp_path, "chip-c,chip-d"):
        device.pick("auto")
    assert gpus == [1]


def test_gpus_that_others_see_under_the_same_number_are_not_mixed_up(gpus, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,2")
    with other_process(tmp_path, "chip-a,chip-b"):
        device.pick("auto")
    assert gpus == [0]
    assert capsys.readouterr().out == "GPU 0 of 2\n"


@pytest.mark.parametrize("number", ["0", "3"])
def test_one_gpu_needs_no_choice_and_is_not_shared_in_silence(gpus, tmp_path, monkeypatch, capsys, number) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", number)
    device.pick("auto")
    assert capsys.readouterr().out == ""
    device._held.pop().release()
    with other_process(tmp_path, MACHINE[int(number)]):
        device.pick("auto")
    assert capsys.readouterr().out == (
        "the GPU is taken by another stage: sharing it; start fewer workers to give each its own\n"
    )
    assert gpus == []


def test_processes_of_torchrun_go_by_their_rank(gpus, monkeypatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    device.pick("auto")
    assert (gpus, device._held) == ([], [])


def test_no_gpu_where_one_was_asked_for(monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert device.pick("auto") == torch.device("cpu")
    with pytest.raises(UserError, match="device: auto"):
        device.pick("cuda")


def test_more_processes_than_gpus_are_refused(gpus, monkeypatch) -> None:
    for name, value in (
        ("WORLD_SIZE", "3"),
        ("RANK", "2"),
        ("LOCAL_RANK", "2"),
        ("FEWLABEL_MEETING", "file:///nowhere"),
    ):
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=r"one of the 2 of this machine; lower maml.processes"):
        device.join_processes(torch.device("cuda"))
    assert gpus == []
