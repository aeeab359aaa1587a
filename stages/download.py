"""Get a dataset's archives, verified: from a mirror folder, the official address, or drawn here as stand-ins.

The archives are kept as they are, never extracted, beside a ``source.json`` that says where each came from.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from fewlabel import params as parameters
from fewlabel import tracking
from fewlabel.data import acquire, archives, cifar10, hymenoptera, omniglot
from stages.common import launch, whole_folder, write_json

DATASETS = {"omniglot": omniglot.ARCHIVES, "cifar10": cifar10.ARCHIVES, "hymenoptera": hymenoptera.ARCHIVES}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dataset", choices=DATASETS)
    dataset = parser.parse_args().dataset
    section = parameters.load().data
    with (
        tracking.start("download", section.model_dump()) as run,
        whole_folder(Path("data/raw") / dataset) as folder,
    ):
        source = _fill(dataset, folder, section)
        files = {
            path.name: {"sha256": archives.file_digest(path), "bytes": path.stat().st_size}
            for path in sorted(folder.iterdir())
        }
        write_json(folder / "source.json", {"source": source, "files": files})
        run.tags(dataset=dataset, source=source)
    acquire.forget(DATASETS[dataset])
    print(f"{dataset}: {len(files)} files, {sum(f['bytes'] for f in files.values()):,} bytes, source {source}")


def _fill(dataset: str, folder: Path, section: parameters.Data) -> str:
    if section.source == "embedded":
        from fewlabel.data import embedded

        embedded.draw(dataset, folder)
        return "embedded"
    mirror = acquire.mirror_folder(section.mirror)
    sources = {acquire.obtain(archive, folder, mirror)[0] for archive in DATASETS[dataset]}
    return "mirror" if "mirror" in sources else "official"


if __name__ == "__main__":
    launch(main)
