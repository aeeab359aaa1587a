"""Get a data set's archives, verified, from a mirror folder or the official address, or draw small ones (embedded).

The archives are kept as they are, never extracted, beside a ``source.json`` that says where each came from.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from fewlabel import params as parameters
from fewlabel import tracking
from fewlabel.data import archives, standins
from fewlabel.data.download import mirror_folder, obtain
from fewlabel.data.sources import SOURCES
from fewlabel.results import whole_folder, write_json
from fewlabel.stage import launch


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dataset", choices=SOURCES)
    dataset = parser.parse_args().dataset
    section = parameters.load().data
    logged = section.model_dump() | {"dataset": dataset}
    with tracking.start("download", logged), whole_folder(Path("data/raw") / dataset) as folder:
        source = _fill(dataset, folder, section)
        sizes = {path.name: path.stat().st_size for path in sorted(folder.iterdir())}
        files = {name: {"sha256": archives.file_digest(folder / name), "bytes": size} for name, size in sizes.items()}
        write_json(folder / "source.json", {"source": source, "files": files})
    print(f"{dataset}: {len(sizes)} files, {sum(sizes.values()):,} bytes, source {source}")


def _fill(dataset: str, folder: Path, section: parameters.Data) -> str:
    if section.source == "embedded":
        standins.DRAW[dataset](folder)
        return "embedded"
    places = {obtain(source, folder, mirror_folder(section.mirror))[0] for source in SOURCES[dataset]}
    return "mirror" if "mirror" in places else "official"


if __name__ == "__main__":
    launch(main)
