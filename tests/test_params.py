"""params.yaml: what is right is read for its budget, what is wrong is refused in one line that names it."""

import copy
from dataclasses import replace

import pytest
import yaml
from dvc.utils.serialize import parse_yaml
from hypothesis import given
from hypothesis import strategies as st

from fewlabel import params, strict
from fewlabel.errors import UserError
from fewlabel.fewshot.cells import Cell
from tests.conftest import ROOT

RAW = yaml.safe_load((ROOT / "params.yaml").read_text())


def changed(path: str, value: object) -> dict:
    raw = copy.deepcopy(RAW)
    *sections, key = path.split(".")
    section = raw
    for name in sections:
        section = section[name]
    section[key] = value
    return raw


def test_the_committed_file_is_valid_for_every_budget() -> None:
    for budget in params.BUDGETS:
        assert params.parse(changed("budget", budget)).budget == budget


@pytest.mark.parametrize(
    ("entries", "values"),
    [({"smoke": 3, "cpu": 4, "night": 5, "gpu": 6}, [3, 4, 5, 6]), ({"smoke": 3, "cpu": 4}, [3, 4, 4, 4])],
)
def test_a_mapping_over_budgets_gives_the_chosen_entry(entries: dict[str, int], values: list[int]) -> None:
    raw = changed("maml.iterations", entries)
    assert [params.parse({**raw, "budget": budget}).maml.iterations for budget in params.BUDGETS] == values


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("maml.inner_lrr", 0.1, "maml.inner_lrr = 0.1: unknown parameter; the closest valid key is maml.inner_lr"),
        ("seimese", {}, "seimese = {}: unknown parameter; the closest valid key is siamese"),
        ("maml.inner_lr", -1, "maml.inner_lr = -1: input should be greater than 0"),
        ("maml.inner_lr", float("nan"), "maml.inner_lr = nan"),
        ("maml.learn_inner_lr", "yes", "maml.learn_inner_lr = 'yes': input should be a valid boolean"),
        ("maml.iterations", 1.5, "maml.iterations = 1.5: input should be a valid integer"),
        ("maml.iterations", {"smoke": 1}, "maml.iterations: has no value for budget 'cpu'"),
        ("budget", "huge", "budget = 'huge': must be one of smoke, cpu, night, gpu"),
        ("episodes.tasks", ["5w6s"], "task 5w6s with 15 queries a class needs 21 drawings of each class"),
        ("cells.label_cells", ["5001-0"], "cells.label_cells.0 = '5001-0'"),
        ("cells.label_cells", ["20"], "cells.label_cells.0 = '20'"),
        ("cells.tasks", ["7w1s"], "cells.tasks names 7w1s, and no test task of lake has that way and shot"),
        ("cells.tasks", ["5w1s1q"], "cells.tasks.0 = '5w1s1q'"),
        ("cells.splits", ["flowers"], "cells.splits names flowers, and there are lake, vinyals: own images go under"),
        ("episodes.tasks", ["all-21s"], "task all-21s with 15 queries a class needs 36 drawings"),
        ("episodes.published_tasks", {"vinyals": ["5w19s5q"]}, "task 5w19s5q with 5 queries a class needs 24"),
        ("own_images.lake", {"folder": "x"}, "own_images.lake: that name is taken"),
        ("own_images.my-flowers", {"folder": "x"}, "own_images.my-flowers"),
        ("own_images." + "a" * 41, {"folder": "x"}, "own_images.aaaa"),
        ("cells.few_shot_seeds", [0, 1, 0], "cells.few_shot_seeds: 0 stands there twice: take one out"),
        ("cells.label_cells", ["20-0", "20-0"], "cells.label_cells: '20-0' stands there twice"),
        ("cells.label_cells", ["20-00"], "cells.label_cells.0 = '20-00'"),
        ("own_images.flowers", {"folder": "~/x"}, "own_images.flowers: folder = '~/x': DVC does not know ~"),
        ("own_images.flowers", {"folder": "x", "size": 15}, "own_images.flowers.size = 15: input should be greater"),
        ("own_images.flowers", {"folder": "x", "test": 0.6, "validation": 0.5}, "test + validation = 1.1 leave no"),
        (
            "own_images.flowers",
            {"folder": "x", "color": True},
            "own_images.flowers.color = True: unknown parameter; the closest valid key is own_images.flowers.colour",
        ),
        ("maml.queries", 16, "maml.queries = 16 with task 5w5s needs 21 drawings"),
        ("episodes.tasks", ["5x1"], "episodes.tasks.0 = '5x1'"),
        (
            "cells.metric_methods",
            ["maml"],
            "cells.metric_methods names maml, and there are siamese, prototypes, nearest",
        ),
        (
            "cells.gradient_methods",
            ["mamml"],
            "cells.gradient_methods names mamml, and there are maml, fomaml, anil",
        ),
        ("transfer_from.frozen.rl", 1, "transfer_from.frozen.rl = 1: unknown parameter; the closest valid key is"),
        ("prototypes.queries", 20, "prototypes: shot 1 with 20 queries needs 21 drawings"),
        ("launch", "sh -c x", "launch = 'sh -c x'"),
        ("device", "tpu", "device = 'tpu'"),
        ("maml", None, "maml = None"),
    ],
)
def test_a_mistake_is_refused_in_one_line(path: str, value: object, message: str) -> None:
    with pytest.raises(UserError) as refusal:
        params.parse(changed(path, value))
    assert message in str(refusal.value)
    assert "\n" not in str(refusal.value)


@given(
    way=st.one_of(st.none(), st.integers(1, 9999)), shot=st.integers(1, 99),
    queries=st.one_of(st.none(), st.integers(1, 99)), upright=st.booleans(),
)  # fmt: skip
def test_a_task_is_what_its_name_says(way: int | None, shot: int, queries: int | None, upright: bool) -> None:
    name = f"{way}w{shot}s" if way else f"all-{shot}s"
    name += (f"{queries}q" if queries else "") + ("-upright" if upright else "")
    assert params.Task.parse(name) == params.Task(way, shot, queries, upright)


@pytest.mark.parametrize("name", ["", "5w", "5w0s", "w1s", "all5s", "5w1s0q", "5w1s-tilted", "5w1s1q1q", " 5w1s"])
def test_what_is_no_task_is_refused(name: str) -> None:
    with pytest.raises(UserError, match="no task; one is written like 5w1s"):
        params.Task.parse(name)


def test_each_split_has_its_test_tasks() -> None:
    raw = changed(
        "own_images", {"flowers": {"folder": "x", "tasks": ["5w1s", "5w5s5q", "3w1s"]}, "pets": {"folder": "y"}}
    )
    chosen = params.parse(raw)
    assert chosen.test_tasks("pets") == chosen.episodes.tasks
    for split, published in RAW["episodes"]["published_tasks"].items():
        assert chosen.test_tasks(split) == [*chosen.episodes.tasks, *published]
    assert chosen.test_tasks("flowers") == ["5w1s", "5w5s5q", "3w1s"]
    assert (chosen.dataset("lake"), chosen.dataset("pets")) == ("omniglot", "pets")


def test_a_mistyped_key_is_named_rather_than_the_gap_it_leaves() -> None:
    raw = copy.deepcopy(RAW)
    raw["maml"]["inner_lrr"] = raw["maml"].pop("inner_lr")
    with pytest.raises(
        UserError, match=r"maml\.inner_lrr = .*unknown parameter; the closest valid key is maml\.inner_lr"
    ):
        params.parse(raw)


def test_a_missing_key_is_named() -> None:
    raw = copy.deepcopy(RAW)
    del raw["reptile"]["inner_lr"]
    with pytest.raises(UserError, match=r"reptile\.inner_lr: missing"):
        params.parse(raw)


@pytest.mark.parametrize("text", ["", "- 1", "a: [", "\x00", "{", "42", "a: !!python/object:os.system {}"])
def test_what_is_no_mapping_of_sections_is_refused(tmp_path, text: str) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(text)
    with pytest.raises(UserError):
        params.load(path)


def test_a_missing_file_is_refused(tmp_path) -> None:
    with pytest.raises(UserError, match="cannot be read"):
        params.load(tmp_path / "params.yaml")


def test_a_task_that_is_tested_nowhere_is_refused() -> None:
    cell = Cell(params.load(ROOT / "params.yaml"), "maml", "lake", "5w1s", 0)
    assert cell.test_tasks() == ["5w1s", "within-5w1s"]
    with pytest.raises(UserError, match="7w3s: no test task of lake has that way and shot: 5w1s, "):
        replace(cell, task="7w3s").test_tasks()


@pytest.mark.parametrize("text", ["010", "1_000", "0b11", "0x1F", "1e-3", "1E-3", ".001", "1:30", "yes", "2026-11-24"])
def test_scalars_are_read_as_dvc_reads_them(text: str) -> None:
    assert strict.read(f"key: {text}", "x") == parse_yaml(f"key: {text}", "x")


@pytest.mark.parametrize(
    "text",
    ["!!int ''", "!!bool x", "!unknown x", "!!python/object/apply:os.system [x]", "1}, b: {a: 1, a: 2", "[" * 21],
)
def test_what_is_no_yaml_or_no_plain_data_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="x: not valid YAML"):
        strict.read(f"{{key: {text}}}", "x")


def test_an_alias_is_refused() -> None:
    with pytest.raises(UserError, match="line 2: aliases are not read here"):
        strict.read("a: &a [1]\nb: *a", "x")


def test_a_label_cell() -> None:
    assert params.parse_label_cell("1000-2") == (1000, 2)
    for wrong in ("20", "0-0", "20-", "5001-0", "20-0-1"):
        with pytest.raises(UserError, match="as in 20-0"):
            params.parse_label_cell(wrong)
