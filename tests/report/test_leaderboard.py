"""The leaderboard: every named cell, nothing else, each number with where it came from."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from fewlabel import params, results
from fewlabel.errors import UserError
from fewlabel.report import leaderboard
from fewlabel.results import Cell
from tests.conftest import ROOT, result_row


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> params.Params:
    monkeypatch.chdir(tmp_path)
    raw = yaml.safe_load((ROOT / "params.yaml").read_text())
    few_shot = {"splits": ["vinyals"], "tasks": ["5w1s"], "few_shot_seeds": [0, 1]}
    methods = {"metric_methods": ["siamese", "prototypes", "nearest_mean"], "gradient_methods": ["maml", "reptile"]}
    raw["cells"] |= few_shot | methods | {"label_cells": ["20-0", "100-0"], "frozen_cells": ["20-0"]}
    raw["cells"]["transfer_seeds"] = [0]
    return params.parse(raw)


def fill(settings: params.Params, origin: str = "archive") -> None:
    """Made-up results for every cell: 10 s of training each, accuracy 0.5."""
    protocols = {"omniglot": "vinyals/5w1s1q", "flowers": "flowers/5w1s", "cifar10": "cifar10/20-per-class"}
    for cell in results.cells(settings):
        for folder in (*cell.trained, cell.measured):
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "run.json").write_text(json.dumps({"seconds": 10.0, "device": "abacus"}))
        protocol = protocols.get(cell.dataset, "hymenoptera/all")
        mode = cell.task is not None
        row = result_row(cell.family, cell.method, cell.dataset, protocol, transductive=mode, value=0.5)
        write(cell, rows=[row], origin=origin)
        raw = results.RAW / cell.dataset
        raw.mkdir(parents=True, exist_ok=True)
        (raw / "source.json").write_text(json.dumps({"source": "mirror"}))


def write(cell: Cell, **changes: Any) -> None:
    """Change what its ``metrics.json`` holds."""
    path = cell.measured / "metrics.json"
    before = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(before | changes))


def test_every_cell_gives_its_row_with_source_time_and_reference(settings) -> None:
    fill(settings)
    stale = results.RESULTS / "evaluate" / "maml-vinyals-5w1s-7"
    stale.mkdir()
    (stale / "metrics.json").write_text("not even JSON")
    table = leaderboard.gather(settings)
    assert list(table.columns) == leaderboard.COLUMNS
    # 5 methods x 2 seeds, 2 pretrainings, 3 starts x 2 numbers of labels, 3 frozen, 1 network more, 5 transfer starts
    assert len(table) == 5 * 2 + 2 + 3 * 2 + 3 + 1 + 5
    assert set(table["source"]) == {"mirror"}
    maml = table[(table["method"] == "maml")].iloc[0]
    assert (maml["reference"], maml["reference_source"]) == (0.987, "Finn et al. 2017")
    assert maml["train_seconds"] == 10.0
    pretrained = table[table["method"] == "rotation-frozen-3"]
    assert set(pretrained["train_seconds"]) == {20.0}  # the pretraining counts


def test_stand_in_data_say_so_and_are_set_beside_no_published_number(settings) -> None:
    fill(settings, origin="embedded")
    table = leaderboard.gather(settings)
    assert set(table["source"]) == {"embedded"}
    assert table["reference"].isna().all()


def test_own_images_say_so_and_are_set_beside_no_published_number(settings) -> None:
    own = {"own_images": {"flowers": params.OwnImages(folder="x")}}
    cells = settings.cells.model_copy(update={"splits": ["vinyals", "flowers"]})
    both = settings.model_copy(update=own | {"cells": cells})
    fill(both)
    for cell in results.cells(both):
        if cell.dataset == "flowers":
            write(cell, origin="own")
    table = leaderboard.gather(both)
    flowers = table[table["dataset"] == "flowers"]
    assert len(flowers) == 5 * 2
    assert set(flowers["source"]) == {"own"}
    assert set(flowers["protocol"]) == {"flowers/5w1s"}
    assert flowers["reference"].isna().all()
    assert table.loc[table["dataset"] != "flowers", "reference"].notna().any()


def test_the_best_of_a_family_is_the_highest_validation_accuracy_of_one_protocol(settings) -> None:
    fill(settings)
    validated = {"siamese-vinyals-0": 0.7, "maml-vinyals-5w1s-1": 0.9, "reptile-vinyals-5w1s-0": 0.95}
    for cell in results.cells(settings):
        if cell.name in validated:
            protocol = "vinyals-validation/5w5s" if cell.method == "reptile" else "vinyals-validation/5w1s"
            facts = {"validation_accuracy": validated[cell.name], "validation_protocol": protocol}
            run = {"seconds": 1.0, "device": "abacus"} | facts
            (cell.trained[-1] / "run.json").write_text(json.dumps(run))
    assert leaderboard.best(settings) == {
        "few-shot": {
            "folder": "results/meta_train/maml-vinyals-5w1s-1",
            "value": 0.9,
            "protocol": "vinyals-validation/5w1s",
            "origin": "archive",
            "budget": "smoke",
        }
    }


def test_a_missing_result_is_named(settings) -> None:
    fill(settings)
    (results.RESULTS / "transfer" / "frozen-0" / "metrics.json").unlink()
    with pytest.raises(UserError, match=r"frozen-0/metrics\.json: damaged .*No such file"):
        leaderboard.gather(settings)


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
        "network": "64-64-64-64-pool",
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
    alone = seeds_of("maml", [0.25]).assign(transductive=False)
    table = pd.concat([seeds_of("maml", [0.25, 0.75]), alone], ignore_index=True)
    modes = {"maml-transductive": {"vinyals/5w1s": 0.5}, "maml": {"vinyals/5w1s": 0.25}}
    assert leaderboard.summary(table) == {"few-shot": modes}


def test_networks_of_a_method_are_lines_of_their_own_and_a_column() -> None:
    table = pd.concat(
        [seeds_of("maml", [0.5]).assign(network=name) for name in ("64-64-64-64", "24-48-96-192")], ignore_index=True
    )
    assert leaderboard.over_seeds(table)["seeds"].tolist() == [1, 1]
    head, _, first, _ = leaderboard.markdown(table).splitlines()
    assert head.startswith("| family | method | network |")
    assert first.startswith("| few-shot | maml | 64-64-64-64 |")


def test_the_published_numbers_are_unique_by_method_and_protocol() -> None:
    table = pd.read_csv(Path(leaderboard.__file__).with_name("references.csv"))
    assert not table.duplicated(["method", "protocol", "transductive"]).any()
    assert table["value"].between(0, 1).all()


@pytest.mark.parametrize(
    ("switches", "name", "published"),
    [
        ({}, "maml", 0.987),
        ({"multi_step_loss": True, "learn_inner_lr": True}, "maml++", 0.9947),
        ({"multi_step_loss": True, "learn_inner_lr": True, "second_order_from": 0.3}, "maml++", 0.9947),
        ({"second_order_from": 0.3}, "maml-second_order_from", None),
        ({"learn_inner_lr": True}, "maml", 0.987),
        ({"multi_step_loss": True, "learn_inner_lr": False}, "maml-multi_step_loss", None),
    ],
)
def test_a_variant_of_maml_goes_by_its_own_name_and_meets_its_own_reference(
    settings, switches, name, published
) -> None:
    variant = settings.model_copy(update={"maml": settings.maml.model_copy(update=switches)})
    fill(variant)
    table = leaderboard.gather(variant)
    rows = table[table["method"].str.contains("maml|anil")]
    assert set(rows["method"]) == {name}
    assert set(rows["reference"].dropna()) == ({published} if published else set())


def test_every_switch_of_maml_counts(settings) -> None:
    """A switch that is not among them would leave a variant with MAML's name and reference."""
    switches = {name for name, value in settings.maml if isinstance(value, bool)} - {"learn_inner_lr"}
    assert set(leaderboard.MAML_SWITCHES) == {*switches, "second_order_from"}
    assert not any(getattr(settings.maml, name) for name in leaderboard.MAML_SWITCHES)


def test_a_result_chosen_by_looking_at_test_images_meets_no_reference(settings) -> None:
    fill(settings)
    write(results.finetuning("scratch", 20, 0), stopped_early=True, target_accuracy=0.5)
    table = leaderboard.gather(settings)
    early = table[table["protocol"].str.endswith("/stopped-at-test-0.5")]
    assert len(early) == 1
    assert early["reference"].isna().all()
