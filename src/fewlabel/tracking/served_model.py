"""The trained models as MLflow serves them: it runs this script, with this package's code and weights as safetensors.

Inputs are uint8 images.

- few-shot: way × shot labelled images, all of class 0 first, then the queries → probabilities (queries, way).
  The params ``way`` and ``shot`` say how many; MAML and Reptile take only the way they were trained for. With
  ``transductive`` they normalise over all queries given at once, otherwise each is answered as if it were alone.
- classifiers: images → probabilities (n, classes).
"""

from __future__ import annotations

import numpy as np
import torch
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel, PythonModelContext
from safetensors.torch import load_file


class ServedModel(PythonModel):
    def load_context(self, context: PythonModelContext) -> None:
        self.config = dict(context.model_config)
        self.weights = load_file(context.artifacts["weights"])

    # Without type hints: MLflow would make a schema of them, and the signature that the model has is better.
    def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]
        from fewlabel.fewshot import trained as few_shot
        from fewlabel.labels import trained as labels
        from fewlabel.transfer import trained as transfer

        config, images = self.config, torch.from_numpy(np.ascontiguousarray(model_input, dtype=np.uint8))
        if config["family"] == "few-shot":
            task = {"way": config["way"], "shot": config["shot"], "transductive": False} | (params or {})
            logits = few_shot.classify(config["method"], config["settings"], self.weights, images, **task)
        else:
            classify = labels.classify if config["family"] == "label-efficiency" else transfer.classify
            logits = classify(config, self.weights, images)
        return logits.softmax(-1).numpy()


set_model(ServedModel())
