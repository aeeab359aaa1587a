"""A stage reads the settings that dvc.yaml declares for it and no others: changing one that it reads runs it again."""

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import save_file

from fewlabel import params
from fewlabel.data import cifar10, hymenoptera
from fewlabel.networks import backbones, small, weights
from fewlabel.training import dependencies
from stages import finetune, pretrain, transfer, transfer_features
from tests.conftest import ROOT
from tests.test_dag import EXPANDED, interpolate

SCRIPTS = {each.__name__: each for each in (finetune, pretrain, transfer, transfer_features)}
WHERE = {"data.mirror"}  # where weights come from, not what they are
FROM = ("transfer_from",)
# Declared for every start of a stage, though not each reads all.
SHARED = {
    "stages.transfer": ("transfer.", "pretrain.network"),
    "stages.finetune": ("finetune.frozen_", "pretrain.network"),
}


def declared(names: list[str], item: dict[str, str]) -> set[str]:
    """The settings that a stage's ``params`` name, a whole section as each of its keys."""
    keys = set()
    for name in (interpolate(name, item) for name in names):
        kind = params.Params.model_fields[name.partition(".")[0]].annotation
        whole = isinstance(kind, type) and issubclass(kind, params.Section) and "." not in name
        keys |= {f"{name}.{key}" for key in kind.model_fields} if whole else {name}
    return keys


def commands() -> Iterator[Any]:
    """Of each stage on CIFAR-10 and the photographs one cell of each start: script, arguments and declared settings."""
    seen = set()
    for _, stage, item in EXPANDED:
        script, arguments = re.findall(r"-m (stages\.\w+)(.*)", interpolate(stage["cmd"], item))[0]
        name = " ".join([script, *arguments.split()[:1]])
        if script in SCRIPTS and name not in seen:
            seen.add(name)
            yield pytest.param(script, arguments.split(), declared(stage["params"], item), id=name)


@pytest.fixture
def inputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> params.Params:
    """A folder with what comes before these stages, very small; → the settings of the smoke budget."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    little, labels = rng.integers(256, size=(500, 3, 32, 32), dtype=np.uint8), (np.arange(500) % 10).astype(np.uint8)
    data = cifar10.Cifar10(little, labels, little[:2], labels[:2], "embedded")
    monkeypatch.setattr(cifar10, "load", lambda path: data)
    large = rng.integers(256, size=(12, 3, 64, 64), dtype=np.uint8)
    classes, names = (np.arange(12) % 2).astype(np.uint8), np.array([f"{number}.jpg" for number in range(12)])
    photographs = hymenoptera.Hymenoptera(large, classes, np.arange(12) < 8, names, "embedded")
    monkeypatch.setattr(hymenoptera, "load", lambda path: photographs)
    pretrained = [Path(f"results/pretrain/{name}/backbone.safetensors") for name in ("rotation", "emp_ssl")]
    for path in (finetune.DATA, transfer.DATA, transfer.IMAGENET_FEATURES, *pretrained):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    transfer.WEIGHTS.parent.mkdir(parents=True)
    transfer.WEIGHTS.symlink_to(backbones.packaged_weights(backbones.LITE0) or "")
    save_file({name: torch.ones(12, 1280) for name in ("upright", "mirrored")}, transfer.IMAGENET_FEATURES)
    raw = yaml.safe_load((ROOT / "params.yaml").read_text()) | {"budget": "smoke"}
    raw["pretrain"] |= {"network": "compact-4-4-4", "images": 16, "steps": 1, "curve_images": 2}
    for path in pretrained:
        weights.write(path, weights.of(small.create("compact-4-4-4", 0)))
    raw["finetune"] |= {"steps": 1, "epochs": 0.001, "test_images": 2}
    raw["transfer"] |= {"image_size": 32, "crop_size": 32, "batch_size": 8}
    return params.parse(raw)


@pytest.mark.parametrize(("script", "arguments", "keys"), commands())
def test_a_stage_reads_what_it_declares(script, arguments, keys, inputs, monkeypatch) -> None:
    read: set[str] = set()
    get = params.Section.__getattribute__
    sections = {id(value): name for name, value in inputs if isinstance(value, params.Section)}
    own = {id(start): f"{name}.{key}" for name in FROM for key, start in get(inputs, name).items()}

    def noting(self: params.Section, name: str) -> object:
        value = get(self, name)
        if name in type(self).model_fields and not isinstance(value, params.Section):
            read.add(own.get(id(self)) or (f"{sections[id(self)]}.{name}" if id(self) in sections else name))
        return value

    monkeypatch.setattr(params, "load", lambda: inputs)
    monkeypatch.setattr(dependencies, "digest", lambda *_: "")  # of all parameters that dvc.yaml declares
    monkeypatch.setattr(sys, "argv", [script, *arguments])
    monkeypatch.setattr(params.Section, "__getattribute__", noting)
    SCRIPTS[script].main()
    read = read - WHERE - set(FROM) | {"budget"}  # which picks the values of the others
    assert read <= keys
    assert {key for key in keys - read if not key.startswith(SHARED.get(script, ("-",)))} == set()
