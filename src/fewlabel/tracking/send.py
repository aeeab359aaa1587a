"""Runs are made from the files of results: at a stage's end, or by ``make send-runs`` where the store missed it."""

from __future__ import annotations

import csv
import hashlib
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from fewlabel.errors import DamagedFile
from fewlabel.tracking import Row, models
from fewlabel.tracking.store import Store, explain, flat, root

RESULT = "fewlabel.result"  # tag: the digest of the result that a whole run was made from
RESULTS, COMPARISON = Path("results"), Path("metrics")
FILES = ("metrics.json", "run.json", "summary.json", "best.json")  # they tell one result from every other
# One name in every method, so that runs compare. What a curve has of test images is of some of them, and no result.
NAMES = {
    "train_loss": "loss",
    "train_accuracy": "accuracy",
    "test_loss": "curve_test_loss",
    "test_accuracy": "curve_test_accuracy",
}


def log_curve(store: Store, run: str, stage: str, rows: Iterable[Row]) -> None:
    from mlflow.entities import Metric

    other = stage == "pretrain_rotation"  # its test is not the one of the classes
    names = {key: name.replace("test", "rotation") if other else name for key, name in NAMES.items()}
    points = [(names.get(key, key), value, at, step) for step, at, numbers in rows for key, value in numbers.items()]
    store.client.log_batch(run, [Metric(name, float(value), int(at * 1000), step) for name, value, at, step in points])


def publish(store: Store, run: str, parent: str | None, folder: Path) -> None:
    """All that a run has of the files in ``folder``. Raises `DamagedFile`."""
    measured, facts, summary, best = (_json(folder / name) for name in FILES)
    rows, about = measured.get("rows", []), facts.get("about", {})
    told = about.get("model", {}) | about | facts | measured | (rows[0] if rows else {})
    tags = {key: str(value) for key, value in told.items() if isinstance(value, str) or key == "seed"}
    store.log(run, _numbers(rows) | _costs(facts, about), tags)
    if "data" in about:
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


def _numbers(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Of ``metrics.json``: the first protocol under the name that all methods share, few-shot tasks each by its own."""
    found = {}
    for row in rows:
        name = "test_accuracy" if row["metric"] == "accuracy" else row["metric"]
        mode = "_transductive" if row["transductive"] else ""
        if row["family"] == "few-shot":
            found[f"{name}_{row['protocol'].rpartition('/')[2]}{mode}"] = row["value"]
        if row["protocol"] == rows[0]["protocol"]:
            found[f"{name}{mode}"] = row["value"]
            found |= {f"{name}{mode}_low": row["ci95_low"], f"{name}{mode}_high": row["ci95_high"]}
    return found


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
    dataset = Dataset(name, models.md5(path), "local", json.dumps({"uri": str(path)}))
    store.client.log_inputs(run, [DatasetInput(dataset, [])])


def _digest(folder: Path) -> str:
    content = b"".join((folder / name).read_bytes() for name in FILES if (folder / name).exists())
    return hashlib.sha256(content).hexdigest()[:32]


def _json(path: Path) -> dict[str, Any]:
    """What the file holds; nothing where there is none. Raises `DamagedFile`."""
    try:
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    except ValueError as error:
        raise DamagedFile(path, error) from error


def send(store: Store) -> None:
    """Make a run of every result in the working directory that no run in the store carries."""
    for folder in [*sorted(path.parent for path in RESULTS.glob("**/run.json")), COMPARISON]:
        draft = any(part.startswith(".") for part in folder.parts)
        with store.lock:
            if folder.is_dir() and not draft and not store.find(RESULT, _digest(folder)):
                _send(store, folder)
                print(f"{folder}: sent")


def _send(store: Store, folder: Path) -> None:
    facts, ended = _json(folder / "run.json"), folder.stat().st_mtime
    name = "compare" if folder == COMPARISON else folder.relative_to(RESULTS).as_posix().replace("/", "@")
    run = store.create(name, facts.get("about", {}).get("settings", {}), ended - facts.get("seconds", 0), {})
    if (folder / "curve.csv").exists():
        with (folder / "curve.csv").open(newline="", encoding="utf-8") as file:
            rows = [{key: float(value) for key, value in row.items() if value} for row in csv.DictReader(file)]
        log_curve(store, run, name, [(int(row.pop("step")), ended, row) for row in rows])
    publish(store, run, None, folder)
    store.end(run, None, "FINISHED", name, ended)


if __name__ == "__main__":
    try:
        send(Store(root()))
    except Exception as error:  # of the store, or a damaged file
        sys.exit(f"error: not all results are in MLflow: {explain(error)}")
