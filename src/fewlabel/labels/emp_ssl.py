"""EMP-SSL: learn features without labels by embedding many crops of an image alike, and those of others apart.

Tong, Chen, Ma, LeCun: EMP-SSL: Towards Self-Supervised Learning in One Training Epoch, 2023, section 2. Settings as in
its authors' code but for fewer crops of an image, a smaller projector and SGD, all of which two cores and few steps ask
for.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fewlabel.labels.pretraining import Pretraining
from fewlabel.params import PretrainEmpSsl as Settings
from fewlabel.training import augment

DISTORTION = 0.2  # the coding rate's epsilon², "eps" in the authors' code
HIDDEN, PROJECTED = 512, 256  # of the projector, which is thrown away after the training


class EmpSsl(Pretraining):
    """Of each image some random crops; the outputs are their embeddings."""

    settings: Settings
    question = "which-image"

    @property
    def copies(self) -> int:
        return self.settings.crops

    def head(self, width: int, seed: int) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            hidden = [nn.Linear(width, HIDDEN), nn.BatchNorm1d(HIDDEN), nn.ReLU()]
            return nn.Sequential(*hidden, nn.Linear(HIDDEN, PROJECTED))

    def views(self, images: Tensor, draw: torch.Generator | None) -> tuple[Tensor, Tensor]:
        draw = draw or augment.generator(0)
        copies = images.float().repeat(self.copies, 1, 1, 1)
        crops = augment.resized_crop_and_flip(copies, images.shape[-1], self.settings.smallest_crop, draw)
        labels = torch.arange(len(images), device=images.device).repeat(self.copies)
        return augment.to_float(augment.colour(crops, self.settings.colour, draw)), labels

    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        crops = F.normalize(outputs, dim=1).unflatten(0, (self.copies, -1))  # (crops, images, width)
        alike = F.cosine_similarity(crops, crops.mean(0, keepdim=True), dim=-1).mean()
        return -alike - coding_rate(crops).mean() / self.settings.invariance

    def right(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Whether the mean of the crops of its own image is the nearest to a crop, of all images of the batch."""
        crops = F.normalize(outputs, dim=1)
        means = F.normalize(crops.unflatten(0, (self.copies, -1)).mean(0), dim=1)
        return (crops @ means.T).argmax(1) == labels


def coding_rate(features: Tensor) -> Tensor:
    """How much room features take: ½ log det(I + d / (n ε²) Z Zᵀ), the paper's equation 1, which is large where the
    n features of a batch differ. (..., n, d) → (...)."""
    n, d = features.shape[-2:]
    gram = features @ features.transpose(-2, -1)
    return torch.logdet(torch.eye(n, device=features.device) + d / (n * DISTORTION) * gram) / 2
