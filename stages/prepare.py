"""Pack a dataset's raw archives into one file of arrays."""

from __future__ import annotations

import argparse
import importlib
import json
from pathlib import Path

from fewlabel import params as parameters
from fewlabel import tracking
from fewlabel.data import archives, prepared
from fewlabel.errors import UserError
from fewlabel.stage import launch

DATASETS = ("omniglot", "cifar10", "hymenoptera")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dataset", choices=DATASETS)
    dataset = parser.parse_args().dataset
    parameters.load()  # a mistake in the params stops every stage, not only the one that reads the section
    raw = Path("data/raw") / dataset
    with tracking.start("prepare", {"dataset": dataset}):
        pack = importlib.import_module(f"fewlabel.data.{dataset}").pack
        arrays = pack(raw, _verified(raw / "source.json"))
        prepared.write(Path("data/prepared") / f"{dataset}.npz", arrays)
    print("  ".join(f"{name} {array.dtype}{array.shape}" for name, array in arrays.items()))


def _verified(path: Path) -> str:
    """The origin of the files beside ``path``, which must be as they were downloaded: ``embedded`` for the stand-ins,
    ``archive`` for the real data, wherever it came from."""
    again = f"run `dvc repro download@{path.parent.name}`"
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        source, digests = told["source"], {path.with_name(name): each["sha256"] for name, each in told["files"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise UserError(f"{path}: missing or damaged; {again}") from None
    for file, digest in digests.items():
        if not file.is_file() or archives.file_digest(file) != digest:
            raise UserError(f"{file}: not what source.json says was downloaded; {again}")
    return "embedded" if source == "embedded" else "archive"


if __name__ == "__main__":
    launch(main)
