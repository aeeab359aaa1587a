"""The small languages of params.yaml, read and written back."""

import pytest

from fewlabel import grammar
from fewlabel.errors import UserError
from fewlabel.grammar import Task


@pytest.mark.parametrize(
    ("name", "task", "protocol"),
    [
        ("5w1s", Task(5, 1), "lake/5w1s"),
        ("5w5s1q-upright", Task(5, 5, 1, True), "lake/5w5s1q-upright"),
        ("all-5s", Task(None, 5), "lake/all-5s"),
        ("within-20w1s", Task(20, 1, kind="within"), "lake-within/20w1s"),
        ("runs-20w1s-mean10", Task(20, 1, kind="runs", copies=10), "lake-runs/20w1s-mean10"),
        ("tutorial-all-5s", Task(None, 5, kind="tutorial"), "tutorial/all-5s"),
    ],
)
def test_a_task_its_protocol_and_back(name: str, task: Task, protocol: str) -> None:
    assert Task.parse(name) == task
    assert grammar.few_shot_protocol("lake", name) == protocol
    assert grammar.test_task(protocol) == name


@pytest.mark.parametrize("name", ["5w", "0w1s", "5w1s-mean0", "other-5w1s", "within-", "5w1s\n"])
def test_what_is_no_task_is_refused(name: str) -> None:
    with pytest.raises(UserError, match="no task"):
        Task.parse(name)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("runs-5w1s", "the published one-shot runs are runs-20w1s"),
        ("runs-20w1s-upright", "the published one-shot runs are runs-20w1s"),
        ("tutorial-10w5s3q", "takes all other drawings as queries"),
    ],
)
def test_a_published_test_is_taken_as_it_is(name: str, told: str) -> None:
    with pytest.raises(UserError, match=told):
        Task.parse(name)


@pytest.mark.parametrize(
    ("protocol", "labels"), [("cifar10/20-per-class", 20), ("cifar10/which-rotation", None), ("lake/5w1s", None)]
)
def test_labels_per_class(protocol: str, labels: int | None) -> None:
    assert grammar.labels_per_class(protocol) == labels
    assert labels is None or grammar.labels_protocol(labels) == protocol
