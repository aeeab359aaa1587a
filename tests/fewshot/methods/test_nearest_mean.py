import torch
from torch.testing import assert_close

from fewlabel.fewshot.methods.base import Problem
from fewlabel.fewshot.methods.nearest_mean import NearestMean
from fewlabel.params import NearestMean as Settings
from tests.conftest import a_network

SETTINGS = Settings(
    network=a_network(4, "pool"), classes=3, drawings=2, lr=0.001, iterations=1, validate_every=1, checkpoint_every=1,
    patience=None,
)  # fmt: skip


def test_logits_are_ten_cosines_to_the_class_means() -> None:
    method = NearestMean(SETTINGS, Problem(2, 2, 9), torch.device("cpu"))
    support = torch.tensor([[[[1.0, 0.0], [3.0, 0.0]], [[0.0, 4.0], [8.0, 4.0]]]])  # means (2, 0) and (4, 4)
    query = torch.tensor([[[[5.0, 0.0]], [[3.0, 4.0]]]])
    expected = torch.tensor([[10.0, 7.0710678], [6.0, 9.8994949]])
    assert_close(method.predict(support, query)[0], expected)


def test_a_step_trains_on_the_identity_of_the_classes() -> None:
    torch.manual_seed(0)
    method = NearestMean(SETTINGS, Problem(2, 2, 9), torch.device("cpu"))
    images, classes = torch.rand(1, 3, 2, 1, 28, 28), torch.tensor([[7, 0, 4]])
    method.model.train()
    with torch.no_grad():
        expected = -method.model(images.flatten(0, 2)).log_softmax(1)[range(6), [7, 7, 0, 0, 4, 4]].mean()
    loss, _ = method.step(images, torch.empty(0), classes, 0.0, torch.Generator())
    assert_close(loss, expected)
    assert method.embed(images[0, 0]).shape == (2, 4)
