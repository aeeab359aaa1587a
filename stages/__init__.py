"""The stages of the pipeline, one thin script each; run them from the repository root: ``python -m stages.NAME``.

The library is taken from this checkout's ``src``, before any installed copy: an experiment that DVC runs in a
temporary copy of the repository must use the copy's code.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))
