"""Paired differences: the same episodes or none, the interval of the differences and not of the accuracies."""

import json
from pathlib import Path

import numpy as np
import pytest
import yaml

from fewlabel import params, results
from fewlabel.errors import UserError
from fewlabel.report import paired
from fewlabel.report.figures import few_shot, style
from tests.conftest import ROOT, result_row
from tests.report.test_figures import table_of


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> params.Params:
    monkeypatch.chdir(tmp_path)
    raw = yaml.safe_load((ROOT / "params.yaml").read_text())
    raw["cells"] |= {"metric_methods": ["siamese", "prototypes"], "gradient_methods": ["maml"], "tasks": ["5w1s"]}
    return params.parse(raw | {"cells": raw["cells"] | {"few_shot_seeds": [0, 1]}})


def write(folder: Path, method: str, seed: int, by_task: dict[tuple[str, bool], np.ndarray], digest: str = "d") -> None:
    folder.mkdir(parents=True)
    rows = [
        result_row("few-shot", method, "omniglot", f"lake/{task}", transductive=mode, seed=seed, n=len(each))
        for (task, mode), each in by_task.items()
    ]
    digests = {task: f"{digest}-{task}" for task, _ in by_task}
    (folder / "metrics.json").write_text(json.dumps({"origin": "embedded", "rows": rows, "episodes": digests}))
    lines = [
        f"{task},{mode},{i},{accuracy:.6f}" for (task, mode), each in by_task.items() for i, accuracy in enumerate(each)
    ]
    (folder / "episodes.csv").write_text("\n".join(["task,transductive,episode,accuracy", *lines]) + "\n")


def fill(digest_of_maml: str = "d") -> dict[str, list[np.ndarray]]:
    rng = np.random.default_rng(0)
    hardness = rng.uniform(0.3, 0.9, 200)  # of the episodes, shared by all methods
    made: dict[str, list[np.ndarray]] = {"siamese": [], "prototypes": [], "maml": [], "maml transductive": []}
    for seed in (0, 1):
        for number, name in enumerate(made):
            made[name].append(np.round(hardness + 0.02 * number + rng.normal(0, 0.02, 200), 6))
        for name in ("siamese", "prototypes"):
            other = np.round(rng.uniform(0, 1, 200), 6)
            write(
                results.RESULTS / "evaluate" / f"{name}-lake-{seed}", name, seed,
                {("20w1s", False): other, ("5w1s", False): made[name][-1]},
            )  # fmt: skip
        modes = {("5w1s", True): made["maml transductive"][-1], ("5w1s", False): made["maml"][-1]}
        write(results.RESULTS / "evaluate" / f"maml-lake-5w1s-{seed}", "maml", seed, modes, digest_of_maml)
    return made


def test_a_difference_is_the_mean_over_episodes_and_seeds_with_its_own_interval(settings) -> None:
    made = fill()
    table = paired.differences(settings)
    assert list(table.columns) == paired.COLUMNS
    assert table["protocol"].tolist() == ["lake/20w1s"] + ["lake/5w1s"] * 6  # 4 entries: 6 pairs
    row = table[(table["other"] == "siamese") & (table["transductive"])].iloc[0]
    assert row["method"] == "maml"
    each = sum(one - other for one, other in zip(made["maml transductive"], made["siamese"], strict=True)) / 2
    half = 1.96 * each.std(ddof=1) / np.sqrt(200)
    assert row["difference"] == pytest.approx(each.mean(), abs=1e-9)
    assert row["difference"] == pytest.approx(row["accuracy"] - row["other_accuracy"])
    assert (row["ci95_low"], row["ci95_high"]) == pytest.approx((each.mean() - half, each.mean() + half), abs=1e-9)
    assert (row["n"], row["seeds"]) == (200, 2)
    unpaired = 1.96 * made["maml"][0].std(ddof=1) / np.sqrt(200)
    assert half < unpaired / 5  # what pairing is for
    assert (table["difference"] >= 0).all()


def test_other_episodes_are_refused(settings) -> None:
    fill(digest_of_maml="other")
    with pytest.raises(
        UserError, match=r"maml-lake-5w1s-0 and .*siamese-lake-0 were not measured on the same episodes"
    ):
        paired.differences(settings)


def test_the_markdown_names_the_best_and_the_figure_is_drawn(settings, tmp_path) -> None:
    fill()
    table = paired.differences(settings)
    lines = paired.markdown(table).splitlines()
    assert sum("| lake/5w1s | maml (transductive) |" in line for line in lines) == 3
    assert any("| prototypes | **" in line or "| siamese | **" in line for line in lines)
    style.save(few_shot.paired_differences(paired.to_the_best(table), table_of(seeds=1)), tmp_path / "paired.png")
    assert (tmp_path / "paired.png").stat().st_size > 10_000
