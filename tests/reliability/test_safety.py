"""Nothing from outside is run: no pickle is loaded, no server listens beyond this machine, requirements have hashes.

Ruff's rules S301, S302, S307 and S506 refuse calls that load pickles, run a text or read YAML unsafely.
"""

import contextlib
import hashlib
import io
import pickle
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from fewlabel import params
from fewlabel.data import cifar10, few_shot, hymenoptera, omniglot
from fewlabel.errors import UserError
from fewlabel.fewshot import episodes
from fewlabel.networks import backbones, small, weights
from fewlabel.report import examples
from fewlabel.results import RESULTS
from fewlabel.training import checkpoint
from fewlabel.transfer import starts
from tests.conftest import ROOT
from tests.report.test_examples import write


class Bomb:
    """Unpickled, it makes the file."""

    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.witness,)


def as_torch(bomb: Bomb) -> bytes:
    buffer = io.BytesIO()
    torch.save({"step": 1, "weights": bomb}, buffer)
    return buffer.getvalue()


def as_old_torch(bomb: Bomb) -> bytes:
    buffer = io.BytesIO()
    torch.save({"step": 1, "weights": bomb}, buffer, _use_new_zipfile_serialization=False)
    return buffer.getvalue()


def as_npy(bomb: Bomb) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.array([bomb], dtype=object), allow_pickle=True)
    return buffer.getvalue()


def as_npz(bomb: Bomb) -> bytes:
    """Under every name that a reader asks for."""
    names = "images names origin train validation test background classes support query labels is_train vinyals_train"
    kept = ["5w1s support", "5w1s query", "5w1s predicted"]
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in [*names.split(), *kept, "train_images", "train_labels", "test_images", "test_labels"]:
            archive.writestr(f"{name}.npy", as_npy(bomb))
    return buffer.getvalue()


def read_examples(path: Path) -> None:
    """The file in the place of the kept episodes of an evaluation."""
    raw = yaml.safe_load((ROOT / "params.yaml").read_text())
    raw["cells"] |= {"splits": ["lake"], "metric_methods": ["siamese"], "few_shot_seeds": [0]}
    raw["cells"] |= {"gradient_methods": ["maml"], "tasks": ["5w1s"]}
    with contextlib.chdir(path.parent):
        evaluated = RESULTS / "evaluate"
        write(evaluated / "siamese-lake-0", "siamese", "lake", {"5w1s": 5}, (False,), 0)
        write(evaluated / "maml-lake-5w1s-0", "maml", "lake", {"5w1s": 5}, (False,), 0)
        path.rename(evaluated / "siamese-lake-0" / "examples.npz")
        examples.read(params.parse(raw))


# By the name of the file, how it is read.
READERS: dict[str, Callable[[Path], Any]] = {
    "weights.pth": backbones._read,
    "backbone.safetensors": lambda path: small.load(path, "resnet18-imagenet"),
    "model.safetensors": weights.read,
    "features.safetensors": lambda path: starts.frozen(path, torch.device("cpu"), photographs=3, classes=2, seed=0),
    "omniglot.npz": omniglot.load,
    "cifar10.npz": cifar10.load,
    "hymenoptera.npz": hymenoptera.load,
    "data.npz": few_shot.load,
    "5w1s.npz": lambda path: episodes.load(path, 10, 20),
    "examples.npz": read_examples,
    "params.yaml": params.load,
    "cifar-10-binary.tar.gz": lambda path: cifar10.pack(path.parent, "embedded"),
    "hymenoptera_data.zip": lambda path: hymenoptera.pack(path.parent, "embedded"),
}
PLANTS = (pickle.dumps, as_torch, as_old_torch, as_npy, as_npz)


CASES = [(name, plant) for name in READERS for plant in PLANTS]
CASES.remove(("examples.npz", as_torch))  # a zip file without arrays: those of an evaluation on too many classes


@pytest.mark.parametrize(("name", "plant"), CASES)
def test_a_planted_pickle_is_never_loaded(tmp_path: Path, name: str, plant: Callable[[Any], bytes]) -> None:
    (tmp_path / name).write_bytes(plant(Bomb(tmp_path / "witness")))
    with pytest.raises(UserError, match=name):  # so it was this file that was read
        READERS[name](tmp_path / name)
    assert not (tmp_path / "witness").exists()


@pytest.mark.parametrize("plant", PLANTS, ids=lambda each: each.__name__)
def test_nor_in_the_place_of_a_checkpoint(tmp_path: Path, plant: Callable[[Any], bytes], monkeypatch: Any) -> None:
    monkeypatch.setattr(checkpoint, "FOLDER", tmp_path)
    planted = checkpoint.Checkpoint("planted", {})
    planted.save({"step": 0})
    (path,) = tmp_path.rglob("*.pt")
    content = plant(Bomb(tmp_path / "witness"))
    path.write_bytes(hashlib.sha256(content).digest() + content)
    assert planted.load() is None
    assert not path.exists()
    assert not (tmp_path / "witness").exists()


def test_the_bomb_would_go_off(tmp_path: Path) -> None:
    torch.load(io.BytesIO(as_torch(Bomb(tmp_path / "witness"))), weights_only=False)
    assert (tmp_path / "witness").exists()


def test_no_call_asks_for_pickles() -> None:
    for path in [path for folder in ("src", "stages", "benchmarks") for path in (ROOT / folder).rglob("*.py")]:
        assert not re.search(r"weights_only=(?!True)|allow_pickle=(?!False)|read_pickle", path.read_text()), path


def test_servers_listen_on_this_machine_alone() -> None:
    commands = [
        (path.name, line)
        for path in [ROOT / "Makefile", ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
        for line in path.read_text(encoding="utf-8").replace("\\\n", " ").splitlines()
        if re.search(r"mlflow (ui|server|models serve|gateway)\b.*--", line)
    ]
    assert commands
    for name, line in commands:
        assert "--host 127.0.0.1" in line, (name, line)


def test_every_locked_requirement_has_its_hashes() -> None:
    lock = (ROOT / "requirements.lock").read_text().replace("\\\n", " ")
    entries = [line for line in lock.splitlines() if line and not line.lstrip().startswith("#")]
    assert len(entries) > 50
    for entry in entries:
        assert re.match(r"\S+==\S+ .*--hash=sha256:[0-9a-f]{64}", entry), entry[:100]
    assert "--require-hashes" in (ROOT / "Makefile").read_text()
