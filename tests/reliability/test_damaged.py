"""Every file that a stage reads, damaged in every way: refused by name in one line, or read as what it still is."""

import collections
import importlib
import io
import random
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save

from fewlabel.data import cifar10, few_shot, hymenoptera, omniglot, own_images
from fewlabel.fewshot import episodes
from fewlabel.networks import resnet
from fewlabel.report import page as report
from stages import common
from tests.reliability.bench import KINDS, Bench, ended
from tests.reliability.sizes import DAMAGES, LONG, SEED

pytestmark = pytest.mark.pipeline
Damage = Callable[[bytes, random.Random], bytes]


def cut(content: bytes, draw: random.Random) -> bytes:
    return content[: draw.randrange(len(content))]


def flipped(content: bytes, draw: random.Random) -> bytes:
    """Bits flipped, more often in the first and the last kilobyte, where the formats keep their tables."""
    changed = bytearray(content)
    for _ in range(draw.choice([1, 1, 3, 20])):
        edge = min(1000, len(content))
        changed[draw.choice([draw.randrange(len(content)), draw.randrange(edge), -1 - draw.randrange(edge)])] ^= (
            1 << draw.randrange(8)
        )
    return bytes(changed)


def overwritten(content: bytes, draw: random.Random) -> bytes:
    at = draw.randrange(len(content))
    return content[:at] + draw.randbytes(draw.choice([1, 8, 512])) + content[at:]


def foreign(content: bytes, draw: random.Random) -> bytes:
    return draw.choice(
        [b"", b"\0" * 100, b"<html>please log in</html>", draw.randbytes(1000), b"PK\x05\x06" + bytes(18)]
    )


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
    from safetensors.torch import load

    tensors = load(content)
    name = draw.choice(sorted(tensors))
    value = tensors.pop(name)
    change = draw.choice(["gone", "renamed", "shape", "wider", "empty"])
    if change == "renamed":
        tensors[name + "x"] = value
    elif change == "shape":
        tensors[name] = torch.cat([value.reshape(-1)] * 2)
    elif change == "wider":
        tensors[name] = torch.cat([torch.atleast_1d(value)] * 2, dim=-1)
    elif change == "empty":
        tensors[name] = value.reshape(-1)[:0]
    return save(tensors, {"stem": "imagenet"})


def header_changed(content: bytes, draw: random.Random) -> bytes:
    """Bytes of an image's first hundred, where its sizes and its camera's data are; a PNG's checksums made to fit."""
    changed = bytearray(content)
    for _ in range(draw.choice([1, 1, 2, 5])):
        changed[draw.randrange(8, 100)] = draw.choice([0, 1, 255, draw.randrange(256)])
    at = 8
    while content.startswith(b"\x89PNG") and at < len(changed):
        end = at + 8 + int.from_bytes(changed[at : at + 4])
        if end < len(changed):
            changed[end : end + 4] = struct.pack(">I", zlib.crc32(changed[at + 4 : end]))
        at = end + 4
    return bytes(changed)


BYTES: list[Damage] = [cut, flipped, overwritten, foreign]
FORMS: dict[str, Damage] = {".npz": arrays_changed, ".safetensors": tensors_changed}
FORMS |= dict.fromkeys([".jpeg", ".png", ".webp"], header_changed)


@pytest.fixture
def in_bench(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> Bench:
    """The stages run in this process, in the bench's folder."""
    monkeypatch.chdir(bench.folder)
    monkeypatch.setattr("sys.argv", ["stage.py"])
    return bench


def launched(main: Callable[[], Any], capsys: pytest.CaptureFixture[str]) -> str:
    """What it said on stderr when it ended with exit code 2; empty when it went well."""
    capsys.readouterr()
    code: Any = 0
    try:
        common.launch(main)
    except SystemExit as exit_:
        code = exit_.code
    said = capsys.readouterr().err
    assert code == (2 if said else 0), said
    assert not said or said.startswith("error: "), said
    assert said.count("\n") <= 1, said
    assert said.strip("\n").isprintable(), said
    return said


# Each file, the kind of stage that leaves it, and how the stages after that read it.
READERS: dict[str, tuple[str, Callable[[Path], Any]]] = {
    "data/prepared/omniglot.npz": ("prepare", omniglot.load),
    "data/prepared/cifar10.npz": ("prepare-cifar10", cifar10.load),
    "data/prepared/hymenoptera.npz": ("prepare-hymenoptera", hymenoptera.load),
    "data/episodes/lake/data.npz": ("episodes", few_shot.load),
    "data/episodes/lake/5w1s.npz": ("episodes", lambda path: episodes.load(path, 32, 20)),
    "results/pretrain_rotation/backbone.safetensors": ("pretrain_rotation", resnet.load),
    "results/metric_train/prototypes-lake-0/model.safetensors": ("prototypes", load_file),
}


@pytest.mark.parametrize(
    "file", READERS if LONG else [file for file in READERS if READERS[file][0] in ("prepare", "episodes", "prototypes")]
)
def test_a_damaged_file_is_refused_by_name(in_bench: Bench, file: str, tmp_path: Path, capsys: Any) -> None:
    kind, read = READERS[file]
    in_bench.ready(kind)
    if not Path(file).exists():
        ended(in_bench.start(kind))
    content, path, ends = Path(file).read_bytes(), tmp_path / Path(file).name, collections.Counter[str]()
    assert launched(lambda: read(Path(file)), capsys) == ""
    for number in range(DAMAGES):
        draw = random.Random(f"{SEED} {file} {number}")
        damage = draw.choice([*BYTES, FORMS[path.suffix], FORMS[path.suffix]])
        path.write_bytes(damage(content, draw))
        said = launched(lambda: read(path), capsys)
        ends["refused" if said else "read"] += 1
        assert not said or str(path) in said, (number, damage.__name__, said)
    path.unlink()
    path.mkdir()
    assert str(path) in launched(lambda: read(path), capsys)
    assert ends["refused"] > ends["read"]
    print(f"{file}: {dict(ends)}")


def of_archive(shrink: Callable[[bytes, str], Any]) -> Callable[[Path], Any]:
    return lambda path: shrink(path.read_bytes(), str(path))


# Who reads images of each format: a person's own, an archive's, a report's.
IMAGES: dict[str, list[Callable[[Path], Any]]] = {
    "jpeg": [lambda path: own_images.image(path, 8, True), of_archive(hymenoptera._photograph)],
    "png": [
        lambda path: own_images.image(path, 8, False),
        of_archive(hymenoptera._photograph),
        of_archive(omniglot._shrink),
        lambda path: report.Picture(path, "", "", "", photographs=True).embedded,
    ],
    "webp": [lambda path: own_images.image(path, 8, True)],
}


@pytest.mark.filterwarnings("ignore::UserWarning:PIL", "ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize(
    ("kind", "reader"), [(kind, i) for kind, readers in IMAGES.items() for i in range(len(readers))]
)
def test_a_damaged_image_is_refused_by_name(
    kind: str, reader: int, tmp_path: Path, capsys: Any, monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["stage.py"])
    read, path, ends = IMAGES[kind][reader], tmp_path / f"image.{kind}", collections.Counter[str]()
    exif = Image.Exif()
    exif[0x010F], exif[0x0112] = "maker", 6  # the camera's, and which side is up
    Image.effect_noise((105, 105), 50).save(path, exif=exif)
    content = path.read_bytes()
    assert launched(lambda: read(path), capsys) == ""
    for number in range(10 * DAMAGES):  # which take a millisecond each
        draw = random.Random(f"{SEED} {kind} {reader} {number}")
        damage = draw.choice([*BYTES, *[FORMS[path.suffix]] * 3])
        path.write_bytes(damage(content, draw))
        said = launched(lambda: read(path), capsys)
        ends["refused" if said else "read"] += 1
        assert not said or str(path) in said, (number, damage.__name__, said)
    assert ends["refused"] > DAMAGES
    print(f"{kind}: {dict(ends)}")


@pytest.fixture
def kept(in_bench: Bench) -> Iterator[Callable[[str], Path]]:
    """Files that are put back as they were."""
    contents: dict[Path, bytes] = {}

    def keep(file: str) -> Path:
        contents[Path(file)] = Path(file).read_bytes()
        return Path(file)

    yield keep
    for path, content in contents.items():
        if path.is_dir():
            path.rmdir()
        path.write_bytes(content)


STAGES = {
    "prepare": [
        "data/raw/omniglot/images_background.zip",
        "data/raw/omniglot/train.txt",
        "data/raw/omniglot/source.json",
    ],
    "prepare-cifar10": ["data/raw/cifar10/cifar-10-binary.tar.gz"],
    "prepare-hymenoptera": ["data/raw/hymenoptera/hymenoptera_data.zip"],
    "episodes": ["data/prepared/omniglot.npz"],
    "evaluate": [
        "data/episodes/lake/data.npz",
        "data/episodes/lake/5w1s.npz",
        "results/metric_train/prototypes-lake-0/model.safetensors",
    ],
    "transfer_features": ["data/prepared/hymenoptera.npz"],
    "finetune-rotation-frozen-early": ["results/pretrain_rotation/backbone.safetensors"],
    "transfer-frozen": ["results/transfer_features/features.safetensors"],
}
CASES = [(kind, file) for kind, files in STAGES.items() for file in files]


@pytest.mark.parametrize(
    ("kind", "file"), CASES if LONG else [case for case in CASES if case[0] in ("prepare", "evaluate")]
)
def test_a_stage_refuses_it_and_leaves_the_last_result(
    in_bench: Bench, kind: str, file: str, kept: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    in_bench.ready(kind)
    ended(in_bench.start(kind))
    before = in_bench.digests(kind)
    path = kept(file)
    content = path.read_bytes()
    module, *arguments = KINDS[kind].command.split()
    monkeypatch.setattr("sys.argv", [f"stages/{module}.py", *arguments])
    main = importlib.import_module(f"stages.{module}").main
    ends = collections.Counter[str]()
    for number in range(DAMAGES // 10):
        draw = random.Random(f"{SEED} {kind} {file} {number}")
        damage = draw.choice([*BYTES, *[FORMS[path.suffix]] * 3] if path.suffix in FORMS else BYTES)
        path.write_bytes(damage(content, draw))
        said = launched(main, capsys)
        ends["refused" if said else "read"] += 1
        if said:
            assert path.name in said, (number, damage.__name__, said)
            assert in_bench.digests(kind) == before, number
        else:  # a flipped bit within a weight, or damage that changes nothing
            before = in_bench.digests(kind)
    path.unlink()
    said = launched(main, capsys)
    assert path.name in said
    path.mkdir()
    assert path.name in launched(main, capsys)
    print(f"{kind}, {file}: {dict(ends)}")
