"""What a stage leaves in its folder: written whole or not at all, and typed. The only code that knows the names and
fields of these files, and the names of these folders.

- ``metrics.json``: the numbers (`Metrics`), of stages that measure something;
- ``run.json``: how the stage ran on its machine (`Run`), which differs from run to run;
- ``curve.csv``: a training's curve, one line a point;
- ``episodes.csv``: the accuracy of each test episode;
- ``predictions.csv``: what was predicted of each photograph.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shutil
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar, get_args

from pydantic import BaseModel, Field, ValidationError

from fewlabel.errors import DamagedFile, UserError
from fewlabel.grammar import test_task
from fewlabel.interrupts import uninterrupted
from fewlabel.params import Params, PretrainMethod, TransferStart, parse_label_cell

if TYPE_CHECKING:
    import pandas as pd

FEW_SHOT_CURVE = ["step", "loss", "accuracy", "val_loss", "val_accuracy"]
VALIDATION_TASK = "20w1s"  # where a method has no task of its own: the hardest protocol tells models apart best
SUPERVISED_CURVE = ["step", "epoch", "train_loss", "train_accuracy", "test_loss", "test_accuracy"]
EPISODES = ["task", "transductive", "episode", "accuracy"]  # the columns of episodes.csv,
PREDICTIONS = ["name", "true", "predicted", "confidence"]  # and of predictions.csv
RESULTS, RAW = Path("results"), Path("data/raw")
FEATURES = RESULTS / "transfer_features"
FROZEN = tuple(f"rotation-frozen-{groups}" for groups in (1, 2, 3))
FINETUNED = ("scratch", *get_args(PretrainMethod), *FROZEN)
Family = Literal["few-shot", "label-efficiency", "transfer"]
Share = Annotated[float, Field(ge=0, le=1)]


class Row(BaseModel, frozen=True):
    """One number: a row of the leaderboard. ``n`` counts what the interval is over: episodes, images or trials."""

    family: Family
    method: str
    dataset: str
    protocol: Annotated[str, Field(pattern=r"^[^/]+/[^/]+$")]
    transductive: bool = False
    seed: int
    metric: Literal["accuracy", "pretraining_accuracy"] = "accuracy"
    value: Share
    ci95_low: Share
    ci95_high: Share
    n: Annotated[int, Field(gt=0)]
    budget: str
    network: str

    @classmethod
    def of(cls, interval: tuple[float, float, float], n: int, **facts: Any) -> Row:
        """Of a value with its interval (value, low, high), as the functions of `intervals` give it."""
        value, low, high = interval
        return cls(value=value, ci95_low=low, ci95_high=high, n=n, **facts)

    def __str__(self) -> str:
        return f"{self.value:.2%} [{self.ci95_low:.2%}, {self.ci95_high:.2%}] of {self.n:,}"


class Metrics(BaseModel):
    """``metrics.json``."""

    origin: Annotated[str, Field(pattern="^(archive|embedded|own)$")]
    rows: Annotated[list[Row], Field(min_length=1)]
    episodes: dict[str, str] = {}  # few-shot: digests of the test episodes, by task
    stopped_early: bool = False
    steps: int | None = None
    target_accuracy: float | None = None

    def by_task(self) -> list[tuple[str, Row]]:
        """Few-shot: each row with the name of its test task."""
        return [(test_task(row.protocol), row) for row in self.rows]

    def numbers(self) -> dict[str, float]:
        """The first protocol under the name that all methods share; few-shot tasks also each under its own."""
        found = {}
        for row in self.rows:
            name = "test_accuracy" if row.metric == "accuracy" else row.metric
            mode = "_transductive" if row.transductive else ""
            if row.family == "few-shot":
                found[f"{name}_{test_task(row.protocol)}{mode}"] = row.value
            if row.protocol == self.rows[0].protocol:
                interval = {f"{name}{mode}_low": row.ci95_low, f"{name}{mode}_high": row.ci95_high}
                found |= {f"{name}{mode}": row.value, **interval}
        return found

    def write(self, folder: Path) -> None:
        rows = [row.model_dump(exclude_none=True) for row in self.rows]
        write_json(folder / "metrics.json", self.model_dump(exclude_unset=True) | {"rows": rows})


class Run(BaseModel, extra="allow"):
    """``run.json``."""

    device: str
    seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    validation_accuracy: Share | None = None
    validation_protocol: str | None = None


class Source(BaseModel):
    """``source.json`` of raw data: where the archives came from."""

    source: str


@dataclass(frozen=True)
class Cell:
    """One training with its measurement: an entry of the matrices in dvc.yaml.

    Attributes:
        method: the few-shot method, or what the training starts from.
        dataset: the prepared data it was measured on.
        measured: the folder with its ``metrics.json``.
        trained: the folders whose ``run.json`` hold the seconds of all the training behind those numbers, its own last.
        split, task: few-shot: the division of the classes, and the task it was trained for, if for one.
        labels: label efficiency: labels per class.
    """

    family: Family
    method: str
    dataset: str
    seed: int
    measured: Path
    trained: tuple[Path, ...]
    split: str = ""
    task: str | None = None
    labels: int | None = None

    @property
    def name(self) -> str:
        return self.measured.name

    def row(self, interval: tuple[float, float, float], n: int, **facts: Any) -> Row:
        """A number of this training; ``facts`` are its protocol, the budget, and what is not as it says here."""
        own = {"family": self.family, "method": self.method, "dataset": self.dataset, "seed": self.seed}
        return Row.of(interval, n, **own | facts)

    def metrics(self) -> Metrics:
        return read_json(self.measured / "metrics.json", Metrics)

    def runs(self) -> list[Run]:
        return [read_json(folder / "run.json", Run) for folder in self.trained]

    def curve(self) -> pd.DataFrame:
        """The training's curve, one line a point."""
        columns = FEW_SHOT_CURVE if self.family == "few-shot" else SUPERVISED_CURVE
        return read_csv(self.trained[-1] / "curve.csv", columns).astype({"step": int})

    def episodes(self) -> pd.DataFrame:
        """task, transductive, episode, accuracy: one line a test episode."""
        return read_csv(self.measured / "episodes.csv", EPISODES, task=str, transductive=bool)

    def predictions(self) -> pd.DataFrame:
        """name, true, predicted, confidence: one line a test photograph."""
        return read_csv(self.measured / "predictions.csv", PREDICTIONS, name=str, true=str, predicted=str)


def few_shot(method: str, split: str, task: str | None, seed: int) -> Cell:
    """A few-shot method on a split, trained for a task where it needs a fixed way."""
    name = "-".join(filter(None, [method, split, task, str(seed)]))
    trained = RESULTS / ("meta_train" if task else "metric_train") / name
    return Cell("few-shot", method, Params.dataset(split), seed, RESULTS / "evaluate" / name, (trained,), split, task)


def pretrained(method: str, seed: int) -> Cell:
    """Pretraining on CIFAR-10 without labels."""
    folder = RESULTS / "pretrain" / method
    return Cell("label-efficiency", method, "cifar10", seed, folder, (folder,))


def finetuning(start: str, labels: int, seed: int) -> Cell:
    """Training on so many labels of CIFAR-10 a class."""
    folder = RESULTS / "finetune" / f"{start}-{labels}-{seed}"
    method = start.partition("-")[0]
    before = () if method == "scratch" else pretrained(method, seed).trained
    return Cell("label-efficiency", start, "cifar10", seed, folder, (*before, folder), labels=labels)


def transfer(start: str, seed: int) -> Cell:
    """Training on the photographs."""
    folder = RESULTS / "transfer" / f"{start}-{seed}"
    before = {"frozen": (FEATURES,), "small-rotation": pretrained("rotation", seed).trained}
    return Cell("transfer", start, "hymenoptera", seed, folder, (*before.get(start, ()), folder))


def cells(params: Params) -> Iterator[Cell]:
    """Those that params.yaml names, so that a folder left from earlier parameters is never read."""
    chosen = params.cells
    for methods, tasks in ((chosen.metric_methods, [None]), (chosen.gradient_methods, chosen.tasks)):
        for method, split, task, seed in itertools.product(methods, chosen.splits, tasks, chosen.few_shot_seeds):
            yield few_shot(method, split, task, seed)
    for method in get_args(PretrainMethod):
        yield pretrained(method, params.pretrain.seed)
    for start in FINETUNED:
        for label_cell in chosen.frozen_cells if start in FROZEN else chosen.label_cells:
            yield finetuning(start, *parse_label_cell(label_cell))
    yield finetuning("scratch-resnet18", *parse_label_cell(chosen.label_cells[0]))
    for start, seed in itertools.product(get_args(TransferStart), chosen.transfer_seeds):
        yield transfer(start, seed)


def finished(params: Params) -> list[Cell]:
    """Those of `cells` that have been measured. Raises `UserError` when none has."""
    found = [cell for cell in cells(params) if cell.measured.is_dir()]
    if not found:
        raise UserError(f"{RESULTS}: has nothing that params.yaml names; `dvc repro` makes it")
    return found


File = TypeVar("File", bound=BaseModel)


def read_json(path: Path, kind: type[File]) -> File:
    """What the file holds. Raises `DamagedFile`."""
    try:
        return kind.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise DamagedFile(path, " ".join([".".join(map(str, first["loc"])), first["msg"]]).strip()) from None
    except OSError as error:
        raise DamagedFile(path, error) from None


def read_csv(path: Path, columns: list[str], **types: type) -> pd.DataFrame:
    """These columns of a table, of numbers where no other type is said. Raises `DamagedFile`."""
    import pandas as pd  # takes half a second, and only compare reads tables

    try:
        return pd.read_csv(path, dtype=defaultdict(lambda: float, types))[columns]
    except (OSError, ValueError, KeyError) as error:
        raise DamagedFile(path, error) from None


@contextlib.contextmanager
def whole_folder(path: str | Path) -> Iterator[Path]:
    """A draft folder to fill. It replaces ``path`` when the block ends without an error, and is deleted otherwise.

    Each process has a draft of its own (``.NAME.PID.draft``), so two that make the same result do not disturb each
    other. A link at ``path`` is replaced; what it leads to stays.
    """
    import psutil  # a served model, which writes nothing, does without it

    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    for left_over in path.parent.glob(f".{path.name}.*.draft"):
        owner = int(left_over.name.split(".")[-2])
        if owner == os.getpid() or not psutil.pid_exists(owner):  # of a process that was killed
            shutil.rmtree(left_over, ignore_errors=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}.draft")
    new, old = draft / "new", draft / "old"
    try:
        with naming(path):
            new.mkdir(parents=True)
            yield new
        with uninterrupted():
            if os.path.lexists(path):
                shutil.move(path, old)  # copies where the layers of a container refuse to rename a folder
            new.rename(path)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """A block of writes to ``path``. The `OSError` of a write (a full disk) names no file by itself; it does here."""
    try:
        yield
    except OSError as error:
        if error.errno and not error.filename:
            error.filename = str(path)
        raise


def write_json(path: Path, value: Any) -> None:
    """Sorted, so that equal values give equal bytes. Raises `ValueError` for NaN and infinity."""
    path.write_text(json.dumps(value, indent=1, sort_keys=True, allow_nan=False) + "\n", encoding="utf-8")
