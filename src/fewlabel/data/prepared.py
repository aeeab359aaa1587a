"""Prepared files: named arrays in one ``.npz``, written whole and byte for byte the same, read with every doubt."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fewlabel.errors import UserError

Shape = tuple[int | None, ...]  # None: any length


def write(path: Path, arrays: Mapping[str, Any]) -> None:
    """Write an uncompressed ``.npz``; a kill in the middle leaves nothing at ``path``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for left_over in path.parent.glob(f".{path.name}.*.tmp"):  # of a killed run
        left_over.unlink(missing_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            np.savez(file, **arrays)
            file.flush()
            os.fsync(file.fileno())  # else a loss of power may leave the name with no content
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def read(path: Path, expected: Mapping[str, tuple[str, Shape]], made_by: str = "") -> dict[str, Any]:
    """Read the arrays named in ``expected``: name → (dtype kind and size as in ``u1``, or ``U``; shape).

    Raises `UserError` when the file is missing, damaged, or holds something else; it names the stage ``made_by``,
    by default the one that prepares data.
    """
    made_by = made_by or f"prepare@{path.stem}"
    mend = f"delete it and run `dvc repro {made_by}`"
    if not path.exists():
        raise UserError(f"{path}: no such file; run `dvc repro {made_by}`")
    arrays = {}
    try:
        with np.load(path, allow_pickle=False) as file:
            for name, (dtype, shape) in expected.items():
                array = file[name]
                right_type = array.dtype.kind == "U" if dtype == "U" else array.dtype == np.dtype(dtype)
                right_shape = len(shape) == array.ndim and all(
                    want in (None, have) for want, have in zip(shape, array.shape, strict=True)
                )
                if not (right_type and right_shape):
                    raise ValueError(f"{name} is {array.dtype} {array.shape}")
                arrays[name] = array
        if str(arrays["origin"]) not in ("archive", "embedded", "own"):
            raise ValueError(f"origin is {str(arrays['origin'])[:40]!r}")
    except Exception as error:  # damage makes numpy and zipfile raise errors of many kinds
        raise UserError(f"{path}: damaged ({' '.join(str(error).split())[:120]}); {mend}") from None
    return arrays
