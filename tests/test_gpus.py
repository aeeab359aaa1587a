"""One experiment a GPU: stage processes that run side by side take different ones."""

import subprocess
import sys

import pytest
import torch

from fewlabel import device
from fewlabel.errors import UserError


@pytest.fixture
def gpus(monkeypatch, tmp_path):
    """A machine with two GPUs; → the list of devices that were made current."""
    chosen: list[int] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    monkeypatch.setattr(torch, "set_float32_matmul_precision", lambda precision: None)
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    monkeypatch.setattr(device, "_held", [])
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    yield chosen
    for lock in device._held:
        lock.release()


def other_process(tmp_path, index: int) -> subprocess.Popen:
    """A process that holds a GPU, as a stage of another experiment does."""
    code = (
        "import sys, tempfile, torch\n"
        "tempfile.gettempdir = lambda: sys.argv[1]\n"
        "torch.cuda.set_device = lambda index: None\n"
        "from fewlabel import device\n"
        "device._take_gpu(2)\n"
        "sys.stdin.read()\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout
    assert process.stdout.readline() == f"GPU {index} of 2\n"
    return process


def test_a_second_process_takes_the_next_gpu_and_a_third_says_that_it_shares(
    gpus, tmp_path, monkeypatch, root, capsys
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(root / "src"))
    first = other_process(tmp_path, 0)
    assert device.pick("auto") == torch.device("cuda")
    assert gpus == [1]
    assert capsys.readouterr().out == "GPU 1 of 2\n"
    mine = device._held.copy()
    device._held.clear()  # as a third process would begin
    device.pick("auto")
    assert gpus == [1]
    assert "all 2 GPUs are taken" in capsys.readouterr().out
    first.kill()  # a killed stage gives its GPU back
    first.wait()
    device.pick("auto")
    assert gpus == [1, 0]
    mine[0].release()


def test_one_process_keeps_its_gpu(gpus) -> None:
    device.pick("cuda")
    device.pick("cuda")
    assert gpus == [0]


def test_somebody_who_chose_a_gpu_keeps_it(gpus, monkeypatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    device.pick("auto")
    assert gpus == []


def test_one_gpu_needs_no_choice(gpus, monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    device.pick("auto")
    assert gpus == []


def test_no_gpu_where_one_was_asked_for(monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert device.pick("auto") == torch.device("cpu")
    with pytest.raises(UserError, match="device: auto"):
        device.pick("cuda")
