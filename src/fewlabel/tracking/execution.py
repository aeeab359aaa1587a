"""Which pipeline execution a stage belongs to, and which state of the repository it runs in."""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
import time
from pathlib import Path

import psutil


def execution() -> tuple[str, str] | None:
    """An identifier that the stages of one execution share with no other, and its name; None outside DVC.

    ``dvc repro`` hands its stages nothing that tells one execution from the next, so its process has to.
    """
    told = tags()
    if name := told.get("dvc.experiment"):
        return f"{name}-{told.get('dvc.baseline', '')[:10]}-{told['params.digest']}", name
    for process in psutil.Process().parents():
        try:
            if runs_dvc(process.cmdline()):
                name = f"repro-{told.get('git.commit', 'no-commit')[:7]}-{time.strftime('%Y%m%d-%H%M%S')}"
                return f"{platform.node()}-{process.pid}-{process.create_time():.2f}", name
        except psutil.Error:  # another user's, or ended
            continue
    return None


def runs_dvc(command: list[str]) -> bool:
    """Whether a command line is ``dvc …``, ``python …/dvc …`` or ``python -m dvc …``."""
    program, script, module = (Path(word).name for word in [*command, "", "", ""][:3])
    return program == "dvc" or (program.startswith("python") and (module if script == "-m" else script) == "dvc")


def tags() -> dict[str, str]:
    """The commit (``…-dirty`` with changes), DVC's experiment, and a digest of params.yaml."""
    # DVC may be at work in the repository, so git takes no lock.
    git = "git --no-optional-locks describe --always --dirty --abbrev=40 --exclude=*"
    found = {
        "git.commit": subprocess.run(git.split(), capture_output=True, text=True).stdout.strip(),
        "dvc.experiment": os.environ.get("DVC_EXP_NAME", ""),
        "dvc.baseline": os.environ.get("DVC_EXP_BASELINE_REV", ""),
        "params.digest": hashlib.sha256(Path("params.yaml").read_bytes()).hexdigest()[:16],
    }
    return {key: value for key, value in found.items() if value}
