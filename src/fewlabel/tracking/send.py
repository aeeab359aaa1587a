"""Runs are made from the files of results: at a stage's end, or by ``make send-runs`` where the store missed it."""

from __future__ import annotations

import csv
import hashlib
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pydantic import RootModel

from fewlabel.data.archives import file_digest
from fewlabel.errors import UserError
from fewlabel.results import RESULTS, Metrics, read_json
from fewlabel.tracking import Row, models
from fewlabel.tracking.store import Store, explain, flat, root

RESULT = "fewlabel.result"  # tag: the digest of the result that a whole run was made from
COMPARISON = Path("metrics")
FILES = ("metrics.json", "run.json", "summary.json", "best.json")  # they tell one result from every other


def log_curve(store: Store, run: str, stage: str, rows: Iterable[Row]) -> None:
    """Rows of a curve, under one name in every method. A test while training is on some images: it is no result."""
    from mlflow.entities import Metric

    test = "curve_pretraining_" if stage.startswith("pretrain") else "curve_test_"
    metrics = []
    for step, seconds, numbers in rows:
        for key, value in numbers.items():
            name = key.removeprefix("train_").replace("test_", test)
            metrics.append(Metric(name, float(value), int(seconds * 1000), step))
    store.client.log_batch(run, metrics)


def publish(store: Store, run: str, parent: str | None, folder: Path) -> None:
    """All that a run has of the files in ``folder``. Raises `DamagedFile`."""
    measured, facts, summary, best = (_json(folder / name) for name in FILES)
    about, row = facts.get("about", {}), measured["rows"][0] if measured else {}
    told = about.get("model", {}) | about | facts | measured | row
    tags = {key: str(value) for key, value in told.items() if isinstance(value, str) or key == "seed"}
    numbers = read_json(folder / "metrics.json", Metrics).numbers() if measured else {}
    store.log(run, numbers | _costs(facts, about), tags)
    if Path(about.get("data", "")).is_file():
        _log_data(store, run, Path(about["data"]), tags.get("origin"))
    for picture in sorted(folder.rglob("*.png")):
        store.client.log_artifact(run, str(picture))
    if "model" in about:
        models.log(store, run, folder, about["model"] | {"settings": about["settings"]})
    # Called as in `dvc metrics show`, but that MLflow takes no "+".
    store.log(parent or run, {name.replace("+", "p"): value for name, value in flat(summary)}, {})
    for family, chosen in best.items():
        models.register(store, family, chosen)
    store.client.set_tag(run, RESULT, _digest(folder))  # at last: a run without it is not whole


def _costs(facts: dict[str, Any], about: dict[str, Any]) -> dict[str, float]:
    """Of ``run.json``. ``train_seconds`` are those of all the training behind a result, as on the leaderboard."""
    own = "test_seconds" if about.get("tests") else "stage_seconds"
    found = {own: facts.get("seconds"), **{key: facts.get(key) for key in ("validation_accuracy", "peak_memory_mib")}}
    trained: list[Any] = [_json(Path(folder) / "run.json").get("seconds") for folder in about.get("after", [])]
    trained += [] if about.get("tests") else [facts.get("seconds")]
    found["train_seconds"] = None if None in trained else sum(trained)
    return {key: value for key, value in found.items() if value is not None}


def _log_data(store: Store, run: str, path: Path, origin: str | None) -> None:
    """The prepared data, with the digest by which DVC knows the file."""
    from mlflow.entities import Dataset, DatasetInput

    name = path.parent.name if path.stem == "data" else path.stem  # a split, or a data set
    name += "-embedded" if origin == "embedded" else ""
    dataset = Dataset(name, file_digest(path, "md5"), "local", json.dumps({"uri": str(path)}))
    store.client.log_inputs(run, [DatasetInput(dataset, [])])


def _digest(folder: Path) -> str:
    """Of the folder's name too: two results may hold the same numbers."""
    content = [(folder / name).read_bytes() for name in FILES if (folder / name).exists()]
    return hashlib.sha256(b"".join([folder.as_posix().encode(), *content])).hexdigest()[:32]


def _json(path: Path) -> dict[str, Any]:
    """What the file holds; nothing where there is none. Raises `DamagedFile`."""
    return read_json(path, RootModel[dict[str, Any]]).root if path.exists() else {}


def send(store: Store) -> int:
    """Make a run of every result in the working directory that no run in the store carries; → how many cannot be."""
    refused = 0
    for folder in [*sorted(path.parent for path in RESULTS.glob("**/run.json")), COMPARISON]:
        if not folder.is_dir() or any(part.startswith(".") for part in folder.parts):  # a draft
            continue
        try:
            with store.lock:
                if not store.find(RESULT, _digest(folder)):
                    _send(store, folder)
                    print(f"{folder}: sent")
        except UserError as error:  # one that is damaged holds up no other
            refused += 1
            print(f"{folder}: not sent: {error}")
    return refused


def _send(store: Store, folder: Path) -> None:
    facts, ended = _json(folder / "run.json"), folder.stat().st_mtime
    name = "compare" if folder == COMPARISON else folder.relative_to(RESULTS).as_posix().replace("/", "@")
    run = store.create(name, facts.get("about", {}).get("settings", {}), ended - facts.get("seconds", 0), {})
    try:
        if (folder / "curve.csv").exists():
            with (folder / "curve.csv").open(newline="", encoding="utf-8") as file:
                rows = [{key: float(value) for key, value in row.items() if value} for row in csv.DictReader(file)]
            log_curve(store, run, name, [(int(row.pop("step")), ended, row) for row in rows])
        publish(store, run, None, folder)
    except UserError:
        store.client.delete_run(run)
        raise
    store.end(run, None, "FINISHED", name, ended)


if __name__ == "__main__":
    try:
        sys.exit(send(Store(root())) > 0)
    except Exception as error:  # of the store
        sys.exit(f"error: not all results are in MLflow: {explain(error)}")
