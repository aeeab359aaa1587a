"""Files that a stage reads, damaged at random: refused by name in one line, or read as what they still are."""

import io
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load, save
from torch import nn

from fewlabel.data import few_shot, images, own_images
from fewlabel.errors import DamagedFile
from fewlabel.fewshot import episodes
from fewlabel.networks import weights
from tests.reliability.bench import Bench, ended, refused
from tests.reliability.sizes import DAMAGES, SEED

Damage = Callable[[bytes, random.Random], bytes]


def cut(content: bytes, draw: random.Random) -> bytes:
    return content[: draw.randrange(len(content))]


def flipped(content: bytes, draw: random.Random) -> bytes:
    """Bits flipped, more often in the first and the last kilobyte, where the formats keep their tables."""
    changed = bytearray(content)
    for _ in range(draw.choice([1, 1, 3, 20])):
        edge = min(1000, len(content))
        at = draw.choice([draw.randrange(len(content)), draw.randrange(edge), -1 - draw.randrange(edge)])
        changed[at] ^= 1 << draw.randrange(8)
    return bytes(changed)


def foreign(content: bytes, draw: random.Random) -> bytes:
    return draw.choice([b"", bytes(100), b"<html>please log in</html>", draw.randbytes(99), b"PK\5\6" + bytes(18)])


def arrays_changed(content: bytes, draw: random.Random) -> bytes:
    """Whole and well formed, but with one array of another shape, type or name, or without it."""
    with np.load(io.BytesIO(content)) as file:
        arrays: dict[str, Any] = dict(file)
    name = draw.choice(sorted(arrays))
    value = arrays.pop(name)
    change = draw.choice(["gone", "renamed", "shape", "type", "range", "empty"])
    if change == "renamed":
        arrays[name + "x"] = value
    elif change == "shape":
        arrays[name] = draw.choice([value[None], value[..., None], np.concatenate([np.atleast_1d(value)] * 2)])
    elif change == "type":
        arrays[name] = value.astype("U3" if value.dtype.kind != "U" else "S3")
    elif change == "range" and value.dtype.kind in "iu":
        arrays[name] = value + value.dtype.type(draw.choice([1, 50, 100]))
    elif change != "gone":
        arrays[name] = np.atleast_1d(value)[:0]
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def tensors_changed(content: bytes, draw: random.Random) -> bytes:
    tensors = load(content)
    name = draw.choice(sorted(tensors))
    value = torch.atleast_1d(tensors.pop(name))
    if draw.random() < 0.7:
        tensors[name] = draw.choice([torch.cat([value] * 2, dim=-1), value.reshape(-1)[:0]])
    return save(tensors)


def header_changed(content: bytes, draw: random.Random) -> bytes:
    """Bytes of an image's first hundred, where its sizes and its camera's data are."""
    changed = bytearray(content)
    for _ in range(draw.choice([1, 1, 2, 5])):
        changed[draw.randrange(8, 100)] = draw.choice([0, 1, 255, draw.randrange(256)])
    return bytes(changed)


def data(path: Path) -> None:
    kinds = np.arange(6)
    parts = [few_shot.turned(kinds[at : at + 2], 4) for at in (0, 2, 4)]
    drawings = np.random.default_rng(0).integers(0, 256, (6, 5, 1, 8, 8), dtype=np.uint8)
    few_shot.save(path, few_shot.FewShotData(drawings, kinds.astype(str), *parts, origin="archive"))


def fixed_episodes(path: Path) -> None:
    episodes.save(path, episodes.fixed(episodes.Shape(3, 5, 1, 2), 8, 5, seed=0, name="5w1s"))


def image(path: Path) -> None:
    exif = Image.Exif()
    exif[0x010F], exif[0x0112] = "maker", 6  # the camera's, and which side is up
    Image.effect_noise((105, 105), 50).save(path, exif=exif)


# How each file is made, read, and damaged as its format alone can be.
FILES: dict[str, tuple[Callable[[Path], Any], Callable[[Path], Any], Damage]] = {
    "data.npz": (data, few_shot.load, arrays_changed),
    "5w1s.npz": (fixed_episodes, lambda path: episodes.load(path, 8, 5), arrays_changed),
    "model.safetensors": (
        lambda path: weights.write(path, weights.of(nn.Linear(8, 4))),
        lambda path: weights.fill(nn.Linear(8, 4), weights.read(path)[0], path),
        tensors_changed,
    ),
    **dict.fromkeys(
        ("photograph.jpeg", "photograph.png", "photograph.webp"),
        (image, lambda path: own_images.image(path, 8, True), header_changed),
    ),
}


@pytest.mark.filterwarnings("ignore::UserWarning:PIL", "ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("name", FILES)
def test_a_damaged_file_is_refused_or_read(tmp_path: Path, name: str) -> None:
    make, read, own = FILES[name]
    path, said = tmp_path / name, list[str]()
    make(path)
    content = path.read_bytes()
    read(path)
    for number in range(DAMAGES):
        draw = random.Random(f"{SEED} {name} {number}")
        path.write_bytes(draw.choice([cut, flipped, foreign, own, own])(content, draw))
        try:
            read(path)
        except (DamagedFile, images.Unreadable) as error:  # to the second `own_images.read` adds the file's name
            said.append(str(error))
    assert len(said) > DAMAGES // 3
    assert path.suffix not in (".npz", ".safetensors") or all(str(path) in each for each in said)


@pytest.mark.pipeline
def test_a_stage_refuses_it_by_name_and_leaves_the_last_result(bench: Bench) -> None:
    before = bench.made("episodes")
    path = bench.out("prepare")
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    _, errors = ended(bench.start("episodes"), code=2)
    refused(errors, "data/prepared/omniglot.npz: damaged (", "`dvc repro` makes it again")
    assert bench.digests("episodes") == before
    path.write_bytes(content)
