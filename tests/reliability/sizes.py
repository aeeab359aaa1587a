"""How much each of these tests tries: a little in the ordinary test run, much under `make reliability`."""

import os

LONG = os.environ.get("RELIABILITY") == "long"
SEED = int(os.environ.get("RELIABILITY_SEED", 0))  # of every random choice; another one tries other moments and bytes
KILLS = 20 if LONG else 1  # of each training
MUTANTS = 10_000 if LONG else 400  # of params.yaml
DAMAGES = 1000 if LONG else 10  # of each kind of file
PIPELINES = 4 if LONG else 2  # at once, in as many clones
