"""Mend what a killed ``dvc`` leaves of its own files and cannot read: ``python -m stages.mend``.

DVC writes ``dvc.lock`` and its list of locks in place, so that a kill, or Ctrl+C, may leave half of one; and it makes a
folder of its run cache before it has an entry to put there. No result and no checkpoint is touched. In the place of
``dvc.lock`` comes the committed one, and what that lacks ``dvc repro`` finds in the run cache, without running a stage.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

from dvc.dvcfile import LOCK_FILE, Lockfile
from dvc.exceptions import DvcException
from dvc.repo import Repo
from dvc.utils.serialize import ParseError
from dvc.utils.strictyaml import YAMLValidationError


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    try:
        repo = Repo()
        with repo.lock:  # as every DVC command that writes has it
            mend(repo)
    except (DvcException, OSError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)


def mend(repo: Repo) -> None:
    """Each file by itself, and a line for each that was mended."""
    for folder in sorted(Path(repo.stage_cache.cache_dir).rglob("*"), reverse=True):  # the inner ones first
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
            print(f"removed an empty folder of DVC's run cache: {folder}")
    locks = Path(repo.tmp_dir) / "rwlock"
    try:
        json.loads(locks.read_bytes())
    except FileNotFoundError:
        pass
    except ValueError:
        locks.unlink()
        print(f"removed half a list of DVC's locks: {locks}")
    path = Path(repo.root_dir) / LOCK_FILE
    try:
        Lockfile(repo, str(path)).load()
    except (ParseError, YAMLValidationError):
        if b"<<<<<<<" in path.read_bytes():
            return  # a merge that someone is at, of which DVC tells by itself
        committed = subprocess.run(["git", "show", f"HEAD:./{LOCK_FILE}"], cwd=path.parent, capture_output=True)
        draft = Path(repo.tmp_dir) / f"{LOCK_FILE}.committed"
        draft.write_bytes(committed.stdout)  # a full disk fails here, and nothing has changed
        print(f"put aside {LOCK_FILE}, which was cut short: {path.replace(draft.with_name(LOCK_FILE))}")
        if committed.returncode == 0:
            draft.replace(path)
            print(f"took the {LOCK_FILE} that was committed last")


if __name__ == "__main__":
    main()
