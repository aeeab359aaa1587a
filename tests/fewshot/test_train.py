"""Training and evaluation of every method on tiny glyphs: bytes that repeat, and chance before any training."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from fewlabel import params
from fewlabel.errors import UserError
from fewlabel.fewshot import episodes
from fewlabel.fewshot import evaluate as evaluation
from fewlabel.fewshot import train as meta_training
from fewlabel.fewshot.episodes import Shape
from fewlabel.fewshot.evaluate import evaluate
from fewlabel.fewshot.methods import base
from fewlabel.fewshot.methods.base import Problem
from fewlabel.intervals import mean_interval
from fewlabel.training import loop
from fewlabel.training.checkpoint import Checkpoint
from tests.conftest import a_network

METHODS = list(params.METHODS)
CPU = torch.device("cpu")
COMMON = {"network": a_network(8), "patience": None}
INNER = {"inner_lr": 0.4, "inner_steps": 1, "test_inner_steps": 1}
PLAIN_MAML = {"meta_batch": 2, "queries": 2, "outer_lr": 0.001} | INNER
OWN: dict[str, dict[str, Any]] = {
    "siamese": {"loss": "pairs", "classes": 8, "drawings": 4, "lr": 0.001},
    "prototypes": {"way": 8, "shot": 1, "queries": 2, "every_support": False, "temperature": 1.0, "lr": 0.001},
    "nearest_mean": {"classes": 8, "drawings": 2, "lr": 0.01},
    "contrastive": {"classes": 8, "drawings": 3, "temperature": 0.1, "lr": 0.01},
    "maml": PLAIN_MAML | {"second_order_from": 0.5, "multi_step_loss": True, "learn_inner_lr": True},
    "fomaml": PLAIN_MAML,
    "anil": PLAIN_MAML,
    "reptile": {"meta_batch": 2, "train_shots": 10, "inner_batch": 10, "inner_optimizer": "sgd", "inner_lr": 0.2,
                "inner_steps": 5, "test_inner_steps": 10, "outer_step": 1.0},
}  # fmt: skip


def settings_of(name: str, iterations: int = 8, validate_every: int = 3, **changes: Any) -> Any:
    values = COMMON | OWN[name] | {"iterations": iterations, "validate_every": validate_every} | changes
    return params.METHODS[name](**{"checkpoint_every": 2} | values)


def glyphs(classes: int = 12, seed: int = 0, contrast: int = 180) -> Tensor:
    """Classes of noisy copies of a random blot: uint8 (classes, 20, 1, 28, 28). With much contrast an untrained network
    tells them apart."""
    generator = torch.Generator().manual_seed(seed)
    blots = torch.rand(classes, 1, 1, 7, 7, generator=generator).repeat_interleave(4, 3).repeat_interleave(4, 4) > 0.7
    noise = torch.rand(classes, 20, 1, 28, 28, generator=generator)
    return (blots * contrast + noise * (255 - contrast)).to(torch.uint8)


@pytest.mark.parametrize("name", METHODS)
def test_a_resumed_training_gives_the_same_bytes(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    settings, validation = settings_of(name), episodes.fixed(Shape(3, 3, 1, 5), 6, 20, 0, "validation")

    def run(checkpoint: Checkpoint | None, stop_at: int = 99) -> tuple[bytes, list[loop.Row]]:
        torch.manual_seed(stop_at)  # whatever the state outside, it must not matter
        method = base.create(name, settings, Problem(3, 1, 12), CPU, seed=5)
        step, steps = method.step, iter(range(99))

        def killed(*arguments: Any) -> tuple[Tensor, Tensor]:
            if next(steps) == stop_at:
                raise KeyboardInterrupt
            return step(*arguments)

        monkeypatch.setattr(method, "step", killed)
        outcome = meta_training.train(method, glyphs(), glyphs(6, 1), validation, settings, 5, checkpoint=checkpoint)
        return b"".join(t.contiguous().numpy().tobytes() for t in method.model.state_dict().values()), outcome.curve

    undisturbed = run(None)
    assert list(undisturbed[1][2]) == ["step", "loss", "accuracy", "val_loss", "val_accuracy"]
    with pytest.raises(KeyboardInterrupt):
        run(Checkpoint("cell", {}), stop_at=5)
    assert run(Checkpoint("cell", {})) == undisturbed


@pytest.mark.parametrize(
    ("at", "message"),
    [
        (4, "the state of the model is no longer finite at step 4"),  # before it is saved,
        (5, "the loss is no longer finite at step 6"),  # or the next step shows it,
        (6, "the val_loss is no longer finite at step 6"),  # or a look at the validation classes
    ],
)
def test_weights_that_are_not_finite_stop_it(at: int, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = settings_of("prototypes")
    method = base.create("prototypes", settings, Problem(5, 1, 12), CPU, seed=0)
    step, steps = method.step, iter(range(1, 9))

    def poisoned(*arguments: Any) -> tuple[Tensor, Tensor]:
        numbers = step(*arguments)
        if next(steps) == at:
            method.model.convolutions[0].weight.data.fill_(torch.inf)
        return numbers

    monkeypatch.setattr(method, "step", poisoned)
    with pytest.raises(UserError, match=rf"cell: {message} \(lr 0\.001\): lower"):
        meta_training.train(method, glyphs(), glyphs(12, 1), fixed_validation(), settings, 0, "cell")


def test_best_weights_that_are_not_finite_are_no_result(monkeypatch: pytest.MonkeyPatch) -> None:
    """A validation loss can be finite beside them, and so can Adam's moments be infinite beside finite weights."""
    monkeypatch.setattr(meta_training, "score", lambda *_: (0.5, 0.5))
    settings = settings_of("prototypes", validate_every=100)
    method = base.create("prototypes", settings, Problem(5, 1, 12), CPU, seed=0)
    learner = meta_training.MetaLearner(method, glyphs(), glyphs(12, 1), fixed_validation(), settings, 0)
    learner.step(7)
    learner.measure(8)
    assert loop.finite(learner.state())
    next(iter(method.optimizer.state.values()))["exp_avg_sq"].fill_(torch.inf)
    assert not loop.finite(learner.state())
    next(iter(method.optimizer.state.values()))["exp_avg_sq"].fill_(0)
    learner.best.weights = {"weight": torch.tensor(torch.inf)}
    assert not loop.finite(learner.state())


@pytest.mark.parametrize("name", METHODS)
def test_an_untrained_model_on_noise_is_at_chance(name: str) -> None:
    method = base.create(name, settings_of(name), Problem(5, 1, 12), CPU, seed=0)
    noise = torch.randint(0, 256, (30, 20, 1, 28, 28), generator=torch.Generator().manual_seed(3)).to(torch.uint8)
    fixed = episodes.fixed(Shape(60, 5, 1, 10), 30, 20, 0, "5w1s")
    for transductive in method.modes:
        [result] = evaluate(method, method.embed_table(noise), fixed, [transductive])
        mean, low, high = mean_interval(result.accuracies)
        half = (high - low) / 2
        assert abs(mean - 0.2) < 2 * half  # 2 x 1.96 standard errors: 1 in 10,000 by luck, and the seed is fixed
        assert result.confusion[:, 2].sum() == 60 * 50


@pytest.mark.parametrize("name", METHODS)
def test_training_lifts_accuracy_on_unseen_classes(name: str) -> None:
    fixed = episodes.fixed(Shape(30, 5, 1, 10), 12, 20, 0, "5w1s")
    changes = {"lr": 0.003} if "lr" in OWN[name] else {"outer_lr": 0.003} if "outer_lr" in OWN[name] else {}
    settings = settings_of(name, iterations=200, validate_every=200, **changes)
    method = base.create(name, settings, Problem(5, 1, 40), CPU, seed=0)
    table, validation, test = (glyphs(classes, seed, 60) for seed, classes in enumerate((40, 12, 12)))

    def accuracy() -> float:
        return float(evaluate(method, method.embed_table(test), fixed, method.modes)[0].accuracies.mean())

    before = accuracy()
    meta_training.train(method, table, validation, fixed, method.settings, 0)
    assert accuracy() > before + 0.25


@pytest.mark.parametrize("name", ["siamese", "prototypes", "nearest_mean"])
def test_the_rate_falls_along_a_cosine(name: str) -> None:
    method = base.create(name, settings_of(name), Problem(5, 1, 12), CPU, seed=0)
    generator = episodes.generator(0, 0)
    indices = episodes.sample(method.shape, 12, 20, generator)
    support, query = map(episodes.as_float, episodes.gather(glyphs(), indices))
    for done, part in ((0.0, 1.0), (1 / 3, 0.75), (0.5, 0.5), (1.0, 0.0)):
        method.step(support, query, indices.classes, done, generator)
        assert method.optimizer.param_groups[0]["lr"] == pytest.approx(part * method.settings.lr)


@pytest.mark.parametrize("schedule", ["cosine", "constant"])
def test_mamls_outer_rate_falls_along_a_cosine_or_stays(schedule: str) -> None:
    method = base.create("maml", settings_of("maml", outer_schedule=schedule), Problem(5, 1, 12), CPU, seed=0)
    generator = episodes.generator(0, 0)
    indices = episodes.sample(method.shape, 12, 20, generator)
    support, query = map(episodes.as_float, episodes.gather(glyphs(), indices))
    for done, part in ((0.0, 1.0), (1 / 3, 0.75), (0.5, 0.5), (1.0, 0.0)):
        method.step(support, query, indices.classes, done, generator)
        expected = part * method.settings.outer_lr if schedule == "cosine" else method.settings.outer_lr
        assert method.optimizer.param_groups[0]["lr"] == pytest.approx(expected)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("downsample", ["stride", "pool"])
@pytest.mark.parametrize(("size", "channels"), [(16, 3), (45, 1)])
def test_images_of_another_size_train_and_are_tested(name: str, downsample: str, size: int, channels: int) -> None:
    table = torch.randint(256, (8, 20, channels, size, size), dtype=torch.uint8)
    settings = settings_of(name, iterations=1, network=a_network(8, downsample))
    method = base.create(name, settings, Problem(3, 1, 8, channels, size), CPU, seed=0)
    fixed = episodes.fixed(Shape(2, 3, 1, 2), 8, 20, 0, "3w1s")
    meta_training.train(method, table, table, fixed, settings, 0)
    for result in evaluate(method, method.embed_table(table), fixed, method.modes):
        assert result.accuracies.shape == (2,)


def test_larger_images_go_in_smaller_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """What bounds the memory are pixels."""
    parts: list[int] = []

    def embed(self: Any, images: Tensor) -> Tensor:
        parts.append(len(images))
        return images

    monkeypatch.setattr(base.Method, "embed", embed)
    for size, channels, most in ((28, 1, 1024), (56, 1, 256), (56, 3, 85), (8, 1, 1024)):
        parts.clear()
        table = torch.zeros(55, 20, channels, size, size, dtype=torch.uint8)
        problem = Problem(5, 1, 55, channels, size)
        embedded = base.create("maml", settings_of("maml"), problem, CPU, seed=0).embed_table(table)
        assert embedded.shape == table.shape
        assert max(parts) == most
        assert sum(parts) == 1100


@pytest.mark.parametrize(
    ("name", "transductive"),
    [(name, mode) for name in METHODS for mode in ((True, False) if name in ("maml", "reptile") else (False,))],
)
def test_with_the_support_labels_shuffled_a_trained_model_is_at_chance(name: str, transductive: bool) -> None:
    """Nothing but the support set tells the classes: no leak from query order, class numbers or the confusion."""
    fixed = episodes.fixed(Shape(150, 5, 5, 3), 30, 20, 0, "5w5s")
    method = base.create(name, settings_of(name, iterations=25, validate_every=25), Problem(5, 5, 40), CPU, seed=0)
    validation = episodes.fixed(Shape(3, 5, 5, 5), 12, 20, 0, "validation")
    meta_training.train(method, glyphs(40), glyphs(12, 1), validation, method.settings, 0)
    embedded = method.embed_table(glyphs(30, 2))
    assert evaluate(method, embedded, fixed, [transductive])[0].accuracies.mean() > 0.6

    generator = torch.Generator().manual_seed(2)

    class Shuffled(type(method)):  # type: ignore[misc]
        def learn(self, support: Tensor) -> Any:
            order = torch.rand(len(support), 25, generator=generator).argsort(1)
            mixed = torch.stack([each.flatten(0, 1)[o].view_as(each) for each, o in zip(support, order, strict=True)])
            return super().learn(mixed)

    method.__class__ = Shuffled
    _, low, high = mean_interval(evaluate(method, embedded, fixed, [transductive])[0].accuracies)
    assert low <= 1 / 5 <= high


@pytest.mark.parametrize("name", ["maml", "reptile"])
def test_two_modes_learn_from_each_support_set_once(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    method = base.create(name, settings_of(name), Problem(5, 1, 12), CPU, seed=0)
    fixed = episodes.fixed(Shape(6, 5, 1, 3), 9, 20, 0, "5w1s")
    embedded = method.embed_table(glyphs(9))
    apart = [evaluate(method, embedded, fixed, [mode])[0] for mode in (True, False)]
    learn, learnt = method.learn, []
    monkeypatch.setattr(method, "learn", lambda support: learnt.append(len(support)) or learn(support))
    together = evaluate(method, embedded, fixed, (True, False))
    assert learnt == [6]
    for one, other in zip(together, apart, strict=True):
        np.testing.assert_array_equal(one.accuracies, other.accuracies)
        np.testing.assert_array_equal(one.confusion, other.confusion)
        np.testing.assert_array_equal(one.first, other.first)


def fixed_validation() -> episodes.Indices:
    return episodes.fixed(Shape(3, 3, 1, 5), 12, 20, 0, "validation")


def test_queries_taken_in_parts_give_what_they_give_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """An all-way episode is too large to be compared at once."""
    method = base.create("siamese", settings_of("siamese"), Problem(9, 2, 12), CPU, seed=0)
    fixed = episodes.fixed(Shape(3, 9, 2, 7), 9, 20, 0, "all-2s7q")
    embedded = method.embed_table(glyphs(9))
    [whole] = evaluate(method, embedded, fixed, [False])
    monkeypatch.setattr(evaluation, "CHUNK_PAIRS", 9 * 9 * 2 * 3)
    [parts] = evaluate(method, embedded, fixed, [False])
    assert (whole.accuracies == parts.accuracies).all()
    assert (whole.confusion == parts.confusion).all()


def test_it_stops_without_improvement_and_keeps_the_best(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = settings_of("prototypes", iterations=50, validate_every=2, patience=6)
    method = base.create("prototypes", settings, Problem(5, 1, 12), CPU, seed=0)
    scores = iter([0.9, 0.5, 0.8, 0.7, 0.6, 0.1])
    seen = []

    def score(*arguments: Any) -> tuple[float, float]:
        seen.append(method.model.convolutions[1].weight.detach().clone())
        return next(scores), 0.0

    monkeypatch.setattr(meta_training, "score", score)
    validation = episodes.fixed(Shape(3, 3, 1, 5), 6, 20, 0, "validation")
    outcome = meta_training.train(method, glyphs(), glyphs(6, 1), validation, settings, 0)
    assert outcome.steps == 10  # the best was at step 4, and 6 steps did not improve on it
    assert torch.equal(method.model.convolutions[1].weight, seen[1])
    assert [row["val_loss"] for row in outcome.curve if "val_loss" in row] == [0.9, 0.5, 0.8, 0.7, 0.6]


def test_confusion_counts_true_and_predicted_classes() -> None:
    method = base.create("prototypes", settings_of("prototypes"), Problem(3, 1, 12), CPU, seed=0)
    fixed = episodes.fixed(Shape(7, 3, 1, 4), 9, 20, 0, "3w1s")
    [result] = evaluate(method, method.embed_table(glyphs(9)), fixed, [False])
    right = result.confusion[result.confusion[:, 0] == result.confusion[:, 1], 2].sum()
    assert right / (7 * 3 * 4) == pytest.approx(result.accuracies.mean())
    assert set(result.confusion[:, 0]) == set(fixed.classes.flatten().tolist())
    assert (result.first == np.arange(3)[:, None]).mean() == pytest.approx(result.accuracies[0])


def test_models_are_compared_without_transduction() -> None:
    method = base.create("maml", settings_of("maml"), Problem(3, 1, 12), CPU, seed=0)
    [expected] = evaluate(method, method.embed_table(glyphs()), fixed_validation(), [False])
    assert meta_training.accuracy(method, glyphs(), fixed_validation()) == pytest.approx(expected.accuracies.mean())


def test_the_average_of_the_weights_is_what_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = settings_of("prototypes", iterations=3, validate_every=3, average=0.5)
    method = base.create("prototypes", settings, Problem(5, 1, 12), CPU, seed=0)
    step, seen = method.step, []

    def noting(*arguments: Any) -> tuple[Tensor, Tensor]:
        numbers = step(*arguments)
        seen.append(method.model.convolutions[0].weight.detach().clone())
        return numbers

    monkeypatch.setattr(method, "step", noting)
    meta_training.train(method, glyphs(), glyphs(12, 1), fixed_validation(), settings, 0)
    expected = seen[0]
    for number, weight in enumerate(seen[1:], start=1):
        decay = min(0.5, (1 + number) / (10 + number))
        expected = decay * expected + (1 - decay) * weight
    assert_close(method.model.convolutions[0].weight, expected)
