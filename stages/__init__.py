"""The stages of the pipeline, one thin script each; run them from the repository root: ``python -m stages.NAME``.
And `queue`, which runs experiments of them.

The library is taken from this checkout's ``src``, before any installed copy: an experiment that DVC runs in a
temporary copy of the repository must use the copy's code.
"""

import sys
from pathlib import Path
from types import TracebackType

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))


def _uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Ctrl+C during the seconds in which a stage imports, before `common.launch` answers it, is no bug of ours."""
    if issubclass(kind, KeyboardInterrupt):
        print("interrupted before the work began", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)


if sys.argv[0] == "-m":  # a stage is being started, not imported
    sys.excepthook = _uncaught
