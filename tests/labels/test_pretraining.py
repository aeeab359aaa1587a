"""What both ways of pretraining without labels have, and EMP-SSL's loss."""

import pytest
import torch

from fewlabel.labels import pretraining
from fewlabel.labels.emp_ssl import DISTORTION, coding_rate
from fewlabel.networks import small
from fewlabel.networks.classifier import Classifier
from fewlabel.params import PretrainEmpSsl, PretrainRotation
from fewlabel.training import augment, supervised

SETTINGS = {
    "rotation": PretrainRotation(lr=0.1, shift=1),
    "emp_ssl": PretrainEmpSsl(lr=0.1, crops=3, smallest_crop=0.5, colour=0, invariance=20),
}
METHODS = [pretraining.create(name, settings) for name, settings in SETTINGS.items()]
EMP_SSL = METHODS[1]


def blobs(count: int) -> torch.Tensor:
    """Images that differ in their colours, and whose upper half is brighter."""
    draw = torch.Generator().manual_seed(count)
    colours = torch.randint(60, 200, (count, 3, 1, 1), generator=draw)
    return (colours + torch.linspace(50, -50, 16).view(16, 1)).expand(-1, -1, -1, 16).to(torch.uint8)


@pytest.mark.parametrize("method", METHODS, ids=SETTINGS)
def test_views_are_of_all_images_in_turn_and_repeat_without_a_draw(method: pretraining.Pretraining) -> None:
    inputs, labels = method.views(blobs(5), None)
    assert len(inputs) == len(labels) == method.copies * 5
    assert torch.equal(inputs, method.views(blobs(5), None)[0])
    assert not torch.equal(inputs, method.views(blobs(5), augment.generator(1))[0])
    colours = inputs.mean((2, 3)).unflatten(0, (method.copies, 5))
    if method is EMP_SSL:
        assert torch.equal(labels.view(3, 5), torch.arange(5).expand(3, 5))
    else:
        torch.testing.assert_close(colours, colours[:1].expand_as(colours))


@pytest.mark.parametrize("method", METHODS, ids=SETTINGS)
def test_a_training_answers_more_of_new_images_rightly(method: pretraining.Pretraining) -> None:
    backbone = small.create("compact-8-8-8", 0, augment.to_float(blobs(64)))
    network = Classifier(backbone, method.head(8, seed=0))
    loss, right = method.measure(network, blobs(30), batch_size=30)
    recipe = supervised.Recipe(60, lr=0.05, momentum=0.9, weight_decay=0, evaluate_every=60, save_every=60)
    images = blobs(64)

    def batch(step: int) -> tuple[torch.Tensor, torch.Tensor]:
        return method.views(images[augment.batch_indices(64, 16, step, 0)], augment.generator(0, step))

    outcome = supervised.train(network, batch, lambda _: (0.0, 0.0), recipe, method.loss, right=method.right)
    lower, more = method.measure(network, blobs(30), batch_size=30)
    assert lower < loss - 0.1
    assert more.mean() > right.mean() + 0.05
    assert outcome.curve[-1]["train_accuracy"] > right.mean()


def test_the_loss_of_emp_ssl_is_that_of_its_definition() -> None:
    outputs = torch.randn(3 * 4, 6, dtype=torch.float64)
    crops = [[each / each.norm() for each in outputs[4 * crop : 4 * crop + 4]] for crop in range(3)]
    alike = 0.0
    for image in range(4):
        mean = sum(crops[crop][image] for crop in range(3)) / 3
        alike += sum(float(crops[crop][image] @ mean / mean.norm()) for crop in range(3)) / 12
    rates = 0.0
    for each in crops:
        features = torch.stack(each)
        matrix = torch.eye(6, dtype=torch.float64) + 6 / (4 * DISTORTION) * features.T @ features
        rates += float(torch.linalg.det(matrix).log() / 2) / 3
    torch.testing.assert_close(EMP_SSL.loss(outputs, torch.empty(0)).item(), -alike - rates / 20)


def test_features_that_differ_take_more_room() -> None:
    same, apart = torch.ones(4, 4) / 2, torch.eye(4)
    assert coding_rate(same) < coding_rate(apart)
    assert coding_rate(torch.stack([same, apart])).shape == (2,)


def test_a_crop_is_right_where_the_mean_of_its_image_is_nearest() -> None:
    a, b = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
    outputs = torch.stack([a, b, a, b, b, b])  # three crops of two images; the last crop of the first looks like b
    assert EMP_SSL.right(outputs, torch.tensor([0, 1] * 3)).tolist() == [True, True, True, True, False, True]


def test_colours_without_strength_change_the_grey_ones_alone() -> None:
    images = torch.rand(200, 3, 2, 2, generator=augment.generator(1)) * 255
    changed = augment.colour(images, 0.0, augment.generator(0))
    grey = torch.isclose(changed, changed.mean(1, keepdim=True)).flatten(1).all(1)
    torch.testing.assert_close(changed[~grey], images[~grey])
    assert 20 < grey.sum() < 60
    strong = augment.colour(images, 0.9, augment.generator(0))
    assert strong.min() >= 0
    assert strong.max() <= 255
