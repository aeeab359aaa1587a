"""What the short names in params.yaml, on command lines and of result folders say: tasks (``5w1s``), and numbers of
labels with a seed (``20-0``)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from fewlabel.errors import UserError
from fewlabel.strict import short

KINDS = ("within", "runs", "tutorial")  # of test tasks, see `fewshot.protocols`
TEST_TASK = (
    rf"^(?:({'|'.join(KINDS)})-)?"
    r"(?:([1-9][0-9]{0,3})w|all-)([1-9][0-9]?)s(?:([1-9][0-9]?)q)?"
    r"(-upright)?(?:-mean([1-9][0-9]?))?$"
)
LABELS_AND_SEED = r"^([1-9][0-9]{0,2}|[1-4][0-9]{3}|5000)-(0|[1-9][0-9]{0,8})$"

TestTask = Annotated[str, Field(pattern=TEST_TASK)]
TrainingTask = Annotated[str, Field(pattern=r"^[1-9][0-9]{0,3}w[1-9][0-9]?s$")]
LabelsAndSeed = Annotated[str, Field(pattern=LABELS_AND_SEED)]


@dataclass(frozen=True)
class Task:
    """What a test episode asks, as its name says it: ``5w1s``, ``5w1s1q-upright``, ``all-5s``, ``within-20w1s``.

    Attributes:
        way: classes of an episode; None: every test class at once.
        shot: labelled drawings of each.
        queries: drawings of each to classify; None: as many as ``episodes.queries`` says.
        upright: only test classes that are not turned.
        kind: ``within``, ``runs`` or ``tutorial``, see `fewshot.protocols`; None: classes at random.
        copies: a drawing is embedded as the mean of so many distorted copies; 1: as it is.
    """

    way: int | None
    shot: int
    queries: int | None = None
    upright: bool = False
    kind: str | None = None
    copies: int = 1

    @staticmethod
    def parse(name: str) -> Task:
        """Raises `UserError` when `name` is no task."""
        found = re.fullmatch(TEST_TASK, name)
        if not found:
            raise UserError(f"{short(name)}: no task; one is written like 5w1s, 5w1s1q, 5w1s1q-upright or all-5s")
        kind, way, shot, queries, upright, copies = found.groups()
        numbers = (int(way) if way else None, int(shot), int(queries) if queries else None)
        if kind == "runs" and (numbers != (20, 1, None) or upright):
            raise UserError(f"{name}: the published one-shot runs are runs-20w1s")
        if kind == "tutorial" and (queries or upright):
            raise UserError(f"{name}: a tutorial's test takes all other drawings as queries: leave the rest out")
        return Task(*numbers, bool(upright), kind, int(copies or 1))


def parse_task(task: str) -> tuple[int, int]:
    """Way and shot of a task to train for: ``"20w1s"`` → ``(20, 1)``. Raises `UserError`."""
    parsed = Task.parse(task)
    if parsed.way is None or parsed != Task(parsed.way, parsed.shot):
        raise UserError(f"{task}: a training has a way and a shot and no more, like 5w1s")
    return parsed.way, parsed.shot


def few_shot_protocol(split: str, task: str) -> str:
    """How few-shot results are named: ``lake/5w1s``; of a kind ``lake-within/5w1s``, and ``tutorial/10w5s``."""
    kind = Task.parse(task).kind
    if kind is None:
        return f"{split}/{task}"
    return f"{'tutorial' if kind == 'tutorial' else f'{split}-{kind}'}/{task.removeprefix(f'{kind}-')}"


def test_task(protocol: str) -> str:
    """The name of the test task in that of a protocol: ``lake-within/5w1s`` → ``within-5w1s``."""
    split, _, task = protocol.partition("/")
    kind = split.rpartition("-")[2]
    return f"{kind}-{task}" if kind in KINDS else task


def parse_label_cell(cell: str) -> tuple[int, int]:
    """``"20-1"`` → ``(labels per class=20, seed=1)``. Raises `UserError`."""
    found = re.fullmatch(LABELS_AND_SEED, cell)
    if not found:
        raise UserError(f"{short(cell)}: must be labels per class (1 to 5000) and a seed, as in 20-0")
    return int(found[1]), int(found[2])


def labels_protocol(labels: int) -> str:
    """How results with so many labels a class are named: ``cifar10/20-per-class``."""
    return f"cifar10/{labels}-per-class"


def labels_per_class(protocol: str) -> int | None:
    """The number of labels in the name of a protocol; None where it has none."""
    found = re.fullmatch(r"cifar10/(\d+)-per-class", protocol)
    return int(found[1]) if found else None


def seed(text: str) -> int:
    """The type of a seed on a command line. Raises ValueError, which argparse reports."""
    value = int(text)
    if value not in range(2**31):
        raise ValueError
    return value
