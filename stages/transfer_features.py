"""The ImageNet features of every photograph and of its mirror image: ``python -m stages.transfer_features``.

A frozen backbone never changes, so the frozen starts of all seeds and folds train their heads on these.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch
from torch import Tensor

from fewlabel import params, tracking
from fewlabel.data import hymenoptera
from fewlabel.networks import backbones as pretrained
from fewlabel.networks import weights
from fewlabel.results import FEATURES, whole_folder, write_json
from fewlabel.stage import launch
from fewlabel.training import augment, device, supervised
from fewlabel.training.device import run_facts

DATA = Path("data/prepared/hymenoptera.npz")
WEIGHTS = Path("data/raw/backbone/weights.pth")
CHUNK = 32  # photographs per forward pass


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    everything = params.load()
    settings, on = everything.transfer, device.pick(everything.device, everything.deterministic)
    print(f"features of {settings.backbone} on {device.describe(on)}")
    logged = settings.model_dump(include={"backbone", "image_size"})
    with tracking.start("transfer_features", logged, FEATURES):
        images = torch.from_numpy(hymenoptera.load(DATA).images).to(on)
        backbone = pretrained.create(settings.backbone, 0, WEIGHTS, sizes=[settings.image_size])
        network = backbone.module.to(on).to(memory_format=torch.channels_last)

        def features(photographs: Tensor) -> Tensor:
            chunks = (augment.middle(chunk, settings.image_size) for chunk in photographs.split(CHUNK))
            return supervised.predict(network, map(backbone.normalise, chunks))

        began = time.monotonic()
        tensors = {"upright": features(images), "mirrored": features(images.flip(-1))}
        seconds = time.monotonic() - began
        with whole_folder(FEATURES) as out:
            weights.write(out / "features.safetensors", tensors)
            write_json(out / "run.json", run_facts(on, seconds, about={"settings": logged, "data": str(DATA)}))


if __name__ == "__main__":
    launch(main)
