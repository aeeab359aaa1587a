"""The leaderboard: every stage's numbers gathered into one long table, each with its protocol and interval."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import pandas as pd
from pydantic import BaseModel, Field, ValidationError

from fewlabel.errors import UserError
from fewlabel.intervals import seed_interval
from fewlabel.params import Maml, Params

COLUMNS = (
    "family, method, dataset, protocol, transductive, seed, metric, value, ci95_low, ci95_high, n, "
    "train_seconds, device, budget, source, reference, reference_source"
).split(", ")
FINETUNE_STARTS = ("scratch", "rotation", "rotation-frozen-early", "rotation-frozen-last")
TRANSFER_STARTS = ("scratch", "finetune", "frozen", "small-scratch", "small-rotation")
# What MAML's switches make of it, by those that are on, in the order of `params.Maml`. MAML++ with its derivatives'
# order annealed or not: its paper does, its authors' settings for Omniglot do not.
MAML_SWITCHES = ("first_order", "second_order_from", "multi_step_loss", "learn_inner_lr", "anil")
MAML_VARIANTS = {
    (): "maml",
    ("first_order",): "fomaml",
    ("anil",): "anil",
    ("multi_step_loss", "learn_inner_lr"): "maml++",
    ("second_order_from", "multi_step_loss", "learn_inner_lr"): "maml++",
}


Share = Annotated[float, Field(ge=0, le=1)]


class Row(BaseModel):
    """One number, as a stage writes it: a row of the table to be."""

    family: Literal["few-shot", "label-efficiency", "transfer"]
    method: str
    dataset: str
    protocol: Annotated[str, Field(pattern=r"^[^/]+/[^/]+$")]
    transductive: bool
    seed: int
    metric: Literal["accuracy", "rotation_accuracy"]
    value: Share
    ci95_low: Share
    ci95_high: Share
    n: Annotated[int, Field(gt=0)]
    budget: str


class Measured(BaseModel):
    """``metrics.json``, which every stage that measures something writes."""

    origin: Literal["archive", "embedded", "own"]
    rows: Annotated[list[Row], Field(min_length=1)]
    episodes: dict[str, str] = {}  # few-shot: digests of the test episodes
    stopped_early: bool = False
    target_accuracy: float | None = None


class Run(BaseModel, extra="allow"):
    """``run.json``: how a stage ran on its machine."""

    device: str
    seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Source(BaseModel):
    """``source.json`` of raw data."""

    source: str


@dataclass(frozen=True)
class Cell:
    """One cell of the DAG that ends in numbers.

    Attributes:
        dataset: the prepared data it was measured on.
        measured: the folder with its ``metrics.json``.
        trained: the folders whose ``run.json`` hold the seconds of all the training behind those numbers.
    """

    dataset: str
    measured: Path
    trained: tuple[Path, ...]


def cells(params: Params, results: Path) -> Iterator[Cell]:
    """The cells that params.yaml names, so that a folder left from an earlier matrix is never read."""
    chosen = params.cells
    names = [
        (split, f"{method}-{split}-{seed}", "metric_train")
        for method in chosen.metric_methods
        for split in chosen.splits
        for seed in chosen.few_shot_seeds
    ] + [
        (split, f"{method}-{split}-{task}-{seed}", "meta_train")
        for method in chosen.gradient_methods
        for split in chosen.splits
        for task in chosen.tasks
        for seed in chosen.few_shot_seeds
    ]
    for split, name, stage in names:
        yield Cell(params.dataset(split), results / "evaluate" / name, (results / stage / name,))
    pretrained = results / "pretrain_rotation"
    yield Cell("cifar10", pretrained, (pretrained,))
    for start in FINETUNE_STARTS:
        for label_cell in chosen.label_cells:
            here = results / "finetune" / f"{start}-{label_cell}"
            yield Cell("cifar10", here, (here,) if start == "scratch" else (pretrained, here))
    before = {"frozen": (results / "transfer_features",), "small-rotation": (pretrained,)}
    for start in TRANSFER_STARTS:
        for seed in chosen.transfer_seeds:
            here = results / "transfer" / f"{start}-{seed}"
            yield Cell("hymenoptera", here, (*before.get(start, ()), here))


def gather(params: Params, results: Path, raw: Path) -> pd.DataFrame:
    """One row per number, with the columns `COLUMNS`.

    Args:
        results: the folder of the stages' outputs.
        raw: the folder of the raw data, whose ``source.json`` say where the archives came from.
    """
    sources = {}
    rows = []
    for cell in cells(params, results):
        measured = read_json(cell.measured / "metrics.json", Measured)
        runs = [read_json(folder / "run.json", Run) for folder in cell.trained]
        source = measured["origin"]  # embedded, own, or what an archive held, of which `raw` says where it came from
        if source == "archive":
            if cell.dataset not in sources:
                sources[cell.dataset] = read_json(raw / cell.dataset / "source.json", Source)["source"]
            source = sources[cell.dataset]
        for row in measured["rows"]:
            rows.append(
                labelled(row, measured, params)
                | {
                    "train_seconds": round(sum(run["seconds"] for run in runs), 1),
                    "device": runs[-1]["device"],
                    "source": source,
                }
            )
    table = pd.DataFrame(rows).merge(_references(), how="left", on=["method", "protocol", "transductive"])
    published = ~table["source"].isin(["embedded", "own"]) & (table["metric"] == "accuracy")
    table.loc[~published, ["reference", "reference_source"]] = None  # neither has a published number
    return table[COLUMNS].sort_values(
        ["family", "protocol", "method", "transductive", "seed", "metric"],
        key=_natural,
        kind="stable",
        ignore_index=True,
    )


def labelled(row: dict[str, Any], measured: dict[str, Any], params: Params) -> dict[str, Any]:
    """The row under a name of its own where it is not what its plain name says, so that it meets no number published of
    something else."""
    method, protocol = row["method"], row["protocol"]
    if method == "maml":
        method = _maml_variant(params.maml)
    if row["family"] == "label-efficiency" and row["metric"] == "accuracy" and params.finetune.loss == "focal":
        method = f"{method}-focal"
    if measured["stopped_early"]:  # chosen by looking at test images
        protocol = f"{protocol}/stopped-at-test-{measured['target_accuracy']:g}"
    return row | {"method": method, "protocol": protocol}


def _maml_variant(settings: Maml) -> str:
    """The variant's name; of a mix that has none, ``maml-`` and the switches that are on."""
    on = tuple(name for name in MAML_SWITCHES if getattr(settings, name))
    return MAML_VARIANTS.get(on, "-".join(["maml", *on]))


def runs(params: Params, results: Path) -> dict[str, Any]:
    """How each training went on its machine: device, seconds, versions, by the folder's name."""
    folders = {folder for cell in cells(params, results) for folder in (*cell.trained, cell.measured)}
    return {
        folder.relative_to(results).as_posix(): read_json(folder / "run.json", Run)
        for folder in sorted(folders)
        if (folder / "run.json").exists()
    }


def summary(table: pd.DataFrame) -> dict[str, Any]:
    """The readable handful for ``dvc metrics show`` and ``dvc exp show``, as means over seeds."""
    nested: dict[str, Any] = {}
    kinds = ["family", "method", "protocol", "transductive", "metric"]
    means = table.groupby(kinds, sort=False, as_index=False)["value"].mean()
    for row in pd.DataFrame(means).to_dict("records"):
        name = row["protocol"] if row["metric"] == "accuracy" else f"{row['protocol']}/{row['metric']}"
        method = f"{row['method']}-transductive" if row["transductive"] else row["method"]
        nested.setdefault(row["family"], {}).setdefault(method, {})[name] = round(float(row["value"]), 4)
    return nested


def best(params: Params, results: Path) -> dict[str, tuple[Path, dict[str, Any]]]:
    """Of each family the training with the highest test accuracy: its folder, and ``value, protocol, origin, budget``.

    Few-shot models are compared on the first split and task under ``cells``, each query answered without the others;
    the others on all that they are tested on.
    """
    few_shot = f"{params.cells.splits[0]}/{params.cells.tasks[0]}"
    found: dict[str, tuple[Path, dict[str, Any]]] = {}
    for cell in cells(params, results):
        measured = read_json(cell.measured / "metrics.json", Measured)
        for row in (labelled(row, measured, params) for row in measured["rows"]):
            family, plain = row["family"], row["metric"] == "accuracy" and not row["transductive"]
            if not plain or (family == "few-shot" and row["protocol"] != few_shot):
                continue
            if family not in found or row["value"] > found[family][1]["value"]:
                facts = {key: row[key] for key in ("value", "protocol", "budget")}
                found[family] = cell.trained[-1], facts | {"origin": measured["origin"]}
    return found


def over_seeds(table: pd.DataFrame) -> pd.DataFrame:
    """One row a method and protocol: means over seeds, with the interval over seeds, and their number ``seeds``.

    Of one seed the interval stays what it was, over episodes or images.
    """
    lines = []
    for _, rows in table.groupby(["family", "method", "protocol", "transductive", "metric"], sort=False):
        line = rows.iloc[0].to_dict() | {"seeds": len(rows), "train_seconds": rows["train_seconds"].mean()}
        if len(rows) > 1:
            line |= dict(zip(("value", "ci95_low", "ci95_high"), seed_interval(rows["value"].tolist()), strict=True))
            line["device"] = ", ".join(dict.fromkeys(rows["device"]))
        lines.append(line)
    return pd.DataFrame(lines)


def markdown(table: pd.DataFrame) -> str:
    """The leaderboard as a Markdown table: no number without protocol, interval, count, time, device and source."""
    lines = [
        "| family | method | protocol | transductive | accuracy, 95 % interval | seeds | n | published | difference | "
        "training | device | source |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in over_seeds(table).to_dict("records"):
        what = "" if row["metric"] == "accuracy" else f" ({row['metric'].replace('_', ' ')})"
        published = not pd.isna(row["reference"])
        lines.append(
            f"| {row['family']} | {row['method']} | {row['protocol']}{what} | {'yes' if row['transductive'] else 'no'} "
            f"| **{row['value']:.1%}** [{row['ci95_low']:.1%}, {row['ci95_high']:.1%}] | {row['seeds']} | {row['n']:,} "
            f"| {format(row['reference'], '.1%') if published else ''} "
            f"| {format(100 * (row['value'] - row['reference']), '+.1f') if published else ''} "
            f"| {row['train_seconds']:.0f} s | {row['device']} | {row['source']} |"
        )
    return "\n".join(lines) + "\n"


def read_json(path: Path, kind: type[BaseModel]) -> dict[str, Any]:
    """What the file holds, which is one of the kinds above. Raises `UserError` when it is missing or damaged."""
    try:
        return kind.model_validate_json(path.read_bytes()).model_dump()
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        reason = " ".join([".".join(map(str, first["loc"])), first["msg"]]).strip()
    except OSError as error:
        reason = str(error)
    raise UserError(f"{path}: cannot be read ({reason[:160]}); run `dvc repro` to make it again")


def _references() -> pd.DataFrame:
    table = pd.read_csv(Path(__file__).with_name("references.csv"))
    return table.rename(columns={"value": "reference", "source": "reference_source"})


def _natural(column: pd.Series) -> pd.Series:
    """Sort 5w1s before 20w1s, and 20-per-class before 100-per-class."""
    if column.dtype.kind in "iufb":
        return column
    return column.astype(str).str.replace(r"\d+", lambda m: m.group().zfill(6), regex=True)
