"""The tests' own clone never waits for ever and leaves no process behind."""

import time

import pytest

from tests.pipeline import conftest
from tests.pipeline.conftest import Clone

pytestmark = pytest.mark.pipeline


def test_a_daemon_that_lives_on_holds_nobody_up_and_ends_with_the_clone(tmp_path) -> None:
    began = time.monotonic()
    with Clone(tmp_path / "clone").alone() as clone:
        assert clone.run(["sh", "-c", "sleep 300 & echo started"]).stdout == "started\n"
        assert len(clone.processes()) == 1  # sleep, or the shell that is about to become it
    assert clone.processes() == []
    assert time.monotonic() - began < 200


def test_a_command_past_its_limit_fails_with_what_it_said_and_all_of_it_ends(tmp_path, monkeypatch) -> None:
    clone = Clone(tmp_path / "clone")
    monkeypatch.setattr(conftest, "LIMIT_S", 1)
    with pytest.raises(pytest.fail.Exception, match=r"not done after 1 s\nhalf-way"):
        clone.run(["sh", "-c", "echo half-way; sleep 300 & sleep 300"])
    assert clone.processes() == []
