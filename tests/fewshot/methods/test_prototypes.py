import copy

import torch
from torch.testing import assert_close

from fewlabel.fewshot.methods.base import Problem
from fewlabel.fewshot.methods.prototypes import Prototypes, episode_loss
from fewlabel.params import Prototypes as Settings
from tests.conftest import a_network

SETTINGS = Settings(
    network=a_network(4, "pool"),
    every_support=False, temperature=1.0, way=3, shot=2, queries=2, lr=0.001, iterations=1, validate_every=1,
    checkpoint_every=1, patience=None,
)  # fmt: skip


def test_logits_are_the_negative_squared_distances_to_the_class_means() -> None:
    method = Prototypes(SETTINGS, Problem(2, 2, 9), torch.device("cpu"))
    support = torch.tensor([[[[0.0, 0.0], [2.0, 0.0]], [[0.0, 4.0], [0.0, 6.0]]]])  # means (1, 0) and (0, 5)
    query = torch.tensor([[[[1.0, 1.0]], [[3.0, 4.0]]]])
    # squared distances: (1,1): 1 and 17; (3,4): 20 and 10
    expected = torch.tensor([[-1.0, -17.0], [-20.0, -10.0]]).log_softmax(1)
    assert_close(method.predict(support, query)[0].log_softmax(1), expected)


def test_the_loss_of_a_step_is_the_cross_entropy_of_the_distances_and_its_gradient_is_descended() -> None:
    torch.manual_seed(0)
    method = Prototypes(SETTINGS, Problem(3, 2, 9), torch.device("cpu"))
    support, query = torch.rand(1, 3, 2, 1, 28, 28), torch.rand(1, 3, 2, 1, 28, 28)
    network = copy.deepcopy(method.model)
    features = network(torch.cat([support, query], dim=2).flatten(0, 2)).view(3, 4, -1)
    total = torch.zeros(())
    for kind in range(3):
        for number in range(2):
            distances = [(features[kind, 2 + number] - features[c, :2].mean(0)).square().sum() for c in range(3)]
            total = total - torch.log_softmax(-torch.stack(distances), 0)[kind]
    expected = total / 6
    expected.backward()
    torch.optim.Adam(network.parameters(), lr=0.001).step()
    loss, _ = method.step(support, query, torch.arange(3)[None], 0.0, torch.Generator())
    assert_close(loss, expected.detach())
    for ours, theirs in zip(method.model.parameters(), network.parameters(), strict=True):
        assert_close(ours, theirs, atol=2e-5, rtol=1e-4)


def test_a_prediction_does_not_depend_on_the_other_queries() -> None:
    method = Prototypes(SETTINGS, Problem(3, 2, 9), torch.device("cpu"))
    images = torch.rand(5, 1, 28, 28)
    assert_close(method.embed(images)[:1], method.embed(images[:1]))
    assert method.modes == (False,)


def test_every_support_is_the_mean_over_episodes_that_each_have_another_support() -> None:
    features = torch.randn(3, 4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found, _ = episode_loss(features, 1, 4, 2.0)
    one_by_one = [episode_loss(features.roll(-turn, 1), 1, 1, 2.0)[0] for turn in range(4)]
    assert_close(found, torch.stack(one_by_one).mean())
    distances = torch.cdist(features[:, 1:].flatten(0, 1), features[:, 0]).square() / 2.0
    expected = torch.nn.functional.cross_entropy(-distances, torch.arange(3).repeat_interleave(3))
    assert_close(one_by_one[0], expected)
