"""The numbers in the docs are those of the committed results and references."""

import re

import pandas as pd
import pytest

from fewlabel.report import leaderboard
from tests.conftest import ROOT


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
    known = pd.read_csv(ROOT / "src" / "fewlabel" / "report" / "references.csv")
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


PAGES = [ROOT / "README.md", ROOT / "data" / "README.md", ROOT / "benchmarks" / "README.md", *(ROOT / "docs").glob("*")]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_what_a_page_names_exists(page) -> None:
    text = page.read_text(encoding="utf-8")
    links = [page.parent / link for link in re.findall(r"\]\((?!http)([^)#]+)", text)]
    paths = [ROOT / path for path in re.findall(r"\b(?:src|stages|tests|docs|benchmarks)/[\w/.-]+\w", text)]
    modules = [
        ROOT / name.replace(".", "/") for name in re.findall(r"python -m ((?:stages|benchmarks|tests)\.[\w.]+)", text)
    ]
    missing = [path for path in links + paths if not path.exists()]
    missing += [module for module in modules if not module.with_suffix(".py").exists()]
    assert not missing
