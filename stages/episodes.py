"""Class splits of Omniglot and the fixed test episodes, as index arrays: ``python -m stages.episodes lake``."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from fewlabel import episodes, params, tracking
from fewlabel.data import omniglot
from stages.common import launch, whole_folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("split", choices=["lake", "vinyals"])
    arguments = parser.parse_args()
    settings = params.load().episodes

    with tracking.start(f"episodes@{arguments.split}", settings.model_dump()) as run:
        data = omniglot.load("data/prepared/omniglot.npz")
        split = episodes.make_split(data, arguments.split, settings.validation_alphabets, settings.seed)
        run.tags(origin=data.origin)
        with whole_folder(Path("data/episodes") / arguments.split) as out:
            np.savez(out / "split.npz", train=split.train, validation=split.validation, test=split.test)
            for task in settings.tasks:
                shape = episodes.Shape(settings.count, *params.parse_task(task), settings.queries)
                where = f"episodes.tasks ({task}, {arguments.split} test)"
                episodes.check(shape, len(split.test), where, where)
                fixed = episodes.fixed(shape, len(split.test), settings.seed, task)
                np.savez(
                    out / f"{task}.npz",
                    classes=fixed.classes.numpy().astype(np.int32),
                    support=fixed.support.numpy().astype(np.uint8),
                    query=fixed.query.numpy().astype(np.uint8),
                )
        sizes = f"{len(split.train)} training, {len(split.validation)} validation, {len(split.test)} test classes"
        print(f"{arguments.split}: {sizes}; {settings.count} test episodes of each of {', '.join(settings.tasks)}")


if __name__ == "__main__":
    launch(main)
