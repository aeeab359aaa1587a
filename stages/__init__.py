"""The stages of the pipeline, one thin script each; run them from the repository root: ``python -m stages.NAME``.

The library is taken from this checkout's ``src``, before any installed copy: an experiment that DVC runs in a
temporary copy of the repository must use the copy's code.
"""

import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.realpath(__file__))), "src"))
