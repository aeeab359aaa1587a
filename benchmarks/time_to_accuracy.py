"""Seconds until a Siamese network passes 70 % on lake/10w5s: this project's training, against the naive one.

Ours is the training of params.yaml (section siamese) on the real Omniglot, its clock stopped while the 1,000 test
episodes are evaluated every `EVERY` steps. This measures speed, it selects nothing: no training stage looks at the
test classes.

The naive one is a common tutorial's: 105×105 images, 512 pairs a step, half of them "same", each image opened from its
PNG file when it is needed; four 3x3 convolutions of 4, 16, 32, 32 channels with ReLU and max pooling, |f₁ − f₂|, a
linear layer, binary cross-entropy, Adam at 0.0001. Its rate is measured over a few steps; the seconds to 70 % are
*extrapolated* to `NAIVE_STEPS` of them, what an earlier full run took. ``--full`` trains it until it passes instead
(over an hour and a half on two cores).

It needs the real data: ``dvc repro prepare@omniglot``.
"""

from __future__ import annotations

import itertools
import random
import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms.functional import pil_to_tensor

from benchmarks import common
from fewlabel import params
from fewlabel.data import omniglot
from fewlabel.errors import UserError
from fewlabel.fewshot import episodes
from fewlabel.fewshot import splits as omniglot_splits
from fewlabel.fewshot.episodes import Indices, Shape
from fewlabel.fewshot.evaluate import evaluate
from fewlabel.fewshot.methods import base

RAW = Path("data/raw/omniglot")
TASK, ACCURACY = "10w5s", 0.70
EVERY = 25  # steps of ours between evaluations
NAIVE_STEPS = 2700  # to pass 70 %, in an earlier full run of the naive training
NAIVE_EVERY = 100  # steps of a full naive run between evaluations
PAIRS = 512
TARGET = 50


def ours(data: omniglot.Omniglot, device: torch.device) -> tuple[float, int, float]:
    """Train until the accuracy is passed: seconds, steps, accuracy. Raises `UserError` when it never is."""
    all_params = params.load()
    settings, way_shot = all_params.siamese, params.parse_task(TASK)
    split = omniglot_splits.divide(data, "lake", all_params.episodes.validation_alphabets, all_params.episodes.seed)
    table, held_out = (episodes.table(split.images, classes, device) for classes in (split.train, split.test))
    test = test_episodes(all_params, len(held_out))
    method = base.create("siamese", settings, base.Problem(*way_shot, classes=len(table)), device, seed=0)
    seconds = 0.0
    for step in range(settings.iterations):
        start = time.perf_counter()
        generator = episodes.generator(0, step)
        indices = episodes.sample(method.shape, len(table), table.shape[1], generator)
        support, query = map(episodes.as_float, episodes.gather(table, indices))
        loss, _ = method.step(support, query, indices.classes, step / settings.iterations, generator)
        loss.item()  # waits for a GPU
        seconds += time.perf_counter() - start
        if (step + 1) % EVERY == 0:
            [result] = evaluate(method, method.embed_table(held_out), test, [False], f"after {step + 1} steps")
            accuracy = float(result.accuracies.mean())
            print(f"ours: {step + 1} steps, {seconds:.1f} s of training: {accuracy:.1%}", flush=True)
            if accuracy >= ACCURACY:
                return seconds, step + 1, accuracy
    raise UserError(f"{settings.iterations} steps did not reach {ACCURACY:.0%}")


def test_episodes(all_params: params.Params, classes: int) -> Indices:
    """The fixed test episodes of lake/10w5s, as the stage `episodes` makes them."""
    way, shot = params.parse_task(TASK)
    settings = all_params.episodes
    return episodes.fixed(Shape(settings.count, way, shot, settings.queries), classes, 20, settings.seed, TASK)


class Naive(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        widths = (1, 4, 16, 32, 32)
        blocks = [
            nn.Sequential(nn.Conv2d(before, after, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2))
            for before, after in itertools.pairwise(widths)
        ]
        self.tower = nn.Sequential(*blocks, nn.Flatten())
        self.head = nn.Linear(32 * 6 * 6, 1)

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        return self.head((self.tower(first) - self.tower(second)).abs()).squeeze(1)


def load(files: list[Path]) -> Tensor:
    return torch.stack([1 - pil_to_tensor(Image.open(file).convert("L")).float() / 255 for file in files])


def naive_step(
    network: Naive, optimizer: torch.optim.Optimizer, folders: list[list[Path]], device: torch.device
) -> None:
    first, second = [], []
    for pair in range(PAIRS):
        if pair % 2:
            one, other = random.sample(random.choice(folders), 2)
        else:
            one, other = (random.choice(files) for files in random.sample(folders, 2))
        first.append(one)
        second.append(other)
    targets = (torch.arange(PAIRS) % 2).float().to(device)
    loss = F.binary_cross_entropy_with_logits(network(load(first).to(device), load(second).to(device)), targets)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


@torch.no_grad()
def naive_accuracy(network: Naive, folders: list[list[Path]], indices: Indices, device: torch.device) -> float:
    """On the same test episodes, from the PNG files of the evaluation alphabets."""
    features = torch.stack([network.tower(load(files).to(device)) for files in folders])
    accuracies = []
    for one in indices.chunks(1):
        support, query = (each[0].flatten(0, 1) for each in episodes.gather(features, one))
        way = one.classes.shape[1]
        scores = network.head((query[:, None] - support).abs()).squeeze(-1).unflatten(1, (way, -1)).mean(-1)
        targets = torch.arange(way, device=device).repeat_interleave(len(query) // way)
        accuracies.append((scores.argmax(1) == targets).float().mean())
    return torch.stack(accuracies).mean().item()


def unpack(raw: Path, root: Path) -> tuple[list[list[Path]], list[list[Path]]]:
    """The PNG files of every background and every evaluation character, sorted as the prepared data are."""
    parts = []
    for part in ("images_background", "images_evaluation"):
        common.unpack(raw / f"{part}.zip", root)
        folders = sorted((root / part).glob("*/*"), key=lambda path: "/".join(path.parts[-2:]))
        parts.append([sorted(folder.glob("*.png")) for folder in folders])
    return parts[0], parts[1]


def main() -> None:
    parser = common.parser(__doc__)
    parser.add_argument("--naive-steps", type=int, default=10, help="steps of the naive training to time")
    parser.add_argument("--full", action="store_true", help="train the naive network until it passes, too")
    arguments = parser.parse_args()
    device = common.start(arguments.device)
    try:
        if not (RAW / "images_background.zip").is_file():
            raise UserError(f"{RAW} holds no archives: run `dvc repro prepare@omniglot`")
        data = omniglot.load("data/prepared/omniglot.npz")
        if data.origin != "archive":
            raise UserError("data/prepared/omniglot.npz holds stand-ins, on which seconds to an accuracy mean nothing")
        seconds, steps, accuracy = ours(data, device)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    with tempfile.TemporaryDirectory(prefix="fewlabel-benchmark-") as root:
        folders, test_folders = unpack(RAW, Path(root))
        torch.manual_seed(0)
        random.seed(0)
        network = Naive().to(device)
        optimizer = torch.optim.Adam(network.parameters(), lr=1e-4)
        indices = test_episodes(params.load(), len(test_folders))
        each: list[float] = []
        limit = 10 * NAIVE_STEPS if arguments.full else arguments.naive_steps
        naive_reached = NAIVE_STEPS
        for step in range(1, limit + 1):
            start = time.perf_counter()
            naive_step(network, optimizer, folders, device)
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            each.append(time.perf_counter() - start)
            if arguments.full and step % NAIVE_EVERY == 0:
                at = naive_accuracy(network, test_folders, indices, device)
                print(f"naive: {step} steps, {sum(each):.0f} s of training: {at:.1%}", flush=True)
                if at >= ACCURACY:
                    naive_reached = step
                    break
    step_s = statistics.median(each)
    naive_seconds = sum(each) if arguments.full else step_s * NAIVE_STEPS
    row = common.against(f"lake/{TASK} to {ACCURACY:.0%}", naive_seconds, seconds, TARGET)
    row |= {
        "reference_step_s": step_s,
        "reference_steps": naive_reached,
        "extrapolated": not arguments.full,
        "ours_steps": steps,
        "ours_accuracy": accuracy,
    }
    common.report("time_to_accuracy", [row], device, 1, arguments.save)


if __name__ == "__main__":
    main()
