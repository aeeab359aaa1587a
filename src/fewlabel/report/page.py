"""The report: one HTML file with the leaderboard, the figures and what was run, which opens without a network.

Equal inputs give equal bytes: what differs from run to run is what `run.json` holds.
"""

from __future__ import annotations

import base64
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
from PIL import Image

from fewlabel.errors import UserError
from fewlabel.grammar import Task, labels_per_class, test_task
from fewlabel.report.leaderboard import over_seeds
from fewlabel.report.paired import to_the_best

QUESTIONS = {
    "few-shot": "Classify N unseen characters from K drawings of each.",
    "label-efficiency": "Does pretraining without labels beat training from scratch, and up to how many labels?",
    "transfer": "A few hundred photographs of ants and bees: from scratch, from ImageNet weights, or from rotations?",
}
SOURCES = {
    "official": "the official archives, downloaded",
    "mirror": "the official archives, from a mirror folder, their content checked",
    "embedded": "stand-ins drawn by the program",
    "own": "own images",
}

KINDS = {
    "within": "all of one alphabet",
    "runs": "Lake's 20 published runs, 400 trials",
    "tutorial": "the first classes, the first drawings labelled",
}

# Of each figure title, caption and alt, its text for those who do not see it.
WORDS = tomllib.loads(Path(__file__).with_name("figures.toml").read_text(encoding="utf-8"))


@dataclass(frozen=True)
class Picture:
    """One figure of the report.

    Attributes:
        path: of the PNG.
        title, caption: shown with it.
        alt: what it shows, for those who do not see it.
    """

    path: Path
    title: str
    caption: str
    alt: str

    @property
    def embedded(self) -> dict[str, Any]:
        """``src`` with the image in it, ``width`` and ``height`` in pixels."""
        with Image.open(self.path) as image:
            width, height = image.size
            kind = str(image.format).lower()
        return {
            "src": f"data:image/{kind};base64,{base64.b64encode(self.path.read_bytes()).decode()}",
            "width": width,
            "height": height,
        }


def html(
    table: pd.DataFrame, differences: pd.DataFrame, runs: dict[str, Any], pictures: list[Picture], dpi: int
) -> str:
    """The report as text.

    Args:
        table: of `leaderboard.gather`, as comparison.csv has it.
        differences: of `paired.differences`.
        runs: of `leaderboard.runs`.
        dpi: of the pictures, so that they are shown at their size in print.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"percent": _percent, "points": _points, "duration": _duration}
    lines = over_seeds(table)
    stand_in = list(dict.fromkeys(table.loc[table["source"] == "embedded", "dataset"]))
    photographs = lines[lines["family"] == "transfer"]["n"]
    return environment.get_template("page.html.jinja").render(
        stand_in=stand_in,
        all_stand_in=len(stand_in) == table["dataset"].nunique(),
        own=list(dict.fromkeys(table.loc[table["source"] == "own", "dataset"])),
        budget=", ".join(dict.fromkeys(table["budget"])),
        devices=list(dict.fromkeys(table["device"])),
        seconds=sum(run["seconds"] for run in runs.values()),
        families=[_family(str(family), rows) for family, rows in lines.groupby("family", sort=False)],
        photographs=int(photographs.iloc[0]) if len(photographs) else 0,
        differences=[
            {"protocol": protocol, "best": rows.iloc[0].to_dict(), "others": rows.to_dict("records")}
            for protocol, rows in to_the_best(differences).groupby("protocol", sort=False)
        ],
        data=_data(table),
        machines=_machines(runs),
        runs=runs,
        pictures=pictures,
        dpi=dpi,
    )


def _family(name: str, lines: pd.DataFrame) -> dict[str, Any]:
    """A family's protocols with their rows, best first, and the sources of its published numbers, counted from 1."""
    sources = list(dict.fromkeys(lines["reference_source"].dropna()))
    protocols = []
    for protocol, part in lines.groupby("protocol", sort=False):
        rows = []
        for row in part.sort_values("value", ascending=False, kind="stable").to_dict("records"):
            published = not pd.isna(row["reference"])
            rows.append(
                row
                | {
                    "metric": "" if row["metric"] == "accuracy" else row["metric"].replace("_", " "),
                    "best": len(part) > 1 and row["value"] == part["value"].max(),
                    "published": row["reference"] if published else None,
                    "difference": row["value"] - row["reference"] if published else None,
                    "note": sources.index(row["reference_source"]) + 1 if published else None,
                }
            )
        protocols.append({"name": protocol, "meaning": meaning(str(protocol)), "rows": rows})
    return {"name": name, "question": QUESTIONS.get(name, ""), "protocols": protocols, "sources": sources}


def meaning(protocol: str) -> str:
    """A protocol in words: ``lake/5w1s`` is "5 classes, 1 labelled image of each". Empty where it has none."""
    _, _, what = protocol.partition("/")
    if labels := labels_per_class(protocol):
        return f"{labels:,} labels per class"
    try:
        task = Task.parse(test_task(protocol))
    except UserError:
        others = {
            "which-rotation": "which of four rotations, no labels",
            "which-image": "which image of a batch a crop is of, no labels",
            "train-val": "trained on the official training photographs, measured on the validation ones",
        }
        return others.get(what, "")
    classes = f"{task.way} classes" if task.way else "every test class at once"
    queries = f", {_count(task.queries, 'query', 'queries')} of each" if task.queries else ""
    more = [KINDS[task.kind]] if task.kind else []
    more += ["upright"] if task.upright else []
    more += [f"each the mean over {task.copies} distorted copies"] if task.copies > 1 else []
    return ", ".join([f"{classes}, {_count(task.shot, 'labelled image')} of each{queries}", *more])


def _count(number: int, one: str, many: str | None = None) -> str:
    return f"{number} {one if number == 1 else many or one + 's'}"


def _data(table: pd.DataFrame) -> list[dict[str, str]]:
    pairs = table[["dataset", "source"]].drop_duplicates().to_dict("records")
    return [{"dataset": pair["dataset"], "source": SOURCES.get(pair["source"], pair["source"])} for pair in pairs]


def _machines(runs: dict[str, Any]) -> list[dict[str, Any]]:
    """What ran where: each device with its versions, how many stages it ran and for how long."""
    found: dict[tuple[str, str, str], dict[str, Any]] = {}
    for run in runs.values():
        key = (run["device"], str(run.get("torch", "")), str(run.get("torchvision", "")))
        machine = found.setdefault(key, {"device": key[0], "torch": key[1], "torchvision": key[2]})
        machine["stages"] = machine.get("stages", 0) + 1
        machine["seconds"] = machine.get("seconds", 0.0) + run["seconds"]
    return list(found.values())


def _percent(value: float) -> str:
    return f"{value:.1%}"


def _points(value: float, digits: int = 1) -> str:
    """A difference of two accuracies in percentage points, with its sign."""
    return f"{100 * value:+.{digits}f}".replace("-", "−")


def _duration(seconds: float) -> str:
    if seconds < 1000:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"
