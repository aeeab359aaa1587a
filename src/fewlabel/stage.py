"""How a stage script runs: a user's mistake ends it in one line, a signal in one line that says how to go on."""

from __future__ import annotations

import gc
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from fewlabel.errors import UserError
from fewlabel.strict import plain

# What to lower when a stage runs out of memory; {0} and {1} are the arguments of its command line.
LOWER = {
    "meta_train": "meta_batch, classes or way in section {0}",
    "pretrain": "pretrain.batch_size",
    "finetune": "finetune.batch_size",
    "transfer": "transfer.batch_size or transfer.crop_size",
    "transfer_features": "transfer.image_size",
    "episodes": "episodes.count (own images: size or per_class in own_images.{0})",
    "evaluate": "episodes.queries (own images: size or per_class in own_images.{1})",
}
OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "ALLOC_FAILED")  # in torch's messages, which have no code


def launch(main: Callable[[], None]) -> None:
    """Run a stage.

    A `UserError`, an `OSError` and a lack of memory end it in one line on stderr, with exit code 2; SIGINT and SIGTERM
    with exit code 130. A bug keeps its traceback, and with ``FEWLABEL_TRACEBACK=1`` every error does.
    """
    if sys.stdout is not None:  # None: the shell closed it
        sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        main()
    except KeyboardInterrupt:
        print("interrupted: run the same command again; a training continues from its checkpoint", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        line = _one_line(error)
        if line is None or os.environ.get("FEWLABEL_TRACEBACK") == "1":
            raise
        print(f"error: {plain(line)}", file=sys.stderr)
        sys.exit(2)
    finally:
        gc.freeze()  # else Python's end goes through all objects of torch and MLflow, which takes 1 to 2 s


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def _one_line(error: Exception) -> str | None:
    """What the user has to know; None: the error is a bug."""
    text = " ".join(str(error).split())
    if isinstance(error, UserError):
        return text
    if isinstance(error, FileNotFoundError | IsADirectoryError | NotADirectoryError):
        return f"{text}; `dvc repro` makes missing files again"
    if isinstance(error, OSError) and error.errno:
        where = error.filename or "while writing, to a file or to the terminal"
        return f"{os.strerror(error.errno)}: {where}; mend that and run again"
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and any(w in text for w in OUT_OF_MEMORY)):
        stage, *arguments = sys.argv
        lower = LOWER.get(Path(stage).stem, "a batch size or an image size").format(*arguments)
        return f"out of memory ({text[:100]}): lower {lower} in params.yaml{', or set device: cpu' * ('CU' in text)}"
    return None
