import subprocess
import sys

from tests.conftest import ROOT

ENVIRONMENT = {"PYTHONPATH": str(ROOT / "src")}
OPTIMISERS = """
import sys
import torch
from torch.optim import SGD, Adam
from fewlabel.training import speedups

if "without" in sys.argv:
    speedups.leave_out_the_compiler()
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


def test_optimisers_do_without_the_compiler_and_step_the_same() -> None:
    """A new process each: what is imported stays so."""
    plain, without = (
        subprocess.check_output([sys.executable, "-c", OPTIMISERS, word], text=True, env=ENVIRONMENT)
        for word in ("", "without")
    )
    *plain_weights, plain_imports = plain.splitlines()
    *weights, imports = without.splitlines()
    assert weights == plain_weights
    assert (plain_imports, imports) == ("True", "False")
