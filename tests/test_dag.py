"""dvc.yaml against the code: a stage re-runs when, and only when, code that it uses changes."""

import itertools
import re
from typing import Any, get_args

import grimp
import pytest
import yaml

from fewlabel.params import Cells
from tests.conftest import ROOT

DAG = yaml.safe_load((ROOT / "dvc.yaml").read_text())
PARAMS = yaml.safe_load((ROOT / "params.yaml").read_text())
# Modules that check, show or record a run, or choose where it runs: a stage does not depend on them. (`device` sets
# the precision that the hardware has; the parameter `device` is a dependency.)
PLUMBING = {
    "stages",
    "fewlabel",
    "fewlabel.training",
    "fewlabel.training.checkpoint",
    "fewlabel.training.device",
    "fewlabel.errors",
    "fewlabel.interrupts",
    "fewlabel.networks.weights",
    "fewlabel.params",
    "fewlabel.progress",
    "fewlabel.results",
    "fewlabel.stage",
    "fewlabel.tracking",
    "fewlabel.tracking.process",
    "fewlabel.tracking.store",
}


def interpolate(text: str, item: dict[str, Any]) -> str:
    return re.sub(r"\$\{item\.(\w+)\}", lambda match: str(item[match.group(1)]), text)


def cells(stage: dict[str, Any]) -> list[dict[str, Any]]:
    if "foreach" in stage:  # over a person's own images, of which none are committed
        return [{"folder": "somewhere"}]
    axes = {}
    for name, values in stage.get("matrix", {}).items():
        if isinstance(values, str):
            section, key = values.removeprefix("${").removesuffix("}").split(".")
            values = PARAMS[section][key]
        axes[name] = values
    return [dict(zip(axes, combination, strict=True)) for combination in itertools.product(*axes.values())]


def flat(stage: dict[str, Any]) -> dict[str, Any]:
    """A stage of `foreach` is what it does for each."""
    return stage["do"] if "foreach" in stage else stage


EXPANDED = [(name, flat(stage), item) for name, stage in DAG["stages"].items() for item in cells(stage)]


@pytest.fixture(scope="module")
def graph() -> grimp.ImportGraph:
    return grimp.build_graph("fewlabel", "stages", cache_dir=None)


def path_of(module: str) -> str:
    base = module.replace(".", "/")
    base = f"src/{base}" if module.startswith("fewlabel") else base
    return f"{base}/__init__.py" if (ROOT / base).is_dir() else f"{base}.py"


@pytest.mark.parametrize(
    ("name", "stage", "item"), EXPANDED, ids=[f"{n}@{'-'.join(map(str, i.values()))}" for n, _, i in EXPANDED]
)
def test_code_dependencies_are_the_imports(graph: grimp.ImportGraph, name: str, stage: dict, item: dict) -> None:
    script = re.search(r"-m (stages\.\w+)", stage["cmd"])
    assert script
    declared = {interpolate(dep, item) for dep in stage["deps"] if dep.endswith(".py")}
    # What is imported by name at run time (one method, one data set) is declared through the matrix.
    by_name = {interpolate(dep, item) for dep in stage["deps"] if dep.endswith(".py") and "${item" in dep}
    roots = {script.group(1)} | {path.removeprefix("src/").removesuffix(".py").replace("/", ".") for path in by_name}
    used = set(roots)
    for module in roots:
        used |= graph.find_upstream_modules(module)
    packages = {module for module in used if path_of(module).endswith("__init__.py")}
    expected = {path_of(module) for module in used - PLUMBING - packages}
    packages_with_code = {path_of(m) for m in packages - PLUMBING if (ROOT / path_of(m)).read_text().count("\n") > 3}
    assert declared == expected | packages_with_code


def test_every_declared_file_of_ours_exists() -> None:
    for _, stage, item in EXPANDED:
        for dep in stage["deps"]:
            path = interpolate(dep, item)
            if path.startswith(("src/", "stages/")):
                assert (ROOT / path).exists(), path


def test_every_method_there_is_may_be_a_cell() -> None:
    files = {path.stem for path in (ROOT / "src/fewlabel/fewshot/methods").glob("*.py")} - {"__init__", "base"}
    allowed = {
        name
        for kind in ("metric_methods", "gradient_methods")
        for name in get_args(get_args(Cells.model_fields[kind].annotation)[0])
    }
    assert allowed == files
