import subprocess
import sys

import torch

from fewlabel.training import device
from tests.conftest import ROOT

CPU = torch.device("cpu")

OPTIMISERS = """
import sys
import torch
from torch.optim import SGD, Adam
from fewlabel.training import device

if "pick" in sys.argv:
    device.pick("cpu")
for make in (lambda weights: Adam(weights, lr=0.1), lambda weights: SGD(weights, lr=0.1, momentum=0.9, nesterov=True)):
    weights = torch.linspace(-1, 1, 5, requires_grad=True)
    optimiser = make([weights])
    for _ in range(3):
        optimiser.zero_grad()
        (weights**4).sum().backward()
        optimiser.step()
        optimiser.load_state_dict(optimiser.state_dict())
    print(weights.tolist())
print("torch._dynamo" in sys.modules)
"""


def test_a_cpu_computes_in_full() -> None:
    assert device.precision(device.pick("cpu")) == "fp32"


def test_the_block_says_the_type_of_products(monkeypatch) -> None:
    for name, dtype in (("bf16", torch.bfloat16), ("fp32", torch.float32)):
        monkeypatch.setattr(device, "precision", lambda _, name=name: name)
        with device.autocast(CPU):
            assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == dtype


def test_optimisers_do_without_the_compiler_and_step_the_same() -> None:
    """A new process each: what is imported stays so."""
    plain, picked = (
        subprocess.run([sys.executable, "-c", OPTIMISERS, word], check=True, capture_output=True, text=True).stdout
        for word in ("", "pick")
    )
    *plain_weights, plain_imports = plain.splitlines()
    *weights, imports = picked.splitlines()
    assert weights == plain_weights
    assert (plain_imports, imports) == ("True", "False")


def test_no_stage_starts_with_torchvision_or_the_compiler() -> None:
    """Each takes longer than all else a stage starts with."""
    names = [path.stem for path in (ROOT / "stages").glob("*.py") if path.stem != "__init__"]
    script = f"import sys, {', '.join(f'stages.{name}' for name in names)}; print(*sys.modules)"
    said = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True, cwd=ROOT).stdout
    assert "stages.finetune" in said.split()
    assert not {"torchvision", "torch._dynamo"} & set(said.split())


def test_a_checkpoint_is_keyed_by_how_many_processes_share_the_training(monkeypatch) -> None:
    alone = device.mode(torch.device("cpu"))
    monkeypatch.setattr(device.dist, "is_initialized", lambda: True)
    monkeypatch.setattr(device.dist, "get_world_size", lambda: 2)
    assert device.mode(torch.device("cpu")) == alone | {"processes": 2}
    assert alone["processes"] == 1
