"""What every stage does the same way: refuse a mistake in one line, and write outputs whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import sys
import zipfile
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from fewlabel import tracking
from fewlabel.errors import UserError


def launch(main: Callable[[], None]) -> None:
    """Run a stage. A person's mistake becomes one line on stderr and exit code 2; our bugs keep their traceback."""
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    try:
        main()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except (FileNotFoundError, SafetensorError, zipfile.BadZipFile) as error:
        print(
            f"error: {' '.join(str(error).split())}; `dvc repro` makes missing or damaged files again", file=sys.stderr
        )
        sys.exit(2)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS):
            raise
        print(f"error: {error.strerror}: {error.filename or 'while writing'}; mend that and run again", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted: run the same command again to continue from the last checkpoint", file=sys.stderr)
        sys.exit(130)


@contextlib.contextmanager
def whole_folder(path: str | Path) -> Iterator[Path]:
    """A folder to fill, which takes the place of ``path`` only when the block ends without an error. The stage's run
    is told of it."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}.draft")
    for left_over in path.parent.glob(f".{path.name}.*.draft"):  # of a killed run
        shutil.rmtree(left_over, ignore_errors=True)
    draft.mkdir()
    try:
        yield draft
        shutil.rmtree(path, ignore_errors=True)
        draft.rename(path)
        tracking.outputs(path)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=1, sort_keys=True, allow_nan=False) + "\n", encoding="utf-8")


def run_facts(device: Any, seconds: float, **more: Any) -> dict[str, Any]:
    """What `run.json` holds: how this run went on this machine. No later stage but `compare` reads it, so that
    equal inputs give equal bytes everywhere else."""
    import torch

    from fewlabel import device as devices

    return {
        "device": devices.describe(device),
        "seconds": round(seconds, 1),
        "peak_memory_mib": round(devices.peak_memory_mib(device)),
        "torch": torch.__version__,
        "torchvision": version("torchvision"),  # importing it takes half a second
        **more,
    }
