"""Get a dataset's archives, verified: from a mirror folder, the official address, or drawn here as stand-ins.

The archives are kept as they are, never extracted, beside a ``source.json`` that says where each came from.
"""

from __future__ import annotations

import argparse
import importlib
from pathlib import Path

from fewlabel import params as parameters
from fewlabel import tracking
from fewlabel.data import archives
from fewlabel.data import download as acquire
from fewlabel.data import standins as embedded
from fewlabel.results import whole_folder, write_json
from fewlabel.stage import launch


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dataset", choices=embedded.DRAW)
    dataset = parser.parse_args().dataset
    section = parameters.load().data
    with (
        tracking.start("download", section.model_dump()) as run,
        whole_folder(Path("data/raw") / dataset) as folder,
    ):
        source = _fill(dataset, folder, section)
        sizes = {path.name: path.stat().st_size for path in sorted(folder.iterdir())}
        files = {name: {"sha256": archives.file_digest(folder / name), "bytes": size} for name, size in sizes.items()}
        write_json(folder / "source.json", {"source": source, "files": files})
        run.tags(dataset=dataset, source=source)
    print(f"{dataset}: {len(sizes)} files, {sum(sizes.values()):,} bytes, source {source}")


def _fill(dataset: str, folder: Path, section: parameters.Data) -> str:
    if section.source == "embedded":
        embedded.DRAW[dataset](folder)
        return "embedded"
    wanted = importlib.import_module(f"fewlabel.data.{dataset}").ARCHIVES
    mirror = acquire.mirror_folder(section.mirror)
    sources = {acquire.obtain(archive, folder, mirror)[0] for archive in wanted}
    return "mirror" if "mirror" in sources else "official"


if __name__ == "__main__":
    launch(main)
