"""Figures draw what the numbers say, also of one seed, few classes or colour, and can be told apart without colour."""

from pathlib import Path
from typing import get_args

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from PIL import Image

from fewlabel.params import GRADIENT_METHODS, METRIC_METHODS, TransferStart
from fewlabel.report import leaderboard, paired
from fewlabel.report.examples import Episode
from fewlabel.report.figures import episodes, few_shot, labels, overview, photographs, style
from fewlabel.results import FINETUNED

PARTS, WHATS = ("train", "test"), ("loss", "accuracy")
NO_DIFFERENCES = pd.DataFrame(columns=paired.COLUMNS)
FAMILIES = [(*METRIC_METHODS, *GRADIENT_METHODS), FINETUNED, get_args(TransferStart)]


def table_of(seeds: int, source: str = "mirror") -> pd.DataFrame:
    """Made-up rows like those of `leaderboard.gather`."""
    rng = np.random.default_rng(0)
    of_few_shot = [
        ("few-shot", method, "omniglot", f"{split}/{task}", mode)
        for split in ("lake", "flowers")
        for task in (("5w1s", "20w1s", "all-5s") if split == "lake" else ("2w1s3q",))
        for method in (*METRIC_METHODS, *GRADIENT_METHODS)
        for mode in ((True, False) if method in GRADIENT_METHODS else (False,))
    ]
    of_labels = [
        ("label-efficiency", start, "cifar10", f"cifar10/{count}-per-class", False)
        for count in (20, 100)
        for start in FINETUNED
    ]
    of_transfer = [
        ("transfer", f"{start}-resnet18", "hymenoptera", "hymenoptera/train-val", False)
        for start in get_args(TransferStart)
    ]
    rows = []
    for family, method, dataset, protocol, mode in [*of_few_shot, *of_labels, *of_transfer]:
        for seed in range(seeds):
            value = rng.uniform(0.3, 0.9)
            rows.append(
                {
                    "family": family,
                    "method": method,
                    "network": "conv4",
                    "dataset": dataset,
                    "protocol": protocol,
                    "transductive": mode,
                    "seed": seed,
                    "metric": "accuracy",
                    "value": value,
                    "ci95_low": value - 0.05,
                    "ci95_high": value + 0.05,
                    "n": 100,
                    "train_seconds": rng.uniform(0, 900),  # 0: a stage of the smoke budget may round to it
                    "device": "abacus",
                    "budget": "cpu",
                    "source": source,
                    "reference": 0.8 if method == "scratch" else np.nan,
                    "reference_source": "somebody" if method == "scratch" else None,
                }
            )
    return pd.DataFrame(rows)


def episode_of(way: int, shot: int = 1, channels: int = 1, queries: int = 4, shown: int = 3, task: str = "") -> Episode:
    rng = np.random.default_rng(0)
    predicted = np.tile(np.arange(way)[:, None], (1, queries))
    predicted[0, 0] = way - 1  # one mistake
    return Episode(
        "lake",
        task or f"{way}w{shot}s",
        False,
        rng.integers(256, size=(way, shot, channels, 12, 12), dtype=np.uint8),
        rng.integers(256, size=(way, shown, channels, 12, 12), dtype=np.uint8),
        {("siamese", False): predicted, ("maml", True): np.tile(np.arange(way)[:, None], (1, queries))},
    )


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for axis in figure.axes for text in axis.texts]


def drawn(figure: Figure, folder: Path) -> Image.Image:
    """Written twice from one state, once as what is opened."""
    style.save(figure, folder / "figure.png")
    return Image.open(folder / "figure.png")


@pytest.mark.parametrize("family", FAMILIES)
def test_the_methods_of_a_family_differ_in_colour_and_in_marker(family: tuple[str, ...]) -> None:
    for each in zip(*map(style.style, family), strict=True):
        assert len(set(each)) == len(family)


def test_a_variant_looks_like_its_method_and_a_stranger_like_no_other() -> None:
    assert style.style("frozen-resnet18") == style.STYLES["frozen"]
    assert style.style("rotation-frozen-1-focal") == style.STYLES["rotation-frozen-1"]
    assert style.style("maml++") == style.STYLES["maml"]
    assert style.style("stranger") == style.UNKNOWN not in style.STYLES.values()


@pytest.mark.parametrize("seeds", [1, 3])
def test_training_time_has_a_panel_a_protocol_and_a_point_a_method(seeds: int, tmp_path: Path) -> None:
    lines = leaderboard.over_seeds(table_of(seeds))
    figure = overview.training_time(lines)
    panels = {axis.get_title(loc="left"): axis for axis in figure.axes if axis.get_title(loc="left")}
    usual = {"lake/5w1s", "lake/20w1s", "flowers/2w1s3q", "cifar10/20-per-class", "cifar10/100-per-class"}
    assert set(panels) == usual | {"hymenoptera/train-val"}  # of lake the tasks that everybody reports
    for protocol, axis in panels.items():
        rows = lines[lines["protocol"] == protocol]
        points = sorted((float(each[0].get_xdata()[0]), float(each[0].get_ydata()[0])) for each in axis.containers)
        expected = sorted(zip(rows["train_seconds"].clip(lower=0.1), rows["value"], strict=True))
        assert np.allclose(points, expected)
        assert axis.get_xscale() == "log"
        low, high = axis.get_xlim()
        assert all(low < seconds < high for seconds, _ in points)
    assert drawn(figure, tmp_path).width > 500


@pytest.mark.parametrize("seeds", [1, 3])
@pytest.mark.parametrize("source", ["mirror", "embedded"])
def test_the_other_figures_of_the_leaderboard_draw_and_name_stand_ins(seeds: int, source: str, tmp_path: Path) -> None:
    table = table_of(seeds, source)
    lines = leaderboard.over_seeds(table)
    meta = pd.DataFrame({"step": [1, 2], "loss": [2, 1], "accuracy": [0.2, 0.4], "val_loss": 1, "val_accuracy": 0.3})
    finetune = pd.DataFrame({"step": [2, 4]} | {f"{part}_{what}": [1, 0] for part in PARTS for what in WHATS})
    for figure in (
        overview.accuracy_by_method(lines),
        labels.label_efficiency(table),
        overview.training_time(lines),
        few_shot.few_shot_curves({"siamese-lake-0": meta, "maml-lake-5w1s-0": meta}, table),
        labels.rotation_against_supervised({"scratch": finetune, "rotation": finetune}, 20, 0, table),
        few_shot.paired_differences(NO_DIFFERENCES, table),
    ):
        said = [axis.get_title(loc=place) for axis in figure.axes for place in ("left", "center")]
        said += [inner.get_suptitle() for inner in (figure, *figure.subfigs)]
        assert any("embedded stand-in data" in text for text in said) == (source == "embedded")
        assert any("budget cpu" in text for text in said)
        assert drawn(figure, tmp_path).height > 60


def test_equal_figures_are_equal_bytes_and_small(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        style.save(overview.training_time(leaderboard.over_seeds(table_of(3))), tmp_path / name)
    content = (tmp_path / "a.png").read_bytes()
    assert content == (tmp_path / "b.png").read_bytes()
    assert len(content) < 100_000


@pytest.mark.parametrize("way", [2, 5, 20])
@pytest.mark.parametrize("channels", [1, 3])
def test_confusion_counts_the_queries(way: int, channels: int, tmp_path: Path) -> None:
    figure = episodes.confusion(episode_of(way, channels=channels), ("siamese", False))
    axis = figure.axes[0]
    cells = {(int(text.get_position()[1]), int(text.get_position()[0])): text.get_text() for text in axis.texts}
    right = {(true, true): "4" for true in range(1, way)}
    assert cells == right | {(0, 0): "3", (0, way - 1): "1"}
    assert len(axis.images) == 2 * way  # each class by a drawing, along both sides
    assert f"{4 * way - 1} of {4 * way} queries right" in axis.get_title()
    picture = drawn(figure, tmp_path)
    assert 300 < picture.width < 1200


@pytest.mark.parametrize(("way", "shot", "channels"), [(2, 1, 3), (5, 1, 1), (5, 5, 1), (20, 1, 1)])
def test_an_episode_marks_each_shown_query_in_colour_and_in_words(
    way: int, shot: int, channels: int, tmp_path: Path
) -> None:
    episode = episode_of(way, shot, channels)
    figure = episodes.episode_picture(episode, [("maml", True), ("siamese", False)])
    best, last = figure.axes
    assert best.get_title() == f"maml, transductive: {4 * way} of {4 * way} queries right"
    assert last.get_title() == f"siamese: {4 * way - 1} of {4 * way} queries right"
    for axis, mistakes in ((best, 0), (last, 1)):
        assert len(axis.images) == way * (shot + 3)
        marks = [text for text in axis.texts if text.get_text()[0] in "✓✗"]
        wrong = [text for text in marks if text.get_text().startswith("✗")]
        assert (len(marks), len(wrong)) == (3 * way, mistakes)
        assert all(text.get_color() == style.RIGHT for text in marks if text not in wrong)
        frames = [patch.get_linewidth() for patch in axis.patches if patch.get_edgecolor()[0] > 0.8]
        assert len(frames) == mistakes
        assert all(width > 3 for width in frames)
        for text in wrong:
            assert text.get_text() == f"✗ {'ABCDEFGHIJKLMNOPQRST'[way - 1]}"
            assert text.get_color() == style.WRONG
    assert drawn(figure, tmp_path).width > 300


def test_one_method_alone_is_one_panel(tmp_path: Path) -> None:
    figure = episodes.episode_picture(episode_of(2, queries=3), [("siamese", False)])
    assert len(figure.axes) == 1
    assert drawn(figure, tmp_path).width > 300


def test_photographs_show_the_surest_mistakes_first(tmp_path: Path) -> None:
    names = [f"ants/{number}.jpg" for number in range(6)]
    table = pd.DataFrame({"name": names, "true": "ants", "predicted": ["ants"] * 3 + ["bees"] * 3})
    table["confidence"] = [0.9, 0.8, 0.7, 0.6, 0.99, 0.75]
    images = {name: np.zeros((3, 20, 20), dtype=np.uint8) for name in names}
    assert photographs.surest_mistakes(table)["name"].tolist() == [names[4], names[5], names[3]]
    figure = photographs.most_wrong("x", table, images)
    assert texts(figure) == ["4.jpg", "5.jpg", "3.jpg"]
    titles = [axis.get_title() for axis in photographs.predictions("x", table, images).axes]
    assert titles[:4] == ["✗ bees 99%\ntrue: ants", "✗ bees 75%\ntrue: ants", "✗ bees 60%\ntrue: ants", "✓ ants 90%"]
    style.save(figure, tmp_path / "a.jpg")
    assert Image.open(tmp_path / "a.jpg").format == "JPEG"
