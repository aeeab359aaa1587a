"""What every stage does the same way: refuse a mistake in one line, and write outputs whole or not at all."""

from __future__ import annotations

import atexit
import contextlib
import errno
import json
import os
import re
import shutil
import signal
import sys
import traceback
import zipfile
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

from filelock import FileLock, SoftFileLock, Timeout
from safetensors import SafetensorError

from fewlabel import params, tracking
from fewlabel.errors import UserError
from fewlabel.training import checkpoint
from stages import answer_ctrl_c

# What takes the most memory in each stage, and is lowered when it runs out.
_LARGEST = {
    "siamese": "siamese.classes",
    "prototypes": "prototypes.way",
    "nearest_mean": "nearest_mean.classes",
    "maml": "maml.meta_batch",
    "reptile": "reptile.meta_batch",
    "pretrain_rotation": "pretrain_rotation.batch_size",
    "finetune": "finetune.batch_size",
    "transfer": "transfer.batch_size or transfer.crop_size",
    "transfer_features": "transfer.image_size",
    "episodes": "episodes.count",
    "evaluate": "episodes.queries",
}
_MISSING = {errno.ENOENT, errno.EISDIR, errno.ENOTDIR}
_ENDING_S = 3.0  # given to a process that was told to end, and to one that the kernel is still clearing away


def launch(main: Callable[[], None], shared: bool = False) -> None:
    """Run a stage. A person's mistake, and what its machine lacks, become one line on stderr and exit code 2; SIGINT
    and SIGTERM one line and 130; our bugs keep their traceback.

    Args:
        shared: several processes may run it as one; the first of them stands for all.
    """
    if sys.stdout is not None:  # closed
        sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    try:
        answer_ctrl_c()
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # a scheduler's way of saying the same
        checkpoint.sweep()
        later = shared and "WORLD_SIZE" in os.environ and os.environ.get("RANK") != "0"
        with contextlib.nullcontext() if later else _alone(" ".join([Path(sys.argv[0]).stem, *sys.argv[1:]])):
            main()
    except KeyboardInterrupt:
        print("interrupted: run the same command again; a training continues from its checkpoint", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        line = _one_line(error)
        if line is None:
            raise
        print(f"error: {params.plain(line)}", file=sys.stderr)
        if isinstance(error, BrokenPipeError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # or Python would try to write the rest as it ends
        sys.exit(2)
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):  # what is left is Python's own end, which they would garble
            atexit.register(signal.signal, number, signal.SIG_IGN)


def _one_line(error: Exception) -> str | None:
    """What a person has to know; None for a bug of ours."""
    text = " ".join(str(error).split())
    if isinstance(error, UserError):
        return text
    code = error.errno if isinstance(error, OSError) else None
    if isinstance(error, SafetensorError) and (told := re.search(r"\(os error (\d+)\)", text)):
        code = int(told[1])
    if isinstance(error, FileNotFoundError) or code in _MISSING:
        return f"{text}; `dvc repro` makes missing or damaged files again"
    if code is not None:
        where = getattr(error, "filename", None) or _file_of(error) or "while writing, to a file or to the terminal"
        return f"{os.strerror(code)}: {where}; mend that and run again"
    if (damaged := _file_of(error)) or isinstance(error, SafetensorError | zipfile.BadZipFile):
        name = damaged or "a file of arrays or weights"
        return f"{name}: damaged ({type(error).__name__}: {text[:120]}); `dvc repro` makes it again"
    if isinstance(error, RuntimeError) and text.startswith("Error(s) in loading state_dict for"):
        return f"a file of weights is another network's, or damaged ({text[:160]}); `dvc repro` makes it again"
    if _out_of_memory(error):
        stage, *arguments = sys.argv
        lower = _largest(Path(stage).stem, arguments)
        ways = f"lower {lower} in params.yaml" if lower else "free some, or use a machine that has more"
        return f"out of memory ({text[:100]}): {ways}{', or set device: cpu' if 'CU' in text else ''}"
    return None


def _largest(stage: str, arguments: list[str]) -> str | None:
    """The parameter to lower in the stage that these arguments of the command line name."""
    at = {"episodes": 0, "evaluate": 1}.get(stage)  # which argument is the split
    if at is not None and (split := arguments[at]) not in params.OMNIGLOT_SPLITS:
        return f"own_images.{split}.size or own_images.{split}.per_class"
    return _LARGEST.get(arguments[0] if stage == "meta_train" else stage)


def _out_of_memory(error: Exception) -> bool:
    """On a GPU, where it is a RuntimeError under several names, or on the machine."""
    if isinstance(error, MemoryError):
        return True
    words = ("out of memory", "can't allocate memory", "ALLOC_FAILED")
    return isinstance(error, RuntimeError) and any(word in str(error) for word in words)


def _file_of(error: Exception) -> str | None:
    """The file of arrays or weights that was being read or written: damage makes numpy and zipfile raise errors of many
    kinds, and safetensors does not say which file it is at."""
    for frame, _ in reversed(list(traceback.walk_tb(error.__traceback__))):
        path = frame.f_locals.get("path", frame.f_locals.get("filename"))
        if frame.f_code.co_name in ("read", "load", "load_file", "write", "save_file") and path:
            return str(path) if Path(path).suffix in (".npz", ".safetensors") else None
    return None


@contextlib.contextmanager
def _alone(work: str) -> Iterator[None]:
    """A block that no second process of this checkout enters for the same work: a `dvc` that died may have left its
    stage behind. The lock of a process that ends, however it ends, is free; so what lies about within is a dead one's.
    """
    path = checkpoint.FOLDER / "locks" / (re.sub(r"[^\w.-]+", "-", work)[-150:] + ".lock")
    lock = FileLock(path, timeout=_ENDING_S)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
        if not isinstance(lock, SoftFileLock):  # on a file system without locks, whose own mark names the process too
            path.write_text(str(os.getpid()), encoding="utf-8")
    except Timeout:
        other = "another process"
        with contextlib.suppress(OSError, IndexError):
            other = f"process {path.read_text(encoding='utf-8').split()[0]}"
        raise UserError(f"{other} is at `{work}` already: wait for it, or end it") from None
    except OSError:  # no room for it, or forbidden: the stage will say so if that concerns it
        pass
    try:
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def whole_folder(path: str | Path) -> Iterator[Path]:
    """A folder to fill, which takes the place of ``path`` only when the block ends without an error, and is on the disk
    then. The stage's run is told of it."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    draft, aside = path.with_name(f".{path.name}.{os.getpid()}.draft"), path.with_name(f".{path.name}.aside")
    with _alone(str(path)), naming(path):
        _clear(path, aside)  # of a killed run
        draft.mkdir()
        try:
            yield draft
            for file in (*draft.rglob("*"), draft):
                _synced(file)
            if os.path.lexists(path):
                shutil.move(path, aside)  # a rename; the layers of a container may refuse to rename a folder of theirs
            draft.rename(path)
            _synced(path.parent)
            tracking.outputs(path)
        finally:
            with uninterrupted():
                _clear(path, aside)


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """A block, of a moment, that SIGINT and SIGTERM come after."""
    with checkpoint.signals_wait() as interrupted:
        yield
    if interrupted():
        raise KeyboardInterrupt


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """A block of writes to this place, whose errors by themselves name no file."""
    try:
        yield
    except OSError as error:
        if error.errno and not error.filename:
            error.filename = str(path)
        raise


def _clear(path: Path, aside: Path) -> None:
    """Delete the drafts of a result, and the old one that was put aside if there is a new one; else put it back."""
    drafts = list(path.parent.glob(f".{path.name}.*.draft"))
    if os.path.lexists(aside) and not os.path.lexists(path):
        aside.rename(path)
    elif os.path.lexists(aside):
        drafts.append(aside.with_name(f"{aside.name}.{os.getpid()}.draft"))  # half an old result is not called so
        aside.rename(drafts[-1])
    for left_over in drafts:
        with contextlib.suppress(OSError):
            delete(left_over)


def delete(path: Path) -> None:
    """Delete a folder with all it holds, a file, or a link but not what it leads to."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def _synced(path: Path) -> None:
    """Have it on the disk itself: else a loss of power may leave a new name with no content."""
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    except OSError:
        if not path.is_dir():  # not every file system takes this of a folder
            raise
    finally:
        os.close(number)


def write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=1, sort_keys=True, allow_nan=False) + "\n", encoding="utf-8")


def run_facts(device: Any, seconds: float, **more: Any) -> dict[str, Any]:
    """What `run.json` holds: how this run went on this machine. No later stage but `compare` reads it, so that
    equal inputs give equal bytes everywhere else."""
    import torch

    from fewlabel.training import device as devices

    return {
        "device": devices.describe(device),
        "seconds": round(seconds, 1),
        "peak_memory_mib": round(devices.peak_memory_mib(device)),
        "torch": torch.__version__,
        "torchvision": version("torchvision"),  # importing it takes half a second
        **more,
    }
