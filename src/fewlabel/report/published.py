"""Keep the numbers of a longer training: ``python -m fewlabel.report.published COMMAND`` adds the rows of
metrics/comparison.csv to metrics/published.csv, with the command that made them and the commit it ran on."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pandas as pd

COMPARISON, PUBLISHED = Path("metrics/comparison.csv"), Path("metrics/published.csv")
SAME = ["method", "network", "protocol", "transductive", "seed", "metric", "budget"]  # a row with these is replaced


def keep(command: str) -> pd.DataFrame:
    """The few-shot and label-efficiency rows of this checkout's comparison, merged into those kept before."""
    commit = subprocess.run(["git", "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
    rows = pd.read_csv(COMPARISON).query("family != 'transfer'").assign(commit=commit[:12], command=command)
    if PUBLISHED.exists():
        rows = pd.concat([pd.read_csv(PUBLISHED), rows]).drop_duplicates(SAME, keep="last")
    rows = rows.sort_values(["family", "protocol", "method", "seed"], kind="stable")
    rows.to_csv(PUBLISHED, index=False, float_format="%.6g")
    return rows


if __name__ == "__main__":
    print(f"{PUBLISHED}: {len(keep(' '.join(sys.argv[1:])))} rows")
