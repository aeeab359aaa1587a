"""Trained networks as MLflow models: they answer as the network does, with nothing but what they declare."""

import json
import re
import subprocess
import sys
from pathlib import Path

import mlflow.pyfunc
import numpy as np
import torch
from torch import nn

from fewlabel import params, tracking
from fewlabel.fewshot.episodes import as_float
from fewlabel.fewshot.methods import base
from fewlabel.networks import backbones, small, weights
from fewlabel.networks.classifier import Classifier, linear_head
from fewlabel.tracking import models
from fewlabel.training import augment
from tests.tracking.conftest import client_of, result, runs

CPU = torch.device("cpu")


def served(repo: Path) -> mlflow.pyfunc.PyFuncModel:
    (output,) = runs(repo)[0].outputs.model_outputs
    return mlflow.pyfunc.load_model(client_of(repo).get_logged_model(output.model_id).artifact_location)


def log(repo: Path, folder: Path, network: nn.Module) -> mlflow.pyfunc.PyFuncModel:
    weights.write(folder / "model.safetensors", weights.of(network))
    with tracking.start("meta_train", {}, folder):
        pass
    assert not list(repo.rglob("*.pkl"))
    return served(repo)


def few_shot(folder: str, seed: int = 1) -> tuple[Path, base.Method]:
    settings = params.load(Path(__file__).parents[2] / "params.yaml").prototypes
    method = base.create("prototypes", settings, base.Problem(5, 1, 9), CPU, seed)
    model = {"family": "few-shot", "method": "prototypes", "way": 5, "shot": 1, "image": [1, 28, 28]}
    return result(folder, about={"settings": settings.model_dump(), "model": model}), method


def test_a_few_shot_model_answers_other_tasks_too(repo) -> None:
    folder, method = few_shot("results/metric_train/prototypes-lake-0")
    model = log(repo, folder, method.model)
    assert model.metadata.signature.inputs.to_dict()[0]["tensor-spec"] == {"dtype": "uint8", "shape": (-1, 1, 28, 28)}
    images = np.random.default_rng(0).integers(0, 256, (3 * 2 + 4, 1, 28, 28), dtype=np.uint8)
    with torch.no_grad():
        embedded = method.embed(as_float(torch.from_numpy(images)))
        centres = embedded[:6].view(3, 2, -1).mean(1)
        expected = (-torch.cdist(embedded[6:], centres).square()).softmax(1)
    answer = model.predict(images, params={"way": 3, "shot": 2})
    np.testing.assert_allclose(answer, expected.numpy(), rtol=1e-3, atol=1e-5)


def test_a_head_on_a_frozen_backbone_is_served_with_it(repo) -> None:
    pretrained = Path("results/pretrain/rotation/backbone.safetensors")
    pretrained.parent.mkdir(parents=True)
    name = "resnet18-imagenet"
    weights.write(pretrained, weights.of(small.create(name, seed=1)))
    first = small.load(pretrained, name, groups=1, grid=4)
    head = nn.Sequential(nn.BatchNorm1d(1024, affine=False), linear_head(1024, 10, seed=2))
    model = {"family": "label-efficiency", "way": 10, "image": [3, 32, 32], "backbone_file": str(pretrained)}
    about = {"settings": {"network": name, "frozen": 1, "grid": 4}, "model": model}
    answers = log(repo, result("results/finetune/rotation-frozen-1-20-0", about=about), head)
    images = np.random.default_rng(0).integers(0, 256, (3, 3, 32, 32), dtype=np.uint8)
    with torch.no_grad():
        expected = Classifier(first, head, frozen=True).eval()(augment.to_float(torch.from_numpy(images))).softmax(1)
    np.testing.assert_allclose(answers.predict(images), expected.numpy(), rtol=1e-5)
    (stored,) = repo.glob("mlartifacts/**/model.safetensors")
    assert stored.stat().st_size < 2**20  # without the groups that it has no use for


# Runs where nothing but what the model declares, and what that needs, can be imported.
CLEAN = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {blocked}: raise ImportError(f"{{name}} is not declared")
import mlflow.pyfunc, numpy
sys.meta_path.insert(0, Refuse())
for name in list(sys.modules):
    if name.partition(".")[0] in {blocked}: del sys.modules[name]
model = mlflow.pyfunc.load_model(sys.argv[1])
print(model.predict(numpy.zeros((1, 3, 256, 256), "uint8")).shape)
"""


def test_a_transfer_model_needs_no_package_that_it_does_not_declare(repo) -> None:
    model = {"family": "transfer", "way": 2, "image": [3, 256, 256], "backbone": backbones.LITE0}
    folder = result("results/transfer/frozen-0", about={"settings": {"size": None, "image_size": 32}, "model": model})
    log(repo, folder, linear_head(1280, 2, seed=0))
    (place,) = repo.glob("mlartifacts/**/MLmodel")
    declared = re.findall(r"^([\w.-]+)==", (place.parent / "requirements.txt").read_text(), re.MULTILINE)
    assert set(declared) == set(models.REQUIREMENTS)
    blocked = {"psutil", "dvc", "requests", "filelock", "tqdm", "matplotlib", "jinja2"}
    done = subprocess.run(
        [sys.executable, "-c", CLEAN.format(blocked=blocked), str(place.parent)], capture_output=True, text=True
    )
    assert done.stdout == "(1, 2)\n", done.stderr


def test_the_best_of_a_family_carries_the_alias(repo, monkeypatch) -> None:
    folders = [f"results/metric_train/prototypes-lake-{seed}" for seed in (0, 1)]
    for seed, folder in enumerate(folders):
        log(repo, few_shot(folder, seed)[0], few_shot(folder, seed)[1].model)
    facts = {"protocol": "lake-validation/5w1s", "origin": "archive", "budget": "cpu"}
    Path("metrics").mkdir()
    for folder, value in ((folders[0], 0.5), (folders[1], 0.75), (folders[0], 0.625)):
        chosen = {"few-shot": facts | {"folder": folder, "value": value}}
        Path("metrics/best.json").write_text(json.dumps(chosen))
        Path("metrics/summary.json").write_text('{"few-shot": {"maml++": {"lake/5w1s": 0.5}}}')
        with tracking.start("compare", {}, "metrics"):
            pass
    version = client_of(repo).get_model_version_by_alias("fewlabel-few-shot", "best")
    assert version.tags == facts | {"value": "0.75"}
    names = {model.artifact_location: model.name for model in client_of(repo).search_logged_models(["1"])}
    assert names[version.source] == "prototypes-lake-1"
    assert runs(repo)[-1].data.metrics == {"few-shot.mamlpp.lake/5w1s": 0.5}  # MLflow takes no "+"
