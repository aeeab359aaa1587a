"""The files that a stage leaves: written whole or not at all."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

from fewlabel.interrupts import uninterrupted


@contextlib.contextmanager
def whole_folder(path: str | Path) -> Iterator[Path]:
    """A draft folder to fill. It replaces ``path`` when the block ends without an error, and is deleted otherwise.

    Each process has a draft of its own (``.NAME.PID.draft``), so two that make the same result do not disturb each
    other. A link at ``path`` is replaced; what it leads to stays.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    for left_over in path.parent.glob(f".{path.name}.*.draft"):
        owner = int(left_over.name.split(".")[-2])
        if owner == os.getpid() or not psutil.pid_exists(owner):  # of a process that was killed
            shutil.rmtree(left_over, ignore_errors=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}.draft")
    new, old = draft / "new", draft / "old"
    try:
        with naming(path):
            new.mkdir(parents=True)
            yield new
        with uninterrupted():
            if os.path.lexists(path):
                shutil.move(path, old)  # copies where the layers of a container refuse to rename a folder
            new.rename(path)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def delete(path: Path) -> None:
    """Delete a folder with all it holds, a file, or a link but not what it leads to."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """A block of writes to ``path``. The `OSError` of a write (a full disk) names no file by itself; it does here."""
    try:
        yield
    except OSError as error:
        if error.errno and not error.filename:
            error.filename = str(path)
        raise


def write_json(path: Path, value: Any) -> None:
    """Sorted, so that equal values give equal bytes. Raises `ValueError` for NaN and infinity."""
    path.write_text(json.dumps(value, indent=1, sort_keys=True, allow_nan=False) + "\n", encoding="utf-8")
