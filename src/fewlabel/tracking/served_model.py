"""The trained models as MLflow serves them: a script that MLflow runs, weights as safetensors, and no pickle.

MLflow copies this package beside each model; ``mlflow.pyfunc.load_model`` runs this file. Inputs are uint8 images.

- few-shot: way × shot support images, all of class 0 first, then the queries → probabilities (queries, way).
  The params ``way`` and ``shot`` say how many; MAML and Reptile take only the way they were trained for. With
  ``transductive`` they normalise over all queries given at once, otherwise each is answered as if it were alone.
- classifiers: images → probabilities (n, classes).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel, PythonModelContext
from safetensors.torch import load_file
from torch import Tensor, nn

CHUNK = 100  # images per forward pass


class ServedModel(PythonModel):
    def load_context(self, context: PythonModelContext) -> None:
        self.config = dict(context.model_config)
        self.weights = load_file(context.artifacts["weights"])

    # Without type hints: MLflow would make a schema of them, and the signature that the model has is better.
    def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]
        images = torch.from_numpy(np.ascontiguousarray(model_input, dtype=np.uint8))
        if self.config["kind"] == "few-shot":
            chosen = {"way": self.config["way"], "shot": self.config["shot"], "transductive": False} | (params or {})
            return self._few_shot(images, **chosen).softmax(-1).numpy()
        with torch.no_grad():
            classify = self._classifier()
            return torch.cat([classify(chunk) for chunk in images.split(CHUNK)]).softmax(-1).numpy()

    def _few_shot(self, images: Tensor, way: int, shot: int, transductive: bool) -> Tensor:
        from fewlabel import params as parameters
        from fewlabel.fewshot.episodes import as_float
        from fewlabel.fewshot.methods import base

        if way < 2 or shot < 1 or len(images) <= way * shot:
            raise ValueError(f"{len(images)} images are no {way} × {shot} support images and a query")
        method_name = self.config["method"]
        settings = getattr(parameters, method_name.title().replace("_", ""))(**self.config["settings"])
        classes = len(self.weights["head.weight"]) if "head.weight" in self.weights else way  # of the training split
        problem = base.Problem(way, shot, classes, *images.shape[1:3])
        method = base.create(method_name, settings, problem, torch.device("cpu"), seed=0)
        method.model.load_state_dict(self.weights)
        with torch.no_grad():
            embedded = method.embed(as_float(images))
            support, queries = embedded[: way * shot].unflatten(0, (way, shot)), embedded[way * shot :]
            return method.predict(support[None], queries[None, None], transductive)[0]

    def _classifier(self) -> Callable[[Tensor], Tensor]:
        """uint8 images → logits, as the stages ``finetune`` and ``transfer`` compute them."""
        from fewlabel.networks import backbones as pretrained
        from fewlabel.networks import resnet
        from fewlabel.networks.classifier import Classifier, linear_head
        from fewlabel.training import augment

        settings, classes, start = self.config["settings"], self.config["way"], self.config["settings"]["start"]
        first = self.weights.get("backbone.conv1.weight")  # of a ResNet
        stem: resnet.Stem = "imagenet" if first is None or first.shape[-1] == 7 else "cifar"
        if self.config["kind"] == "hymenoptera":
            size = settings["size"] or settings["image_size"]
            head_alone = "weight" in self.weights  # of a frozen backbone, which is ImageNet's as it is
            name = self.config["backbone"]
            weights = pretrained.packaged_weights(name) if head_alone else None
            if head_alone and weights is None:
                raise ValueError(f"the weights of {name} are in no package: a head on its features cannot be served")
            made = pretrained.create(name, 0, weights)
            if start.startswith("small"):
                made = pretrained.Backbone(resnet.resnet18(stem, seed=0), resnet.WIDTHS[-1])
            network = Classifier(made.module, linear_head(made.width, classes, seed=0))
            (network.head if head_alone else network).load_state_dict(self.weights)
            network.eval()
            return lambda images: network(made.normalise(augment.middle(images, size)))
        frozen, grid = settings["frozen_blocks"] > 0, settings["grid"]
        blocks = settings["frozen_blocks"] or len(resnet.WIDTHS)
        width = resnet.WIDTHS[blocks - 1] * grid**2
        head: nn.Module = linear_head(width, classes, seed=0)
        if frozen:
            head = nn.Sequential(nn.BatchNorm1d(width, affine=False), head)
        network = Classifier(resnet.resnet18(stem, seed=0, blocks=blocks, grid=grid), head)
        network.load_state_dict(self.weights)
        network.eval()
        return lambda images: network(augment.to_float(images))


set_model(ServedModel())
