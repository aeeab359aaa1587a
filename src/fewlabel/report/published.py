"""Keep the numbers of longer trainings beside those of the default pipeline.

``python -m fewlabel.report.published COMMAND`` adds what this checkout has measured to metrics/published.csv: the rows
of few-shot and label efficiency, with the command that made them and the commit it ran on.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pandas as pd

from fewlabel import params
from fewlabel.report import leaderboard

PUBLISHED = Path("metrics/published.csv")
SAME = ["method", "network", "protocol", "transductive", "seed", "metric", "budget"]  # a row with these is replaced


def keep(command: str) -> pd.DataFrame:
    """All rows that are kept now. Raises `UserError` when nothing has been measured."""
    commit = subprocess.run(["git", "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
    rows = leaderboard.gather(params.load())
    rows = rows[rows["family"] != "transfer"].assign(commit=commit[:12], command=command)
    if PUBLISHED.exists():
        rows = pd.concat([pd.read_csv(PUBLISHED), rows]).drop_duplicates(SAME, keep="last")
    rows = rows.sort_values(["family", "protocol", "method", "seed"], kind="stable")
    rows.to_csv(PUBLISHED, index=False, float_format="%.6g")
    return rows


if __name__ == "__main__":
    print(f"{PUBLISHED}: {len(keep(' '.join(sys.argv[1:])))} rows")
