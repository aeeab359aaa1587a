"""The benchmarks compute what they compare: each one's check, and one tiny round without a word about its time."""

import functools
import importlib
import json
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import common, evaluation, maml_step, memory, siamese_pairs, time_to_accuracy
from fewlabel.params import load

CPU = torch.device("cpu")


@pytest.mark.parametrize("name", ["episodes", "siamese_pairs", "maml_step", "reptile_step", "evaluation"])
def test_both_sides_compute_the_same(name: str) -> None:
    importlib.import_module(f"benchmarks.{name}").check(CPU)


def test_a_difference_is_found() -> None:
    with pytest.raises(AssertionError, match="loss"):
        common.close("loss", torch.tensor(1.0), torch.tensor(1.001))


@pytest.mark.parametrize("name", ["episodes", "siamese_pairs", "maml_step", "reptile_step", "evaluation"])
def test_a_round(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluation, "EPISODES", dict.fromkeys(evaluation.TASKS, 2))
    monkeypatch.setattr(evaluation, "LOOPED", 1)
    monkeypatch.setattr(evaluation, "CLASSES", 20)
    monkeypatch.setattr(evaluation, "TASKS", dict.fromkeys(evaluation.TASKS, ("5w1s",)))
    monkeypatch.setattr(siamese_pairs, "PAIRS", 4)
    monkeypatch.setattr(maml_step, "TASKS", 4)
    rows = importlib.import_module(f"benchmarks.{name}").measure(CPU, repeats=1)
    for row in rows:
        assert row["ratio"] == row["reference_s"] / row["ours_s"] > 0


def test_the_limit_is_the_ratio_of_a_program_as_fast_as_the_product() -> None:
    left, right = torch.ones(10, 20), torch.ones(20, 30)
    counted = common.operations(lambda: left @ right)
    assert counted == 2 * 10 * 20 * 30
    whole = 2 * common.PRODUCT**3  # operations, in one second: then these take counted / whole seconds
    assert common.limit(2.0, counted, 1.0) == pytest.approx(2 * whole / counted)


def test_functions_take_turns_and_the_first_round_does_not_count() -> None:
    calls: list[str] = []
    seconds = common.alternate({name: functools.partial(calls.append, name) for name in "ab"}, 2, CPU)
    assert calls == list("ababab")
    assert set(seconds) == {"a", "b"}


def test_a_table_is_saved_when_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(common, "RESULTS", tmp_path)
    row = common.against("case", 2.0, 1.0)
    common.report("name", [row], CPU, 3, save=False)
    assert not list(tmp_path.iterdir())
    common.report("name", [row], CPU, 3, save=True)
    saved = json.loads((tmp_path / "name-cpu.json").read_text())
    assert saved["rows"] == [row]
    assert saved["repeats"] == 3
    assert "ratio" in capsys.readouterr().out


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_of_a_larger_meta_batch_is_larger(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "METHODS", ("siamese",))
    (row,) = memory.measure(CPU, meta_batches=(2, 16))
    assert row["MiB at 16"] > row["MiB at 2"] > 0


def test_the_naive_network_learns_a_pair_of_characters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time_to_accuracy, "PAIRS", 4)
    folders, test_folders = time_to_accuracy.unpack(common.archives(), common.archives() / "all")
    assert [len(folder) for folder in folders + test_folders] == [20] * len(common.glyphs())
    torch.manual_seed(0)
    network = time_to_accuracy.Naive()
    before = network.head.weight.detach().clone()
    time_to_accuracy.naive_step(network, torch.optim.Adam(network.parameters(), lr=1e-4), folders, CPU)
    assert not torch.equal(before, network.head.weight)
    indices = time_to_accuracy.test_episodes(load(), len(test_folders)).chunks(2)[0]
    assert 0 <= time_to_accuracy.naive_accuracy(network, test_folders, indices, CPU) <= 1
