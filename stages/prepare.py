"""Pack a dataset's raw archives into one file of arrays."""

from __future__ import annotations

import argparse
import importlib
import json
from pathlib import Path

from fewlabel import params as parameters
from fewlabel import tracking
from fewlabel.data import prepared
from fewlabel.errors import UserError
from stages.common import launch

DATASETS = ("omniglot", "cifar10", "hymenoptera")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dataset", choices=DATASETS)
    dataset = parser.parse_args().dataset
    parameters.load()  # a mistake in the params stops every stage, not only the one that reads the section
    raw = Path("data/raw") / dataset
    with tracking.start("prepare", {"dataset": dataset}):
        pack = importlib.import_module(f"fewlabel.data.{dataset}").pack
        arrays = pack(raw, _origin(raw / "source.json"))
        prepared.write(Path("data/prepared") / f"{dataset}.npz", arrays)
    print("  ".join(f"{name} {array.dtype}{array.shape}" for name, array in arrays.items()))


def _origin(path: Path) -> str:
    """``embedded`` for the stand-ins, ``archive`` for the real data, wherever it came from."""
    try:
        source = json.loads(path.read_text(encoding="utf-8"))["source"]
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(f"{path}: missing or damaged; run `dvc repro download@{path.parent.name}`") from None
    return "embedded" if source == "embedded" else "archive"


if __name__ == "__main__":
    launch(main)
