"""The report: every row with its interval and published value, one file without a network, everything escaped."""

import base64
import io
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from fewlabel.report import leaderboard
from fewlabel.report import page as report
from fewlabel.report.page import Picture
from fewlabel.report.paired import COLUMNS as PAIRED_COLUMNS

RUNS = {
    "meta_train/maml-vinyals-5w1s-0": {
        "device": "abacus",
        "seconds": 100.0,
        "torch": "2.14.1",
        "torchvision": "0.29.1",
    },
    "finetune/scratch-20-0": {
        "device": "slide <rule>",
        "seconds": 4000.0,
        "torch": "2.14.1",
        "torchvision": "0.29.1",
        "precision": "bf16",
        "steps": 3000,
        "peak_memory_mib": 2048,
    },
}


def row(family: str, method: str, protocol: str, seed: int, value: float, **more: object) -> dict[str, object]:
    return {
        "family": family,
        "method": method,
        "dataset": {"few-shot": "omniglot", "label-efficiency": "cifar10"}.get(family, "hymenoptera"),
        "protocol": protocol,
        "transductive": False,
        "seed": seed,
        "metric": "accuracy",
        "value": value,
        "ci95_low": value - 0.0123,
        "ci95_high": value + 0.0123,
        "n": 1000,
        "train_seconds": 338.2,
        "device": "abacus",
        "budget": "cpu",
        "network": "64-64-64-64-pool",
        "source": "mirror",
        "reference": None,
        "reference_source": None,
    } | more


@pytest.fixture
def table() -> pd.DataFrame:
    finn = {"reference": 0.987, "reference_source": "Finn et al. 2017", "transductive": True}
    rows = [row("few-shot", "maml", "vinyals/5w1s1q", seed, 0.95 + 0.01 * seed, **finn) for seed in range(3)]
    rows += [row("few-shot", "prototypes", "vinyals/5w1s1q", 0, 0.9612)]
    rows += [row("few-shot", "prototypes", "vinyals/all-5s", 0, 0.5)]
    gidaris = {"reference": 0.3366, "reference_source": "Gidaris et al. 2018, supervised NIN"}
    rows += [row("label-efficiency", "scratch", "cifar10/20-per-class", 0, 0.302, **gidaris)]
    rows += [row("label-efficiency", "rotation", "cifar10/which-rotation", 0, 0.6771, metric="pretraining_accuracy")]
    rows += [row("transfer", "frozen-resnet18", "hymenoptera/train-val", 0, 0.9478, n=153)]
    return pd.DataFrame(rows)[leaderboard.COLUMNS]


@pytest.fixture
def differences() -> pd.DataFrame:
    # protocol, the better one, the other one, difference, its interval, episodes, seeds
    apart = ("vinyals/5w1s1q", "prototypes", False, 0.9612, "maml", True, 0.95, 0.0112, 0.0034, 0.019, 1000, 1)
    level = ("vinyals/5w1s1q", "prototypes", False, 0.9612, "siamese", False, 0.96, 0.0012, -0.0023, 0.0047, 1000, 1)
    return pd.DataFrame([apart, level], columns=PAIRED_COLUMNS)


@pytest.fixture
def pictures(tmp_path: Path) -> list[Picture]:
    noise = np.random.default_rng(0).integers(256, size=(60, 80, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "a.png")
    drawing = Picture(tmp_path / "a.png", "A drawing", "What it shows.", "Dots & lines")
    Image.fromarray(noise).save(tmp_path / "b.jpg")
    return [drawing, Picture(tmp_path / "b.jpg", "Photographs", "Ants.", "A grid")]


def parsed(html: str) -> ElementTree.Element:
    """Strict: an unclosed tag or a bare < or & is an error."""
    return ElementTree.fromstring(html)


def cells_of(page: ElementTree.Element, section: str) -> list[list[str]]:
    """The texts of the rows of every table between this <h2> and the next; of a first cell with its tags."""
    rows, within = [], False
    for element in page.iter():
        if element.tag == "h2":
            within = element.get("id") == section
        if within and element.tag == "tr":
            rows.append([" ".join(" ".join(cell.itertext()).split()) for cell in element])
    return rows


def test_every_row_of_the_leaderboard_is_there_with_interval_and_published_value(table, differences, pictures) -> None:
    page = parsed(report.html(table, differences, RUNS, pictures, 100))
    rows = cells_of(page, "leaderboard")
    body = [cells for cells in rows if len(cells) == 9 and cells[0] != "method"]
    lines = leaderboard.over_seeds(table)
    assert len(body) == len(lines) == 6
    for cells, line in zip(body, lines.iloc[[1, 0, 2, 3, 4, 5]].to_dict("records"), strict=True):  # the best first
        assert cells[0].split()[0] == line["method"]
        assert ("transductive" in cells[0]) == line["transductive"] == (cells[5] == "yes")
        assert cells[1] == f"{line['value']:.1%}"
        assert cells[2] == f"{line['ci95_low']:.1%} to {line['ci95_high']:.1%}"
        assert (cells[7], cells[8]) == (str(line["seeds"]), f"{line['n']:,}")
        assert cells[6] == "338 s"
    assert body[0][3:5] == ["–", "–"]
    assert body[1][3:5] == ["98.7% 1", "−2.7"]  # over three seeds the mean is 96.0 %
    assert body[3][3:5] == ["33.7% 1", "−3.5"]
    assert "pretraining accuracy" in body[4][0]
    groups = [cells[0] for cells in rows if len(cells) == 1]
    assert groups[0] == "vinyals/5w1s1q 5 classes, 1 labelled image of each, 1 query of each"
    assert "Finn et al. 2017" in "".join(page.itertext())


def test_one_photograph_is_said_in_points(table, differences, pictures) -> None:
    html = report.html(table, differences, RUNS, pictures, 100)
    assert "One photograph of 153 is 0.65 points, so a difference of two points means little." in html
    assert "One photograph" not in report.html(table[table["family"] != "transfer"], differences, RUNS, pictures, 100)


def test_paired_differences_are_bold_where_they_leave_out_zero(table, differences, pictures) -> None:
    page = parsed(report.html(table, differences, RUNS, pictures, 100))
    rows = cells_of(page, "differences")
    assert rows[1] == ["vinyals/5w1s1q best: prototypes, 96.12%"]
    assert rows[2] == ["maml transductive", "1.12", "0.34 to 1.90", "95.00%", "1,000", "1"]
    assert rows[3][:3] == ["siamese", "0.12", "-0.23 to 0.47"]
    bold = [cell.text for cell in page.iter("td") if cell.get("class") == "best"]
    assert "1.12" in bold
    assert "0.12" not in bold


def test_it_loads_nothing_and_runs_nothing(table, differences, pictures) -> None:
    html = report.html(table, differences, RUNS, pictures, 100)
    page = parsed(html)
    for element in page.iter():
        for name in ("src", "href", "srcset", "data", "action", "poster"):
            value = element.get(name)
            assert value is None or value.startswith(("data:", "#")), (element.tag, name, value)
        assert not [name for name in element.keys() if name.startswith("on")]  # noqa: SIM118 (no mapping)
        assert element.tag not in ("script", "iframe", "object", "embed", "base", "form")
    assert "@import" not in html
    assert "url(" not in html
    assert "://" not in html


def test_links_lead_to_sections_that_are_there(table, differences, pictures) -> None:
    page = parsed(report.html(table, differences, RUNS, pictures, 100))
    named = {element.get("id") for element in page.iter() if element.get("id")}
    links = [element.get("href", "")[1:] for element in page.iter("a")]
    assert links
    assert set(links) <= named


def test_pictures_are_in_it_with_their_texts(table, differences, pictures) -> None:
    page = parsed(report.html(table, differences, RUNS, pictures, 100))
    drawing, photographs = page.iter("img")
    kind, _, content = drawing.get("src", "").partition(";base64,")
    assert kind == "data:image/png"
    assert base64.b64decode(content) == pictures[0].path.read_bytes()
    assert (drawing.get("alt"), drawing.get("width"), drawing.get("height")) == ("Dots & lines", "80", "60")
    kind, _, content = photographs.get("src", "").partition(";base64,")
    assert kind == "data:image/jpeg"
    assert Image.open(io.BytesIO(base64.b64decode(content))).format == "JPEG"
    captions = ["".join(caption.itertext()) for caption in page.iter("figcaption")]
    assert captions == ["What it shows.", "Ants."]


def test_every_text_is_escaped(table, differences, pictures) -> None:
    nasty = "<script>alert('&')</script>"
    table = pd.concat([table, table.tail(1).assign(family=nasty, method=nasty, protocol=nasty, dataset=nasty)])
    table = pd.concat([table, table.tail(1).assign(source=nasty, device=nasty, reference=0.5, reference_source=nasty)])
    differences = differences.assign(protocol=nasty, method=nasty, other=nasty)
    runs = {nasty: RUNS["finetune/scratch-20-0"] | {"device": nasty, "torch": nasty, "precision": nasty}}
    picture = Picture(pictures[0].path, nasty, nasty, f'"{nasty}')
    html = report.html(table, differences, runs, [picture], 100)
    page = parsed(html)
    assert "<script" not in html
    assert "".join(page.itertext()).count(nasty) > 10
    (image,) = page.iter("img")
    assert image.get("alt") == f'"{nasty}'


def test_stand_in_data_are_stamped_above_every_number(table, differences, pictures) -> None:
    stamp = "Stand-in data, not the real ones."
    whole = report.html(table.assign(source="embedded", reference=None), differences, RUNS, pictures, 100)
    text = " ".join("".join(parsed(whole).itertext()).split())
    assert 0 < text.index(stamp) < re.search(r"\d\d\.\d%", text).start()
    assert "say nothing about the methods" in text
    one = table.assign(source=table["source"].where(table["dataset"] != "omniglot", "embedded"))
    partly = " ".join("".join(parsed(report.html(one, differences, RUNS, pictures, 100)).itertext()).split())
    assert "Stand-in data for omniglot. The numbers of omniglot come from images" in partly
    real = report.html(table, differences, RUNS, pictures, 100)
    assert "tand-in" not in real


def test_what_was_run_names_devices_sources_budget_and_versions(table, differences, pictures) -> None:
    page = parsed(report.html(table, differences, RUNS, pictures, 100))
    rows = cells_of(page, "run")
    assert ["omniglot", report.SOURCES["mirror"]] in rows
    assert ["abacus", "1", "100 s", "2.14.1", "0.29.1"] in rows
    assert ["slide <rule>", "1", "67 min", "2.14.1", "0.29.1"] in rows
    assert ["finetune/scratch-20-0", "4000.0 s", "3,000", "bf16", "2,048", "slide <rule>"] in rows
    assert ["meta_train/maml-vinyals-5w1s-0", "100.0 s", "–", "–", "–", "abacus"] in rows
    assert "Budget cpu." in " ".join("".join(page.itertext()).split())


def test_own_images_are_mentioned_before_passing_it_on(table, differences, pictures) -> None:
    assert "your own images" not in report.html(table, differences, RUNS, pictures, 100)
    assert "your own images" in report.html(table.assign(source="own"), differences, RUNS, pictures, 100)


def test_equal_inputs_give_equal_bytes(table, differences, pictures) -> None:
    assert len({report.html(table, differences, RUNS, pictures, 100) for _ in range(2)}) == 1


@pytest.mark.parametrize(
    ("protocol", "words"),
    [
        ("lake/5w1s", "5 classes, 1 labelled image of each"),
        ("vinyals/20w5s1q-upright", "20 classes, 5 labelled images of each, 1 query of each, upright"),
        ("lake-within/5w1s", "5 classes, 1 labelled image of each, all of one alphabet"),
        (
            "lake-runs/20w1s-mean10",
            "20 classes, 1 labelled image of each, Lake's 20 published runs, 400 trials, "
            "each the mean over 10 distorted copies",
        ),
        ("lake/all-5s", "every test class at once, 5 labelled images of each"),
        ("cifar10/1000-per-class", "1,000 labels per class"),
        ("cifar10/20-per-class/stopped-at-test-0.5", ""),
        ("cifar10/which-rotation", "which of four rotations, no labels"),
        ("something", ""),
    ],
)
def test_a_protocol_in_words(protocol: str, words: str) -> None:
    assert report.meaning(protocol) == words


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.4, "0 s"), (338.2, "338 s"), (1000, "17 min"), (7140, "119 min"), (7200, "2 h 0 min")]
)
def test_durations(seconds: float, words: str) -> None:
    assert report._duration(seconds) == words
