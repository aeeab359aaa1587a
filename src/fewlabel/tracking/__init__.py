"""Run tracking: every run of a stage is one MLflow run, under the run of its pipeline execution.

A run is made from the files that the stage left. A store that cannot be reached costs a warning, and `send` makes the
run later. ``FEWLABEL_TRACKING=off`` switches tracking off.
"""

from __future__ import annotations

import contextlib
import os
import queue
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fewlabel.tracking.store import EXPERIMENT, Store, explain, root

__all__ = ["EXPERIMENT", "Run", "start"]
BATCH, BATCH_S = 500, 10.0  # rows of a curve; a request with many takes hardly longer than one with a single row
END_S = 120.0  # that the end of a stage waits for the store
Row = tuple[int, float, dict[str, float]]  # step, seconds since 1970, numbers


class Run:
    """The run of a stage. A thread of its own imports MLflow (1 to 5 s), opens the run and sends; `log` never waits."""

    def __init__(self, stage: str, settings: dict[str, Any], folder: str | Path | None, on: bool) -> None:
        self._stage, self._settings, self._folder, self._began = stage, settings, folder, time.time()
        self._queue: queue.SimpleQueue[Row | str] = queue.SimpleQueue()  # rows of the curve, and at last the status
        self._works, self._thread = on, threading.Thread(target=self._send, daemon=True)
        if on:
            self._thread.start()

    def log(self, step: int, **numbers: float) -> None:
        """A row of the curve."""
        if self._works:
            self._queue.put((step, time.time(), numbers))

    def end(self, status: str) -> None:
        if self._works:
            self._queue.put(status)
            self._thread.join(END_S)
            if self._thread.is_alive():
                self._give_up(f"the store has not answered for {END_S:.0f} s")

    def _send(self) -> None:
        try:
            from fewlabel.tracking import send

            store = Store(root())
            run, parent = store.open(self._stage, self._settings, self._began)
            status = None
            while status is None:
                rows, status = self._batch()
                send.log_curve(store, run, self._stage, rows)
            if status == "FINISHED" and self._folder is not None:
                send.publish(store, run, parent, Path(self._folder))
            store.end(run, parent, status, self._stage, time.time())
        except Exception as error:  # whatever MLflow raises, it is no reason to lose a training
            self._give_up(explain(error))

    def _batch(self) -> tuple[list[Row], str | None]:
        """The rows of the next seconds; and the status, when the run has ended."""
        rows: list[Row] = []
        began = time.monotonic()
        while len(rows) < BATCH and (left := began + BATCH_S - time.monotonic()) > 0:
            with contextlib.suppress(queue.Empty):
                item = self._queue.get(timeout=left)
                if isinstance(item, str):
                    return rows, item
                rows.append(item)
        return rows, None

    def _give_up(self, reason: str) -> None:
        if self._works:
            later = "the results are not affected; `make send-runs` sends them later"
            print(f"warning: the run is not whole in MLflow ({reason}); {later}", flush=True)
        self._works = False


@contextlib.contextmanager
def start(stage: str, settings: dict[str, Any], folder: str | Path | None = None, on: bool = True) -> Iterator[Run]:
    """Open the MLflow run of a stage; it ends FINISHED, FAILED or KILLED with the block.

    Args:
        stage: the stage's name, used when DVC does not say one (``DVC_STAGE``).
        settings: the stage's own parameters.
        folder: where the block leaves its results, from which the rest of the run is made; None: nowhere.
        on: of the processes that share a training, the first one tells of all.
    """
    on = on and os.environ.get("FEWLABEL_TRACKING", "").lower() not in ("off", "0", "false")
    run = Run(os.environ.get("DVC_STAGE", stage), settings, folder, on)
    try:
        yield run
    except BaseException as error:
        run.end("KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED")
        raise
    run.end("FINISHED")
