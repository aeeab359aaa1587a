"""The errors that a user can mend. `stage.launch` shows them in one line; any other error keeps its traceback."""

from __future__ import annotations

from pathlib import Path


class UserError(Exception):
    """A mistake of the user. The message is one line: what is wrong, and what to do."""


class DamagedFile(UserError):
    """A file cannot be read as what it should be.

    >>> str(DamagedFile("data/x.npz", "truncated"))
    'data/x.npz: damaged (truncated); `dvc repro` makes it again'
    """

    def __init__(self, path: str | Path, reason: Exception | str, mend: str = "`dvc repro` makes it again") -> None:
        """
        Args:
            reason: what the reader said.
            mend: what the user should do.
        """
        self.path = Path(path)
        super().__init__(f"{path}: damaged ({' '.join(str(reason).split())[:120]}); {mend}")
