"""Checkpoints of a training that may be killed: keyed by everything the training depends on, written atomically.

They live in ``.checkpoints/``, outside the declared outputs, so DVC's run-cache stays usable and a checkpoint of
other parameters, other data or other code is never picked up. Deleted when the training is done and recorded. SIGINT
and SIGTERM wait for the end of a step, so that there is a whole state to save.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import pickle
import shutil
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

from fewlabel.errors import UserError

FOLDER = Path(".checkpoints")
_DIGEST_BYTES = hashlib.sha256().digest_size  # a file is the digest of a state, then the state as torch saves it
_DONE = "done"  # a mark beside a checkpoint whose training has ended, but is not known to be recorded
_SOURCES = Path(__file__).parents[1]


def sweep() -> None:
    """Delete the checkpoints of trainings that DVC has recorded since they ended."""
    with contextlib.suppress(FileNotFoundError):  # another stage sweeps too; what this one misses the next one finds
        for mark in list(FOLDER.rglob(_DONE)):
            stage, _, before = mark.read_text(encoding="utf-8", errors="replace").partition("\n")
            if _recorded(stage) not in ("", before):
                shutil.rmtree(mark.parent, ignore_errors=True)


def _recorded(stage: str) -> str:
    """A digest of what ``dvc.lock`` says of a stage; empty where it says nothing, or cannot be read."""
    try:
        entry = yaml.safe_load(Path("dvc.lock").read_bytes())["stages"][stage]
    except (OSError, ValueError, yaml.YAMLError, KeyError, TypeError):
        return ""
    return hashlib.sha256(json.dumps(entry, sort_keys=True).encode()).hexdigest()


class Checkpoint:
    """One training's checkpoint file.

    Args:
        name: the stage cell, e.g. ``meta_train/maml-lake-5w1s-0``; readable part of the path.
        settings: JSON-able values that the training depends on.
        files: input files that it depends on (hashed by content).
        saves: whether this process saves it; of those that share a training the first one does, and all load.
    """

    def __init__(self, name: str, settings: Any, files: Iterable[str | Path], saves: bool = True) -> None:
        digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
        digest.update(version("torch").encode())
        code = [*sorted(_SOURCES.rglob("*.py")), *sorted((_SOURCES.parents[1] / "stages").glob("*.py"))]
        for path in [*map(Path, files), *code]:
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        self._folder, self._saves = FOLDER / name, saves
        self._path = self._folder / f"{digest.hexdigest()[:32]}.pt"

    def load(self) -> dict[str, Any] | None:
        """The last saved state (tensors on the CPU), or None when there is none."""
        import torch

        (self._folder / _DONE).unlink(missing_ok=True)
        try:
            content = self._path.read_bytes()
        except FileNotFoundError:
            return None
        digest, state = content[:_DIGEST_BYTES], content[_DIGEST_BYTES:]
        try:
            if hashlib.sha256(state).digest() != digest:  # torch's own reader would not see a flipped bit
                raise ValueError
            loaded: dict[str, Any] = torch.load(io.BytesIO(state), map_location="cpu", weights_only=True)
        except (RuntimeError, EOFError, ValueError, pickle.UnpicklingError):
            print(f"{self._path}: damaged, starting again", flush=True)
            self._path.unlink(missing_ok=True)
            return None
        print(f"continuing from {self._path}", flush=True)
        return loaded

    def save(self, state: dict[str, Any]) -> None:
        """Replace the checkpoint; a kill in the middle leaves the old one whole. Stale ones are removed.

        A state that is no longer finite is not saved: the next step will say so.

        Raises:
            UserError: the disk does not take it; the old one is whole.
        """
        if not self._saves or not finite(state):
            return
        import torch

        buffer = io.BytesIO()  # torch's own writer hides a full disk behind an internal error
        torch.save(state, buffer)
        temporary = self._path.with_suffix(f".{os.getpid()}.tmp")
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
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
        for old in self._folder.iterdir():  # of other parameters, inputs or code, or half written when it was killed
            if old != self._path:
                old.unlink(missing_ok=True)

    def remove(self) -> None:
        """Delete it: the training is done and its outputs are in place.

        Where DVC runs the stage it is marked only, for `sweep`: DVC has the outputs to record yet, and if it is killed
        before, it deletes them and runs the stage again. The mark says what DVC had recorded until now.
        """
        stage = os.environ.get("DVC_STAGE")
        if stage is not None and self._path.exists():
            (self._folder / _DONE).write_text(f"{stage}\n{_recorded(stage)}", encoding="utf-8")
        else:
            shutil.rmtree(self._folder, ignore_errors=True)


def finite(state: Any) -> bool:
    """Whether all floating-point tensors in it are."""
    import torch

    if isinstance(state, torch.Tensor):
        return not state.is_floating_point() or bool(state.isfinite().all())
    if isinstance(state, dict):
        return all(map(finite, state.values()))
    return not isinstance(state, list) or all(map(finite, state))
