"""Checkpoints of a training that may be killed: keyed by what the training depends on, checksummed, written atomically.

They live in ``.checkpoints/``, which DVC ignores: its outputs stay whole results.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import pickle
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from fewlabel.errors import UserError

FOLDER = Path(".checkpoints")
_DIGEST_BYTES = hashlib.sha256().digest_size  # a file is the digest of a state, then the state as torch saves it


class Checkpoint:
    """One training's checkpoint file, and no other training's.

    Args:
        name: of the training, e.g. ``meta_train/maml-lake-5w1s-0``; the readable part of the path.
        depends: JSON-able values; where one differs it is another training.
        saves: whether this process saves it. Of processes that share a training the first one does, and all load.
    """

    def __init__(self, name: str, depends: Any, saves: bool = True) -> None:
        key = json.dumps([depends, version("torch")], sort_keys=True)
        self._path = FOLDER / name / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.pt"
        self._ended = self._path.with_suffix(".ended")
        self._saves = saves
        for other in FOLDER.rglob("*.ended"):  # this training runs, so DVC has recorded those before it
            if other != self._ended:
                other.unlink(missing_ok=True)

    def load(self) -> dict[str, Any] | None:
        """The last saved state (tensors on the CPU), or None when there is none."""
        path = self._ended if self._ended.exists() else self._path
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            return None
        digest, state = content[:_DIGEST_BYTES], content[_DIGEST_BYTES:]
        try:
            if hashlib.sha256(state).digest() != digest:  # torch's own reader would not see a flipped bit
                raise ValueError
            loaded: dict[str, Any] = torch.load(io.BytesIO(state), map_location="cpu", weights_only=True)
        except (RuntimeError, EOFError, ValueError, pickle.UnpicklingError):
            print(f"{path}: damaged, starting again", flush=True)
            path.unlink(missing_ok=True)
            return None
        print(f"continuing from {path}", flush=True)
        return loaded

    def save(self, state: dict[str, Any]) -> None:
        """Replace the checkpoint, and delete those of this name with another key. A kill leaves the old one whole.

        Raises:
            UserError: the disk does not take it; the old one is whole.
        """
        if not self._saves:
            return
        buffer = io.BytesIO()  # torch's own writer hides a full disk behind an internal error
        torch.save(state, buffer)
        temporary = self._path.with_suffix(f".{os.getpid()}.tmp")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with temporary.open("wb") as file:
                file.write(hashlib.sha256(buffer.getbuffer()).digest())
                file.write(buffer.getbuffer())
                file.flush()
                os.fsync(file.fileno())  # else a loss of power may leave the new name with no content
            os.replace(temporary, self._path)
        except OSError as error:
            raise UserError(
                f"{self._path}: cannot be written ({error.strerror}): mend that and run again; the training continues "
                "from the checkpoint before it"
            ) from None
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
        for old in self._path.parent.iterdir():  # with other dependencies, or half written when it was killed
            if old != self._path:
                old.unlink(missing_ok=True)

    def end(self) -> None:
        """Say that the training's results are in place.

        The checkpoint is deleted, but under DVC only when the next training begins: if DVC is killed before it has
        recorded the results, it deletes them and runs the stage again.
        """
        if not self._saves:
            return
        if "DVC_STAGE" in os.environ:
            with contextlib.suppress(FileNotFoundError):  # it ended before, and is called so
                self._path.replace(self._ended)
        else:
            self._path.unlink(missing_ok=True)
            self._ended.unlink(missing_ok=True)
