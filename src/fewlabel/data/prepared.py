"""Files of named arrays (``.npz``): equal arrays give equal bytes, and whatever is read is checked first."""

from __future__ import annotations

import os
import struct
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fewlabel.errors import DamagedFile
from fewlabel.results import naming

Shape = tuple[int | None, ...]  # None: any length


def write(path: Path, arrays: Mapping[str, Any]) -> None:
    """Write an uncompressed ``.npz``; a kill in the middle leaves nothing at ``path``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for left_over in path.parent.glob(f".{path.name}.*.tmp"):  # of a killed run
        left_over.unlink(missing_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with naming(path), temporary.open("wb") as file:
            np.savez(file, **arrays)
            file.flush()
            os.fsync(file.fileno())  # else a loss of power may leave the name with no content
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


# What numpy, zipfile and zlib raise for bytes that are not what they should be.
DAMAGE = (
    *(OSError, EOFError, LookupError, ValueError, TypeError, ArithmeticError, RuntimeError),
    *(zipfile.BadZipFile, zlib.error, struct.error),
)


def read(path: Path, expected: Mapping[str, tuple[str, Shape]]) -> dict[str, Any]:
    """Read the arrays named in ``expected``: name → (dtype as in ``u1``, or ``U`` for text of any length; shape).

    Raises:
        DamagedFile: the file cannot be read, or holds something else.
        FileNotFoundError: there is no such file.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in expected}
    except FileNotFoundError:
        raise
    except DAMAGE as error:
        raise DamagedFile(path, error) from error
    for name, (dtype, shape) in expected.items():
        array = arrays[name]
        right_type = array.dtype.kind == "U" if dtype == "U" else array.dtype == np.dtype(dtype)
        right_shape = len(shape) == array.ndim and all(
            want in (None, have) for want, have in zip(shape, array.shape, strict=True)
        )
        if not (right_type and right_shape):
            raise DamagedFile(path, f"{name} is {array.dtype} {array.shape}")
    if "origin" in arrays and str(arrays["origin"]) not in ("archive", "embedded", "own"):
        raise DamagedFile(path, f"origin is {str(arrays['origin'])[:40]!r}")
    return arrays
