"""The leaderboard: every stage's numbers gathered into one long table, each with its protocol and interval."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

from fewlabel import results
from fewlabel.intervals import seed_interval
from fewlabel.params import Maml, Params
from fewlabel.results import Metrics, Row, Run

COLUMNS = (
    "family, method, network, dataset, protocol, transductive, seed, metric, value, ci95_low, ci95_high, n, "
    "train_seconds, device, budget, source, reference, reference_source"
).split(", ")
NUMBER = ["family", "method", "network", "protocol", "transductive", "metric"]  # what the seeds of a number share
# Of MAML, those that make another method of it. Its paper allows for learnt inner rates (section 2.2). MAML++ has them
# and the multi-step loss; its paper anneals the derivatives' order too, its authors' settings for Omniglot do not.
MAML_SWITCHES = ("second_order_from", "multi_step_loss")


def gather(params: Params) -> pd.DataFrame:
    """One row per number, with the columns `COLUMNS`."""
    rows = []
    for cell in results.finished(params):
        metrics, runs = cell.metrics(), cell.runs()
        more = {"train_seconds": round(sum(run.seconds for run in runs), 1), "device": runs[-1].device}
        source = metrics.origin  # embedded, own, or what an archive held; then where that archive came from
        if source == "archive":
            more["source"] = results.read_json(results.RAW / cell.dataset / "source.json", results.Source).source
        rows += [named(row, metrics, params).model_dump() | {"source": source} | more for row in metrics.rows]
    table = pd.DataFrame(rows).merge(_references(), how="left", on=["method", "protocol", "transductive"])
    published = ~table["source"].isin(["embedded", "own"]) & (table["metric"] == "accuracy")
    table.loc[~published, ["reference", "reference_source"]] = None  # neither has a published number
    return table[list(COLUMNS)].sort_values(
        ["family", "protocol", "method", "transductive", "seed", "metric"],
        key=_natural,
        kind="stable",
        ignore_index=True,
    )


def named(row: Row, metrics: Metrics, params: Params) -> Row:
    """The row under a name of its own where it is not what its plain name says, so that it meets no number published of
    something else."""
    method, protocol = row.method, row.protocol
    settings = getattr(params, method, None)
    if isinstance(settings, Maml):
        method = _variant(method, settings)
    if row.family == "label-efficiency" and row.metric == "accuracy" and params.finetune.loss == "focal":
        method = f"{method}-focal"
    if metrics.stopped_early:  # chosen by looking at test images
        protocol = f"{protocol}/stopped-at-test-{metrics.target_accuracy:g}"
    return row.model_copy(update={"method": method, "protocol": protocol})


def _variant(method: str, settings: Maml) -> str:
    """``maml++``, or the method with the names of the switches that are on."""
    if method == "maml" and settings.multi_step_loss and settings.learn_inner_lr:
        return "maml++"
    return "-".join([method, *(name for name in MAML_SWITCHES if getattr(settings, name))])


def runs(params: Params) -> dict[str, Any]:
    """How each training went on its machine: device, seconds, versions, by the folder's name."""
    folders = {folder for cell in results.finished(params) for folder in (*cell.trained, cell.measured)}
    found = {folder: results.read_json(folder / "run.json", Run) for folder in sorted(folders)}
    return {
        folder.relative_to(results.RESULTS).as_posix(): run.model_dump(exclude={"about"}, exclude_unset=True)
        for folder, run in found.items()
    }


def summary(table: pd.DataFrame) -> dict[str, Any]:
    """The readable handful for ``dvc metrics show`` and ``dvc exp show``, as means over seeds."""
    nested: dict[str, Any] = {}
    for row in over_seeds(table).to_dict("records"):
        name = row["protocol"] if row["metric"] == "accuracy" else f"{row['protocol']}/{row['metric']}"
        method = f"{row['method']}-transductive" if row["transductive"] else row["method"]
        nested.setdefault(row["family"], {}).setdefault(method, {})[name] = round(float(row["value"]), 4)
    return nested


def best(params: Params) -> dict[str, dict[str, Any]]:
    """Of each family the training with the highest validation accuracy: ``folder, value, protocol, origin, budget``.

    Only accuracies of one validation protocol are compared: of the first training that params.yaml names. A family
    without one has no best model, as test classes and test images choose nothing.
    """
    found: dict[str, dict[str, Any]] = {}
    for cell in results.finished(params):
        run, metrics = cell.runs()[-1], cell.metrics()
        if run.validation_accuracy is None:
            continue
        facts = {"value": run.validation_accuracy, "protocol": run.validation_protocol, "origin": metrics.origin}
        facts |= {"folder": str(cell.trained[-1]), "budget": metrics.rows[0].budget}
        earlier = found.setdefault(cell.family, facts)
        if facts["protocol"] == earlier["protocol"] and facts["value"] > earlier["value"]:
            found[cell.family] = facts
    return found


def over_seeds(table: pd.DataFrame) -> pd.DataFrame:
    """One row a method and protocol: means over seeds, with the interval over seeds, and their number ``seeds``.

    Of one seed the interval stays what it was, over episodes or images.
    """
    lines = []
    for _, rows in table.groupby(NUMBER, sort=False):
        line = rows.iloc[0].to_dict() | {"seeds": len(rows), "train_seconds": rows["train_seconds"].mean()}
        if len(rows) > 1:
            line |= dict(zip(("value", "ci95_low", "ci95_high"), seed_interval(rows["value"].tolist()), strict=True))
            line["device"] = ", ".join(dict.fromkeys(rows["device"]))
        lines.append(line)
    return pd.DataFrame(lines)


# The columns of the Markdown table: no number without protocol, interval, count, time, device and source.
MARKDOWN: dict[str, Callable[[Any], str]] = {
    "family": lambda row: row["family"],
    "method": lambda row: row["method"],
    "network": lambda row: row["network"],
    "protocol": lambda row: row["protocol"] + ("" if row["metric"] == "accuracy" else f" ({kind_of(row['metric'])})"),
    "transductive": lambda row: "yes" if row["transductive"] else "no",
    "accuracy, 95 % interval": lambda row: f"**{row['value']:.1%}** [{row['ci95_low']:.1%}, {row['ci95_high']:.1%}]",
    "seeds": lambda row: f"{row['seeds']}",
    "n": lambda row: f"{row['n']:,}",
    "published": lambda row: f"{row['reference']:.1%}" if pd.notna(row["reference"]) else "",
    "difference": lambda row: f"{100 * (row['value'] - row['reference']):+.1f}" if pd.notna(row["reference"]) else "",
    "training": lambda row: f"{row['train_seconds']:.0f} s",
    "device": lambda row: row["device"],
    "source": lambda row: row["source"],
}


def kind_of(metric: str) -> str:
    """``rotation accuracy``."""
    return metric.replace("_", " ")


def markdown(table: pd.DataFrame) -> str:
    """The leaderboard as a Markdown table, a line for each method and protocol."""
    return markdown_table(MARKDOWN, over_seeds(table))


def markdown_table(columns: dict[str, Callable[[Any], str]], table: pd.DataFrame) -> str:
    """A Markdown table with a line for each row of `table`; `columns` says by header what its cells say of a row."""
    lines = [list(columns), ["---"] * len(columns)]
    lines += [[say(row) for say in columns.values()] for row in table.to_dict("records")]
    head, rule, *rows = (f"| {' | '.join(line)} |" for line in lines)
    return "\n".join([head, rule.replace(" ", ""), *rows]) + "\n"


def _references() -> pd.DataFrame:
    table = pd.read_csv(Path(__file__).with_name("references.csv"))
    return table.rename(columns={"value": "reference", "source": "reference_source"})


def _natural(column: pd.Series) -> pd.Series:
    """Sort 5w1s before 20w1s, and 20-per-class before 100-per-class."""
    if column.dtype.kind in "iufb":
        return column
    return column.astype(str).str.replace(r"\d+", lambda m: m.group().zfill(6), regex=True)
