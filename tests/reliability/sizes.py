"""How much each of these tests tries: a little in the ordinary test run, much under `make reliability`.

Every number can be set alone: ``RELIABILITY_KILLS=100 pytest tests/reliability/test_kills.py``.
"""

import os

LONG = os.environ.get("RELIABILITY") == "long"


def _size(name: str, short: int, long: int) -> int:
    return int(os.environ.get(f"RELIABILITY_{name}", long if LONG else short))


SEED = _size("SEED", 0, 0)  # of every random choice here: another one tries other moments, files and bytes
KILLS = _size("KILLS", 2, 20)  # of each kind of stage
DISKS = _size("DISKS", 1, 5)  # too small by another amount each, for each kind of stage
MUTANTS = _size("MUTANTS", 400, 10_000)  # of params.yaml
DAMAGES = _size("DAMAGES", 10, 1000)  # of each kind of file
WRITERS = _size("WRITERS", 0, 8)  # that start at once on a store that does not exist yet
PIPELINES = _size("PIPELINES", 2, 4)  # at once, in as many clones
