"""Work through DVC's queue of experiments, as ``dvc queue start`` does: ``python -m stages.queue --jobs 2``.

DVC's workers send each other messages as files (kombu's filesystem transport), and one who reads a message while it is
being written reads nothing, and dies of it: celery/kombu#1551, treeverse/dvc#10428. It met one of two workers in every
few hundred experiments, and more often two that start at once. Here they start one after another and leave a message
until it is written. All other commands of the queue (status, logs, stop, kill) know them as DVC's own. When this
command is killed its workers go on; ``dvc queue stop`` ends them.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import sys
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path
from queue import Empty
from typing import Any

from dvc.exceptions import DvcException
from dvc.repo import Repo
from kombu.exceptions import ChannelError
from kombu.transport import filesystem
from kombu.utils.json import loads


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", "-j", type=int, default=1, help="experiments at once")
    jobs = parser.parse_args().jobs
    if jobs < 1:
        parser.error("--jobs must be at least 1")
    filesystem.Channel._get = get
    try:
        run(jobs)
    except (DvcException, ChannelError, OSError) as error:  # the second, where kombu cannot write a message
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:  # which the workers got too
        print("interrupted: the experiments at work have failed, those that wait are still queued", file=sys.stderr)
        sys.exit(130)


def run(jobs: int) -> None:
    """Start workers and wait for their end."""
    queue = Repo().experiments.celery_queue
    started: list[tuple[Path, BaseProcess]] = []
    for number in range(1, jobs + 1):
        if name_of(queue, number) in queue.worker_status():
            print(f"worker {number} is at work already")
            continue
        log = Path(queue.wdir) / f"dvc-exp-worker-{number}.out"  # where DVC has it
        worker: BaseProcess = get_context("spawn").Process(target=work, args=(number, log))
        worker.start()
        started.append((log, worker))
        while worker.is_alive() and name_of(queue, number) not in queue.worker_status():
            pass  # each question waits a second for answers
    if not started:
        return
    print(f"{len(started)} workers; they end when nothing is queued, or by `dvc queue stop`", flush=True)
    for _, worker in started:
        worker.join()
    died = [
        str(log)
        for log, worker in started
        if worker.exitcode or "Unrecoverable error" in log.read_text(errors="replace")
    ]
    if died:
        print(f"error: {len(died)} workers died; see {', '.join(died)}", file=sys.stderr)
        sys.exit(1)


def name_of(queue: Any, number: int) -> str:
    """As DVC names its workers, so that its commands find this one."""
    return f"dvc-exp-{hashlib.sha256(queue.wdir.encode()).hexdigest()[:6]}-{number}@localhost"


def work(number: int, log: Path) -> None:
    """Run experiments until none is queued."""
    with log.open("wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    filesystem.Channel._get = get
    queue = Repo().experiments.celery_queue
    queue.worker.start(name_of(queue, number), fsapp_clean=number == 1)


def get(channel: filesystem.Channel, queue: str) -> Any:
    """The next message of a queue that has been written: ``Channel._get``, which takes those too that are being
    written. One is written in a single piece. Raises `queue.Empty`."""
    for path in sorted(Path(channel.data_folder_in).iterdir()):
        try:
            if path.name.partition(".")[2] != f"{queue}.msg" or path.stat().st_size == 0:
                continue
            with open(shutil.move(path, channel.processed_folder), "rb") as file:
                return loads(file.read().decode())
        except OSError:
            continue  # another one has taken it
    raise Empty


if __name__ == "__main__":
    main()
