"""A progress bar on a terminal; elsewhere a line now and then, so that logs stay readable."""

from __future__ import annotations

import os
import sys
import time

from tqdm import tqdm

LINE_EVERY_S = 20.0


class Progress:
    """Counts steps and shows the latest numbers and the time left.

    >>> with Progress("maml", total=100) as bar:
    ...     bar.update(1, loss=0.3, accuracy=0.9)
    """

    def __init__(self, name: str, total: int, start: int = 0) -> None:
        self.name, self.total, self.done = name, total, start
        self._start, self._first = time.monotonic(), start
        self._last_line = self._start
        self._shown: dict[str, float] = {}
        speaks = sys.stderr.isatty() and os.environ.get("RANK", "0") == "0"
        self._bar = tqdm(total=total, initial=start, desc=name, dynamic_ncols=True) if speaks else None

    def update(self, steps: int = 1, **numbers: float) -> None:
        self.done += steps
        self._shown |= numbers
        if self._bar is not None:
            self._bar.set_postfix({k: f"{v:.3g}" for k, v in self._shown.items()}, refresh=False)
            self._bar.update(steps)
        elif time.monotonic() - self._last_line >= LINE_EVERY_S:
            self._line()

    def _line(self) -> None:
        self._last_line = time.monotonic()
        spent = self._last_line - self._start
        left = spent / max(self.done - self._first, 1) * (self.total - self.done)
        numbers = "  ".join(f"{k} {v:.4g}" for k, v in self._shown.items())
        print(f"{self.name}: {self.done}/{self.total}  {numbers}  {spent:.0f} s, {left:.0f} s left", flush=True)

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *exc: object) -> None:
        if self._bar is not None:
            self._bar.close()
        elif exc[0] is None:
            self._line()
