import subprocess
import sys

import pytest
import torch

from fewlabel.errors import UserError
from fewlabel.training import device
from tests.conftest import ROOT

CPU = torch.device("cpu")


def test_a_cpu_computes_in_full() -> None:
    assert device.precision(device.pick("cpu")) == "fp32"


def test_no_gpu_where_one_was_asked_for(monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert device.pick("auto") == CPU
    with pytest.raises(UserError, match="device: auto"):
        device.pick("cuda")


def test_the_block_says_the_type_of_products(monkeypatch) -> None:
    for name, dtype in (("bf16", torch.bfloat16), ("fp32", torch.float32)):
        monkeypatch.setattr(device, "precision", lambda _, name=name: name)
        with device.autocast(CPU):
            assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == dtype


def test_no_stage_starts_with_torchvision_or_the_compiler() -> None:
    """Each takes longer than all else a stage starts with."""
    names = [path.stem for path in (ROOT / "stages").glob("*.py") if path.stem != "__init__"]
    script = f"import sys, {', '.join(f'stages.{name}' for name in names)}; print(*sys.modules)"
    said = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True, cwd=ROOT).stdout
    assert "stages.finetune" in said.split()
    assert not {"torchvision", "torch._dynamo"} & set(said.split())
