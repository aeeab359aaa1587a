"""dvc.yaml against the code: a stage runs again when, and only when, code that decides its results changes."""

import itertools
import re
from typing import Any

import grimp
import pytest
import yaml

from fewlabel.params import METHODS
from tests.conftest import ROOT

DAG = yaml.safe_load((ROOT / "dvc.yaml").read_text())
PARAMS = yaml.safe_load((ROOT / "params.yaml").read_text())
# Modules that decide no result: they read params, check, show, download or write files, or say where a stage runs.
# (`device` sets the precision that the hardware has; the parameter `device` is a dependency.)
PLUMBING = {
    "fewlabel.data.download",
    "fewlabel.data.prepared",
    "fewlabel.errors",
    "fewlabel.fewshot.cells",
    "fewlabel.fewshot.requirements",
    "fewlabel.grammar",
    "fewlabel.interrupts",
    "fewlabel.networks.weights",
    "fewlabel.params",
    "fewlabel.progress",
    "fewlabel.results",
    "fewlabel.stage",
    "fewlabel.strict",
    "fewlabel.tracking",
    "fewlabel.training.checkpoint",
    "fewlabel.training.dependencies",
    "fewlabel.training.device",
    "fewlabel.training.processes",
    "fewlabel.training.speedups",
}
# Read archives and images; elsewhere these modules are imported by the loaders of prepared data, and decide nothing.
READ_RAW_DATA = ("download", "download_backbone", "prepare", "episodes", "own_episodes")
RAW = {"fewlabel.data.archives", "fewlabel.data.images"}


def interpolate(text: str, item: dict[str, Any]) -> str:
    text = text.replace("${cells.label_cells[0]}", PARAMS["cells"]["label_cells"][0])
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


EXPANDED = [
    (name, stage.get("do", stage), item)  # a stage of `foreach` is what it does for each
    for name, stage in DAG["stages"].items()
    for item in cells(stage)
]


@pytest.fixture(scope="module")
def graph() -> grimp.ImportGraph:
    return grimp.build_graph("fewlabel", "stages", cache_dir=None)


def path_of(module: str) -> str:
    base = f"src/{module}" if module.startswith("fewlabel") else module
    return f"{base.replace('.', '/')}.py"


def module_of(path: str) -> str:
    return path.removeprefix("src/").removesuffix(".py").replace("/", ".")


def imported(graph: grimp.ImportGraph, module: str, left_out: set[str]) -> set[str]:
    """The module and all that it imports, at any distance, but not through those left out. Packages hold no code."""
    found, new = set(), {module}
    while new:
        found |= new
        new = set().union(*(graph.find_modules_directly_imported_by(each) for each in new)) - found - left_out
    return {each for each in found if not (ROOT / path_of(each).removesuffix(".py")).is_dir()}


@pytest.mark.parametrize(
    ("name", "stage", "item"), EXPANDED, ids=[f"{n}@{'-'.join(map(str, i.values()))}" for n, _, i in EXPANDED]
)
def test_code_dependencies_are_the_imports(graph: grimp.ImportGraph, name: str, stage: dict, item: dict) -> None:
    (script,) = re.findall(r"-m (stages\.\w+)", stage["cmd"])
    code = [dep for dep in stage["deps"] if dep.startswith(("src/", "stages/"))]
    declared = {interpolate(dep, item) for dep in code}
    folders = {dep for dep in declared if (ROOT / dep).is_dir()}
    # What is imported by name at run time, a method or a data set, is declared through the matrix.
    roots = {script} | {module_of(interpolate(dep, item)) for dep in code if "${item" in dep}
    left_out = PLUMBING if name in READ_RAW_DATA else PLUMBING | RAW
    if name == "compare":  # which reads what the others only write
        left_out = left_out - {"fewlabel.results", "fewlabel.grammar"}
    if "${cells.gradient_methods}" in str(stage.get("matrix")):
        roots.add("fewlabel.fewshot.methods.maml")  # of which some methods are made; the others run again too often
    used = {path_of(each) for root in roots for each in imported(graph, root, left_out)}
    assert all((ROOT / dep).exists() for dep in declared)
    assert declared - folders == {
        path for path in used if not path.startswith(tuple(folder + "/" for folder in folders))
    }


def test_every_method_has_a_file_and_a_section_and_none_is_left_out() -> None:
    files = {path.stem for path in (ROOT / "src/fewlabel/fewshot/methods").glob("*.py")} - {"__init__", "base"}
    assert files == set(METHODS)


def test_plots_are_of_files_in_git() -> None:
    """`dvc exp run` reads all of them at its end: with one in the cache, a fresh clone loses the experiment."""
    for plot in DAG["plots"]:
        assert (plot if isinstance(plot, str) else next(iter(plot))).startswith("metrics/")
