"""The stages of the pipeline, one thin script each; run them from the repository root: ``python -m stages.NAME``.
And `queue`, which runs experiments of them.

The library is taken from this checkout's ``src``, before any installed copy: an experiment that DVC runs in a
temporary copy of the repository must use the copy's code.
"""

import os
import signal
import sys

# A stage is being started, not imported: until it answers Ctrl+C itself, that ends it at once. Python's own answer, an
# exception, would come out of the middle of numpy or torch, which hide it in errors of theirs.
if sys.argv[0] == "-m" and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.realpath(__file__))), "src"))


def answer_ctrl_c() -> None:
    """From here on it raises KeyboardInterrupt, unless whoever started this process wants it ignored (``nohup``)."""
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
