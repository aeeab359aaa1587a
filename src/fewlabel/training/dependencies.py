"""What a stage depends on, by its entry in dvc.yaml: DVC's own answer to "does a change matter to this training?"."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import yaml

from fewlabel.errors import UserError

EXPRESSION = re.compile(r"\$\{(.+?)\}")  # of DVC, like ${item.seed}


def digest(command: str, params: dict[str, Any], dag: Path = Path("dvc.yaml")) -> str:
    """A digest of what the stage that runs ``command`` depends on: its files' content and its parameters' values.

    It is found by its command line, so it is the same when a user runs the script by hand.

    Args:
        command: the module and its arguments, like ``stages.finetune scratch 20-0``.
        params: all parameters, with the values of the budget in force.
    """
    stage, item = _find(command, yaml.safe_load(dag.read_text(encoding="utf-8"))["stages"])

    def filled(text: str) -> str:
        return EXPRESSION.sub(lambda found: item[found[1]], text)

    found = hashlib.sha256()
    for path in map(filled, stage["deps"]):
        for file in sorted(_files(dag.parent / path)):
            found.update(file.name.encode())
            with file.open("rb") as content:
                found.update(hashlib.file_digest(content, "sha256").digest())
    for name in map(filled, stage.get("params", [])):
        value: Any = params
        for key in name.split("."):
            value = value[key]
        found.update(json.dumps([name, value], sort_keys=True).encode())
    return found.hexdigest()


def _find(command: str, stages: dict[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """The stage whose command this is, and the values of the expressions in it."""
    matches = []
    for stage in stages.values():
        stage = stage.get("do", stage)
        _, module, after = stage["cmd"].partition("stages.")
        names = EXPRESSION.findall(after)
        pattern = re.escape(module) + r"(\S+)".join(map(re.escape, EXPRESSION.split(after)[::2]))
        if found := re.fullmatch(pattern, command):
            matches.append((stage, dict(zip(names, found.groups(), strict=True))))
    if not matches:
        raise UserError(f"dvc.yaml: no stage runs `{command}`: add it there, so that its dependencies are known")
    return min(matches, key=lambda match: len(match[1]))  # the most specific one


def _files(path: Path) -> list[Path]:
    """The files below a folder, or the file itself."""
    if not path.is_dir():
        return [path]
    return [file for file in path.rglob("*") if file.is_file() and file.suffix != ".pyc"]
