"""SIGINT (Ctrl+C) and SIGTERM (a scheduler's way of saying the same) wait where a state must be left whole."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def signals_wait() -> Iterator[Callable[[], bool]]:
    """A block in which the first SIGINT or SIGTERM is only noted.

    The block is given a function that says whether one has come, and should end soon when it has. A second signal acts
    at once.
    """
    if threading.current_thread() is not threading.main_thread():  # only the main thread may set handlers
        yield lambda: False
        return
    came: list[int] = []
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def note(number: int, frame: object) -> None:
        came.append(number)
        restore()

    for number, handler in before.items():
        if handler is not signal.SIG_IGN:  # under nohup SIGINT stays ignored
            signal.signal(number, note)
    try:
        yield lambda: bool(came)
    finally:
        restore()


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """A short block that is finished before a SIGINT or SIGTERM acts."""
    with signals_wait() as interrupted:
        yield
    if interrupted():
        raise KeyboardInterrupt
