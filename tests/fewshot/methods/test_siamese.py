import itertools
import math

import pytest
import torch
from torch.testing import assert_close

from fewlabel.fewshot.methods.base import Problem
from fewlabel.fewshot.methods.siamese import Siamese, balanced, ranking
from fewlabel.params import Siamese as Settings
from tests.conftest import a_network


@pytest.fixture
def method() -> Siamese:
    torch.manual_seed(0)
    settings = Settings(
        network=a_network(4), loss="pairs", classes=3, drawings=2, lr=0.01, iterations=1, validate_every=1,
        checkpoint_every=1, patience=None,
    )  # fmt: skip
    return Siamese(settings, Problem(3, 2, 9), torch.device("cpu"))


def test_similarity_is_the_head_on_absolute_differences_and_symmetric(method: Siamese) -> None:
    first, second = torch.randn(4, method.model.tower.features), torch.randn(5, method.model.tower.features)
    similarity = method.model.similarity(first, second)
    assert_close(similarity, method.model.head((first[:, None] - second).abs()).squeeze(-1), atol=1e-5, rtol=1e-5)
    assert_close(similarity, method.model.similarity(second, first).T)


def test_all_pairs_of_a_batch_count_and_both_kinds_half(method: Siamese) -> None:
    images = torch.rand(1, 3, 2, 1, 28, 28)
    features = method.model.tower(images.flatten(0, 2))
    same, different = [], []
    for i in range(6):
        for j in range(i):
            p = method.model.head((features[i] - features[j]).abs()).sigmoid()
            (same if i // 2 == j // 2 else different).append(-(p if i // 2 == j // 2 else 1 - p).log())
    assert (len(same), len(different)) == (3, 12)
    expected = (torch.stack(same).mean() + torch.stack(different).mean()) / 2
    loss, _ = method.step(images, torch.empty(0), torch.empty(0), 0.0, torch.Generator())
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)


def test_balanced_weights_do_not_depend_on_the_counts() -> None:
    logits, same = torch.tensor([2.0, -1.0]), torch.tensor([True, False])
    once, _ = balanced(logits, same)
    many, accuracy = balanced(torch.tensor([2.0] + [-1.0] * 50), torch.tensor([True] + [False] * 50))
    assert_close(once, many)
    assert accuracy == 1.0


def test_a_class_scores_the_mean_similarity_to_its_supports(method: Siamese) -> None:
    support, query = (
        torch.randn(2, 3, 2, method.model.tower.features),
        torch.randn(2, 3, 4, method.model.tower.features),
    )
    scores = method.predict(support, query)
    assert scores.shape == (2, 12, 3)
    pair = [method.model.head((query[1, 2, 1] - support[1, 0, k]).abs()) for k in range(2)]
    assert_close(scores[1, 9, 0], torch.stack(pair).mean(), atol=1e-5, rtol=1e-5)


def test_ranking_is_the_cross_entropy_of_each_pair_of_a_class_among_its_rivals() -> None:
    logits = torch.randn(5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    classes = [0, 1, 0, 1, 1]
    terms = []
    for first, second in itertools.permutations(range(5), 2):
        if classes[first] == classes[second]:
            rivals = sum(math.exp(logits[first, other]) for other in range(5) if other != first)
            terms.append(-math.log(math.exp(logits[first, second]) / rivals))
    loss, _ = ranking(logits, torch.tensor(classes))
    assert_close(loss.item(), sum(terms) / len(terms))
