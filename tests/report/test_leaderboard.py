"""The leaderboard: every named cell, nothing else, each number with where it came from."""

import json
import re
from pathlib import Path

import pandas as pd
import pytest
import yaml

from fewlabel import params
from fewlabel.errors import UserError
from fewlabel.report import leaderboard
from tests.conftest import ROOT, result_row


@pytest.fixture
def settings() -> params.Params:
    raw = yaml.safe_load((ROOT / "params.yaml").read_text())
    few_shot = {"splits": ["vinyals"], "tasks": ["5w1s"], "few_shot_seeds": [0, 1]}
    raw["cells"] |= few_shot | {"label_cells": ["20-0", "100-0"], "transfer_seeds": [0]}
    return params.parse(raw)


def fill(settings: params.Params, results: Path, raw: Path, origin: str = "archive") -> None:
    """Made-up results for every cell: 10 s of training each, accuracy 0.5."""
    for cell in leaderboard.cells(settings, results):
        for folder in (*cell.trained, cell.measured):
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "run.json").write_text(json.dumps({"seconds": 10.0, "device": "abacus"}))
        name = cell.measured.name
        protocol = {"omniglot": "vinyals/5w1s1q", "flowers": "flowers/5w1s", "cifar10": "cifar10/20-per-class"}.get(
            cell.dataset, "hymenoptera/all"
        )
        family = {"cifar10": "label-efficiency", "hymenoptera": "transfer"}.get(cell.dataset, "few-shot")
        mode = name.startswith(("maml", "reptile"))
        row = result_row(family, name.split("-")[0], cell.dataset, protocol, transductive=mode, value=0.5)
        (cell.measured / "metrics.json").write_text(json.dumps({"origin": origin, "rows": [row]}))
        (raw / cell.dataset).mkdir(parents=True, exist_ok=True)
        (raw / cell.dataset / "source.json").write_text(json.dumps({"source": "mirror"}))


def test_every_cell_gives_its_row_with_source_time_and_reference(settings, tmp_path) -> None:
    fill(settings, tmp_path / "results", tmp_path / "raw")
    stale = tmp_path / "results" / "evaluate" / "maml-vinyals-5w1s-7"
    stale.mkdir()
    (stale / "metrics.json").write_text("not even JSON")
    table = leaderboard.gather(settings, tmp_path / "results", tmp_path / "raw")
    assert list(table.columns) == leaderboard.COLUMNS
    # 5 methods x 2 seeds, 1 pretraining, 4 starts x 2 numbers of labels, 5 transfer starts
    assert len(table) == 5 * 2 + 1 + 4 * 2 + 5
    assert set(table["source"]) == {"mirror"}
    maml = table[(table["method"] == "maml")].iloc[0]
    assert (maml["reference"], maml["reference_source"]) == (0.987, "Finn et al. 2017")
    assert maml["train_seconds"] == 10.0
    pretrained = table[table["method"] == "rotation"]
    assert set(pretrained["train_seconds"]) == {20.0}  # the pretraining counts


def test_stand_in_data_say_so_and_are_set_beside_no_published_number(settings, tmp_path) -> None:
    fill(settings, tmp_path / "results", tmp_path / "raw", origin="embedded")
    table = leaderboard.gather(settings, tmp_path / "results", tmp_path / "raw")
    assert set(table["source"]) == {"embedded"}
    assert table["reference"].isna().all()


def test_own_images_say_so_and_are_set_beside_no_published_number(settings, tmp_path) -> None:
    own = {"own_images": {"flowers": params.OwnImages(folder="x")}}
    cells = settings.cells.model_copy(update={"splits": ["vinyals", "flowers"]})
    both = settings.model_copy(update=own | {"cells": cells})
    fill(both, tmp_path / "results", tmp_path / "raw")
    for cell in leaderboard.cells(both, tmp_path / "results"):
        if cell.dataset == "flowers":
            path = cell.measured / "metrics.json"
            path.write_text(json.dumps(json.loads(path.read_text()) | {"origin": "own"}))
    table = leaderboard.gather(both, tmp_path / "results", tmp_path / "raw")
    flowers = table[table["dataset"] == "flowers"]
    assert len(flowers) == 5 * 2
    assert set(flowers["source"]) == {"own"}
    assert set(flowers["protocol"]) == {"flowers/5w1s"}
    assert flowers["reference"].isna().all()
    assert table.loc[table["dataset"] != "flowers", "reference"].notna().any()


def test_the_best_of_a_family_is_its_highest_accuracy_on_comparable_tasks(settings, tmp_path) -> None:
    fill(settings, tmp_path / "results", tmp_path / "raw")
    few_shot = [("5w1s", 0.7), ("5w5s", 0.9)]  # of each model; one is a little better, one on another task alone
    for cell in leaderboard.cells(settings, tmp_path / "results"):
        measured = json.loads((cell.measured / "metrics.json").read_text())
        (row,) = measured["rows"]
        if cell.dataset == "omniglot":
            better = {"maml-vinyals-5w1s-1": (0.1, 0), "siamese-vinyals-0": (0, 0.1)}.get(cell.measured.name, (0, 0))
            measured["rows"] = [
                row | {"protocol": f"vinyals/{task}", "value": value + more, "transductive": False}
                for (task, value), more in zip(few_shot, better, strict=True)
            ]
            if row["transductive"]:  # what only knowing the other queries gives does not count
                measured["rows"].insert(0, row | {"protocol": "vinyals/5w1s", "value": 0.95})
        elif cell.dataset == "cifar10":
            value = {"rotation-100-0": 0.6, "pretrain_rotation": 0.99}.get(cell.measured.name, 0.5)
            metric = "rotation_accuracy" if cell.measured.name == "pretrain_rotation" else "accuracy"
            measured["rows"] = [row | {"value": value, "metric": metric}]
        (cell.measured / "metrics.json").write_text(json.dumps(measured))
    best = leaderboard.best(settings, tmp_path / "results")
    assert {family: folder.relative_to(tmp_path / "results").as_posix() for family, (folder, _) in best.items()} == {
        "few-shot": "meta_train/maml-vinyals-5w1s-1",
        "label-efficiency": "finetune/rotation-100-0",
        "transfer": "transfer/scratch-0",
    }
    facts = {"value": pytest.approx(0.8), "protocol": "vinyals/5w1s", "origin": "archive", "budget": "smoke"}
    assert best["few-shot"][1] == facts


def test_a_missing_result_is_named(settings, tmp_path) -> None:
    fill(settings, tmp_path / "results", tmp_path / "raw")
    (tmp_path / "results" / "transfer" / "frozen-0" / "metrics.json").unlink()
    with pytest.raises(UserError, match=r"frozen-0/metrics\.json: cannot be read"):
        leaderboard.gather(settings, tmp_path / "results", tmp_path / "raw")


def seeds_of(method: str, values: list[float]) -> pd.DataFrame:
    row = {
        "family": "few-shot",
        "method": method,
        "dataset": "omniglot",
        "protocol": "vinyals/5w1s",
        "transductive": True,
        "metric": "accuracy",
        "ci95_low": 0.9,
        "ci95_high": 0.96,
        "n": 1000,
        "train_seconds": 100.0,
        "device": "abacus",
        "budget": "cpu",
        "source": "mirror",
        "reference": 0.987,
        "reference_source": "Finn et al. 2017",
    }
    return pd.DataFrame([row | {"seed": seed, "value": value} for seed, value in enumerate(values)])


def test_several_seeds_are_one_line_with_students_interval() -> None:
    table = pd.concat([seeds_of("maml", [0.95, 0.94, 0.93]), seeds_of("fomaml", [0.93])], ignore_index=True)
    three, one = leaderboard.over_seeds(table).to_dict("records")
    assert three["seeds"] == 3
    assert three["value"] == pytest.approx(0.94)
    assert three["ci95_low"] == pytest.approx(0.94 - 4.303 * 0.01 / 3**0.5)
    assert three["ci95_high"] == pytest.approx(0.94 + 4.303 * 0.01 / 3**0.5)
    assert (one["seeds"], one["value"], one["ci95_low"], one["ci95_high"]) == (1, 0.93, 0.9, 0.96)
    lines = leaderboard.markdown(table).splitlines()
    assert len(lines) == 2 + 2
    assert "| **94.0%** [91.5%, 96.5%] | 3 | 1,000 | 98.7% | -4.7 | 100 s | abacus |" in lines[2]


def test_the_summary_is_the_mean_over_seeds() -> None:
    table = pd.DataFrame(
        {
            "family": "few-shot",
            "method": "maml",
            "protocol": "lake/5w1s",
            "transductive": [True, True, False],
            "metric": "accuracy",
            "value": [0.25, 0.75, 0.25],
        }
    )
    modes = {"maml-transductive": {"lake/5w1s": 0.5}, "maml": {"lake/5w1s": 0.25}}
    assert leaderboard.summary(table) == {"few-shot": modes}


def test_the_published_numbers_are_unique_by_method_and_protocol() -> None:
    table = pd.read_csv(Path(leaderboard.__file__).with_name("references.csv"))
    assert not table.duplicated(["method", "protocol", "transductive"]).any()
    assert table["value"].between(0, 1).all()


def test_the_docs_show_the_committed_leaderboard() -> None:
    """A number in the docs comes from the run whose results are committed."""
    board = (ROOT / "metrics" / "leaderboard.md").read_text(encoding="utf-8")
    results = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    assert results.split("<!-- leaderboard -->\n")[1].split("<!-- end of leaderboard -->")[0] == board
    assert board == leaderboard.markdown(pd.read_csv(ROOT / "metrics" / "comparison.csv"))


def test_the_readme_shows_rows_of_the_leaderboard() -> None:
    board = (ROOT / "metrics" / "leaderboard.md").read_text(encoding="utf-8")
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    rows = re.findall(r"\*\*(\S+) %\*\* \[(\S+), (\S+)\] \| ([\d,]+) \w+ \| (\d) \| (\d+ s) \|", readme)
    assert len(rows) > 10
    for accuracy, low, high, n, seeds, seconds in rows:
        assert re.search(rf"\*\*{accuracy}%\*\* \[{low}%, {high}%\] \| {seeds} \| {n} \|.*\| {seconds} \|", board), (
            accuracy
        )


def test_the_docs_show_the_published_numbers() -> None:
    """Their table and the leaderboard's references say the same."""
    known = pd.read_csv(Path(leaderboard.__file__).with_name("references.csv"))
    references = {(row.method, row.protocol, row.transductive): row.value for row in known.itertuples()}
    table = (ROOT / "docs" / "published.md").read_text(encoding="utf-8")
    rows = [re.split(r" *\| *", line)[1:4] for line in table.splitlines() if re.match(r"\| [a-zA-Z+, ]+ \| `", line)]
    shown = {}
    for name, protocol, value in rows:
        method = name.lower().removesuffix(", transductive")
        transductive = method.startswith("maml") or name.endswith(", transductive")
        shown[method, protocol.strip("`"), transductive] = float(value.split()[0]) / 100
    assert len(shown) == len(rows)
    ours = {key: value for key, value in references.items() if key[1].startswith("vinyals/") and key[0] != "siamese"}
    assert shown == pytest.approx(ours)  # there are no settings of the Siamese network's authors to train it by


@pytest.mark.parametrize(
    ("switches", "name", "published"),
    [
        ({}, "maml", 0.987),
        ({"first_order": True}, "fomaml", None),
        ({"anil": True}, "anil", None),
        ({"multi_step_loss": True, "learn_inner_lr": True}, "maml++", 0.9947),
        ({"multi_step_loss": True, "learn_inner_lr": True, "second_order_from": 0.3}, "maml++", 0.9947),
        ({"second_order_from": 0.3}, "maml-second_order_from", None),
        ({"learn_inner_lr": True}, "maml-learn_inner_lr", None),
        ({"first_order": True, "anil": True}, "maml-first_order-anil", None),
        (
            {"multi_step_loss": True, "learn_inner_lr": True, "anil": True},
            "maml-multi_step_loss-learn_inner_lr-anil",
            None,
        ),
    ],
)
def test_a_variant_of_maml_goes_by_its_own_name_and_meets_its_own_reference(
    settings, tmp_path, switches, name, published
) -> None:
    variant = settings.model_copy(update={"maml": settings.maml.model_copy(update=switches)})
    fill(variant, tmp_path / "results", tmp_path / "raw")
    table = leaderboard.gather(variant, tmp_path / "results", tmp_path / "raw")
    rows = table[table["method"].str.contains("maml|anil")]
    assert set(rows["method"]) == {name}
    assert set(rows["reference"].dropna()) == ({published} if published else set())


def test_every_switch_of_maml_counts(settings) -> None:
    """A switch that is not among them would leave a variant with MAML's name and reference."""
    switches = [name for name, value in settings.maml if isinstance(value, bool)]
    assert set(leaderboard.MAML_SWITCHES) == {*switches, "second_order_from"}
    assert not any(getattr(settings.maml, name) for name in leaderboard.MAML_SWITCHES)


def test_a_result_chosen_by_looking_at_test_images_meets_no_reference(settings, tmp_path) -> None:
    fill(settings, tmp_path / "results", tmp_path / "raw")
    stopped = tmp_path / "results" / "finetune" / "scratch-20-0" / "metrics.json"
    stopped.write_text(json.dumps(json.loads(stopped.read_text()) | {"stopped_early": True, "target_accuracy": 0.5}))
    table = leaderboard.gather(settings, tmp_path / "results", tmp_path / "raw")
    early = table[table["protocol"].str.endswith("/stopped-at-test-0.5")]
    assert len(early) == 1
    assert early["reference"].isna().all()
