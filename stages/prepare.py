"""Pack a data set's raw archives into one file of arrays."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from fewlabel import params as parameters
from fewlabel import tracking
from fewlabel.data import archives, cifar10, hymenoptera, omniglot, prepared
from fewlabel.errors import DamagedFile
from fewlabel.stage import launch

PACK = {"omniglot": omniglot.pack, "cifar10": cifar10.pack, "hymenoptera": hymenoptera.pack}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dataset", choices=PACK)
    dataset = parser.parse_args().dataset
    parameters.load()  # a mistake in the params stops every stage, not only the one that reads the section
    raw = Path("data/raw") / dataset
    with tracking.start("prepare", {"dataset": dataset}):
        arrays = PACK[dataset](raw, _verified(raw / "source.json"))
        prepared.write(Path("data/prepared") / f"{dataset}.npz", arrays)
    print("  ".join(f"{name} {array.dtype}{array.shape}" for name, array in arrays.items()))


def _verified(path: Path) -> str:
    """The origin of the files beside ``path``, which must be as they were downloaded: ``embedded`` for the drawn data,
    ``archive`` for the real data, wherever it came from."""
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        source, digests = told["source"], {path.with_name(name): each["sha256"] for name, each in told["files"].items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedFile(path, error) from error
    for file, digest in digests.items():
        if not file.is_file() or archives.file_digest(file) != digest:
            raise DamagedFile(file, "not what source.json says was downloaded")
    return "embedded" if source == "embedded" else "archive"


if __name__ == "__main__":
    launch(main)
