import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fewlabel.fewshot.methods.base import Problem
from fewlabel.fewshot.methods.reptile import Reptile, minibatches
from fewlabel.params import Network
from fewlabel.params import Reptile as Settings
from tests.conftest import a_network


class TwoParameters(nn.Module):
    """Logits (0, a x + b) of numbers x."""

    def __init__(self, adam: bool) -> None:
        super().__init__()
        self.adam, self.moment_steps = adam, 0
        self.a = nn.Parameter(torch.tensor(0.5, dtype=torch.float64))
        self.b = nn.Parameter(torch.tensor(-0.25, dtype=torch.float64))

    def weights(self) -> dict[str, Tensor]:
        return {name: weight.detach() for name, weight in self.named_parameters()}

    def moments(self) -> list[Tensor]:
        return [torch.zeros_like(weight) for weight in self.parameters()] if self.adam else []

    def side_by_side(self, weights: dict[str, Tensor], x: Tensor) -> Tensor:
        score = weights["a"][:, None] * x.flatten(1) + weights["b"][:, None]
        return torch.stack([torch.zeros_like(score), score], dim=2)


def a_method(optimizer: str = "sgd", inner_steps: int = 3, outer_step: float = 0.5) -> Reptile:
    settings = Settings(
        network=a_network(2), meta_batch=2, train_shots=2, inner_batch=4, inner_optimizer=optimizer,
        inner_lr=0.1, inner_steps=inner_steps, test_inner_steps=2, outer_step=outer_step, iterations=1,
        validate_every=1, checkpoint_every=1, patience=None,
    )  # fmt: skip
    method = Reptile(settings, Problem(way=2, shot=1, classes=2), torch.device("cpu"))
    method.model = TwoParameters(optimizer == "adam")
    return method


TASKS = torch.tensor([[[1.0, 2.0], [3.0, -1.0]], [[0.5, -2.0], [1.5, 0.0]]], dtype=torch.float64)  # task, class, shot


def by_hand(numbers: list[float], steps: int) -> tuple[float, float]:
    """Gradient descent on the logistic loss; the first half of the numbers is class 0, the second class 1."""
    a, b = 0.5, -0.25
    for _ in range(steps):
        slope_a = slope_b = 0.0
        for index, x in enumerate(numbers):
            error = 1 / (1 + 2.718281828459045 ** -(a * x + b)) - (index >= len(numbers) // 2)
            slope_a, slope_b = slope_a + error * x / len(numbers), slope_b + error / len(numbers)
        a, b = a - 0.1 * slope_a, b - 0.1 * slope_b
    return a, b


@pytest.mark.parametrize(("done", "fraction"), [(0.0, 0.5), (0.75, 0.125)])
def test_the_update_by_hand(done: float, fraction: float) -> None:
    method = a_method()
    method.step(TASKS[..., None], torch.empty(0), torch.empty(0), done, torch.Generator().manual_seed(0))
    ends = [by_hand(task.flatten().tolist(), 3) for task in TASKS]
    for value, start, index in ((method.model.a, 0.5, 0), (method.model.b, -0.25, 1)):
        mean_end = (ends[0][index] + ends[1][index]) / 2
        assert value.item() == pytest.approx(start + fraction * (mean_end - start), rel=1e-12)


def test_an_inner_adam_step_is_one_rate_long_in_every_weight() -> None:
    method = a_method("adam", inner_steps=1, outer_step=1.0)
    weights = method.model.weights()
    adapted = method.adapt(weights, TASKS[:1].flatten(1), torch.arange(4)[None, None])[0]
    assert [abs((adapted[name][0] - weights[name]).item()) for name in "ab"] == pytest.approx([0.1, 0.1], rel=1e-5)


def torchs_own(optimizer: str, network: nn.Module) -> torch.optim.Optimizer:
    if optimizer == "adam":
        return torch.optim.Adam(network.parameters(), lr=0.1, betas=(0.0, 0.999))
    return torch.optim.SGD(network.parameters(), lr=0.1)


def a_conv4_method(optimizer: str, downsample: str = "stride", shot: int = 1) -> Reptile:
    """Two classes, the real network in float64, random weights."""
    torch.manual_seed(0)
    settings = a_method(optimizer).settings.model_copy(update={"network": Network(**a_network(2, downsample))})
    method = Reptile(settings, Problem(2, shot, 2), torch.device("cpu"))
    method.model.double()
    return method


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("downsample", ["stride", "pool"])
def test_tasks_side_by_side_adapt_as_each_alone_with_torchs_own_optimizer(optimizer: str, downsample: str) -> None:
    method = a_conv4_method(optimizer, downsample)
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(3, 4, 1, 28, 28, generator=generator, dtype=torch.float64)
    batches = torch.stack([minibatches(4, 3, 5, generator) for _ in range(3)])
    ends, _, losses, _ = method.adapt(method.model.weights(), images, batches)
    for task in range(3):
        network = copy.deepcopy(method.model)
        descent = torchs_own(optimizer, network)
        for batch in batches[task]:
            loss = F.cross_entropy(network(images[task, batch]), batch // 2)  # two images a class
            descent.zero_grad()
            loss.backward()
            descent.step()
        torch.testing.assert_close(losses[task], loss.detach())
        for name, weight in network.named_parameters():
            torch.testing.assert_close(ends[name][task], weight.detach())


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("downsample", ["stride", "pool"])
def test_one_at_a_time_normalises_by_the_supports_and_that_query(optimizer: str, downsample: str) -> None:
    method = a_conv4_method(optimizer, downsample, shot=2)
    generator = torch.Generator().manual_seed(1)
    support, query = (torch.rand(3, 2, n, 1, 28, 28, generator=generator, dtype=torch.float64) for n in (2, 3))
    transductive, alone = (method.predict(support, query, mode) for mode in (True, False))
    assert not torch.allclose(transductive, alone)
    for task in range(3):
        images, queries = support[task].flatten(0, 1), query[task].flatten(0, 1)
        network = copy.deepcopy(method.model)
        descent = torchs_own(optimizer, network)
        for _ in range(method.settings.test_inner_steps):  # the inner batch holds all four images
            descent.zero_grad()
            F.cross_entropy(network(images), torch.tensor([0, 0, 1, 1])).backward()
            descent.step()
        with torch.no_grad():
            torch.testing.assert_close(transductive[task], network(queries))
            for number, each in enumerate(queries):
                torch.testing.assert_close(alone[task, number], network(torch.cat([images, each[None]]))[-1])


def test_the_inner_adam_goes_on_from_the_mean_of_the_tasks_second_moments() -> None:
    method = a_conv4_method("adam")
    images = torch.rand(2, 2, 2, 1, 28, 28, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    moments = [torch.zeros_like(weight) for weight in method.model.parameters()]
    for outer in range(2):
        sums = [torch.zeros_like(moment) for moment in moments]
        for task in images.flatten(1, 2):  # a minibatch is all of a task's images
            network = copy.deepcopy(method.model)
            adam = torchs_own("adam", network)
            for weight, moment in zip(network.parameters(), moments, strict=True):
                steps = torch.tensor(3.0 * outer)
                adam.state[weight] = {"step": steps, "exp_avg": moment * 0, "exp_avg_sq": moment.clone()}
            for _ in range(3):
                adam.zero_grad()
                F.cross_entropy(network(task), torch.tensor([0, 0, 1, 1])).backward()
                adam.step()
            for total, state in zip(sums, adam.state.values(), strict=True):
                total += state["exp_avg_sq"]
        method.step(images, images[:, :, :0], torch.empty(0), 0.0, torch.Generator().manual_seed(0))
        moments = [total / 2 for total in sums]
        assert method.model.moment_steps == 3 * (outer + 1)
        for ours, theirs in zip(method.model.moments(), moments, strict=True):
            torch.testing.assert_close(ours, theirs)
    kept = set(method.model.state_dict())  # in the model's file, for the test
    assert {"moment_steps", *method.model.moment_names} < kept


def test_prediction_leaves_the_weights() -> None:
    method = a_method()
    method.predict(TASKS[..., None], TASKS[..., None], transductive=True)
    assert (method.model.a.item(), method.model.b.item()) == (0.5, -0.25)


def test_minibatches_pass_over_all_images_before_any_comes_again() -> None:
    batches = minibatches(10, 4, 5, torch.Generator().manual_seed(0)).flatten()
    assert batches.shape == (20,)
    assert sorted(batches[:10].tolist()) == sorted(batches[10:].tolist()) == list(range(10))
    assert minibatches(3, 10, 2, torch.Generator()).shape == (2, 3)
