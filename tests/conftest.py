"""What all tests share: the repository's root, and tracking switched off unless a test asks for it."""

import os
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
os.environ["FEWLABEL_TRACKING"] = "off"


@pytest.fixture
def root() -> Path:
    return ROOT


@pytest.fixture
def mirror() -> Path:
    """The folder with the real archives; skips where there is none."""
    folder = os.environ.get("FEWLABEL_MIRROR")
    if not folder or not Path(folder).is_dir():
        pytest.skip("FEWLABEL_MIRROR names no folder with the real archives")
    return Path(folder)


def a_network(width: int, downsample: str = "stride") -> dict[str, Any]:
    """The settings of a network with as many channels in each block."""
    return {"widths": [width] * 4, "downsample": downsample}


def result_row(family: str, method: str, dataset: str, protocol: str, **more: Any) -> dict[str, Any]:
    """A made-up row of a ``metrics.json``; `more` sets other values."""
    return {
        "family": family,
        "method": method,
        "dataset": dataset,
        "protocol": protocol,
        "transductive": False,
        "seed": 0,
        "metric": "accuracy",
        "value": 0.6,
        "ci95_low": 0.5,
        "ci95_high": 0.7,
        "n": 4,
        "budget": "smoke",
        "network": "64-64-64-64-pool",
    } | more
