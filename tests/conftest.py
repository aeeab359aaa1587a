"""What all tests share: the repository's root, and tracking switched off unless a test asks for it."""

import os
from pathlib import Path

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
