"""A message of DVC's queue that is being written is left until it is, where kombu's own worker dies of it."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from queue import Empty

import pytest
from kombu import Connection
from kombu.transport import filesystem

from stages import queue

QUEUES = ["celery", "dvc-exp-2f5e47-1@localhost.celery.pidbox"]


@pytest.fixture
def channel(tmp_path: Path) -> Iterator[filesystem.Channel]:
    folders = {name: tmp_path / name for name in ("in", "processed", "control")}
    for folder in folders.values():
        folder.mkdir()
    options = {
        "data_folder_in": str(folders["in"]),
        "data_folder_out": str(folders["in"]),
        "processed_folder": str(folders["processed"]),
        "control_folder": str(folders["control"]),
        "store_processed": True,
    }  # as dvc-task sets them
    with Connection("filesystem://", transport_options=options) as connection:
        yield connection.channel()


@pytest.mark.parametrize("name", QUEUES)
def test_messages_come_in_order_and_of_their_own_queue(channel, name) -> None:
    for number in range(3):
        channel._put(name, {"number": number})
        channel._put(f"other.{name}", {"number": -1})
        time.sleep(0.002)  # their order is that of milliseconds
    assert [queue.get(channel, name)["number"] for _ in range(3)] == [0, 1, 2]
    with pytest.raises(Empty):
        queue.get(channel, name)
    assert len(list(Path(channel.data_folder_in).iterdir())) == 3
    assert len(list(Path(channel.processed_folder).iterdir())) == 3


@pytest.mark.parametrize("name", QUEUES)
def test_a_message_that_is_being_written_is_left(channel, name) -> None:
    path = Path(channel.data_folder_in) / f"1_first.{name}.msg"
    path.touch()
    with pytest.raises(Empty):
        queue.get(channel, name)
    channel._put(name, {"number": 2})
    assert queue.get(channel, name) == {"number": 2}
    path.write_text(json.dumps({"number": 1}))
    assert queue.get(channel, name) == {"number": 1}
    path.with_name(f"3_third.{name}.msg").touch()
    with pytest.raises(json.JSONDecodeError):  # while kombu needs this, `stages.queue` is needed
        channel._get(name)
