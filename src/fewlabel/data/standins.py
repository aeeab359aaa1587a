"""Stand-in datasets, drawn here, packed as the official archives are: the whole pipeline then runs anywhere.

They are made to be learnable, so that a broken method shows, and they prove nothing about the real data: every
result made from them says ``embedded``. Equal bytes on every draw (fixed seeds, fixed dates). The official names and
layouts are spelt out here once more, so that what reads them is held to them.

- glyphs: an alphabet is a manner of writing (slant, curves, how many strokes), a character a few random strokes,
  a drawing the same strokes with a shaky hand;
- small colour images: a bright sky over a darker ground tells which way is up, one object tells the class;
- photographs' size: dark ants on sand against striped bees on petals.
"""

from __future__ import annotations

import gzip
import io
import math
import tarfile
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

# Twelve alphabets leave enough for training when five are held out for validation; 32 test characters allow 20 ways.
BACKGROUND_ALPHABETS, EVALUATION_ALPHABETS = 12, 4
BACKGROUND_CHARACTERS, EVALUATION_CHARACTERS = 6, 8  # per alphabet
IMAGES_PER_BATCH, TEST_IMAGES = 800, 1000  # five batches: 400 training images per class
PHOTOGRAPHS = {"train": 20, "val": 10}  # per class


def _zip(path: Path, files: Iterable[tuple[str, bytes]]) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files:
            archive.writestr(zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0)), data)


def _encode(image: Image.Image, kind: str) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


# --- glyphs -----------------------------------------------------------------------------------------------------


def _glyphs(folder: Path) -> None:
    names = []
    evaluation: list[list[bytes]] = []  # the drawings of each evaluation character
    parts = (
        ("images_background", "Training", BACKGROUND_ALPHABETS, BACKGROUND_CHARACTERS),
        ("images_evaluation", "Test", EVALUATION_ALPHABETS, EVALUATION_CHARACTERS),
    )
    for part, (root, prefix, alphabets, characters) in enumerate(parts):
        files = []
        for alphabet in range(alphabets):
            style = np.random.default_rng((part, alphabet))
            slant, curl, strokes = style.uniform(-0.25, 0.25), style.uniform(0.1, 0.5), int(style.integers(2, 4))
            for character in range(characters):
                hand = np.random.default_rng((part, alphabet, character))
                glyph = _glyph(hand, slant, curl, strokes)
                name = f"{prefix}_{alphabet + 1:02}/character{character + 1:02}"
                names.append(name)
                drawings = [_encode(_write(hand, glyph), "PNG") for _ in range(20)]
                for number, image in enumerate(drawings, start=1):
                    files.append((f"{root}/{name}/{len(names):04}_{number:02}.png", image))
                if prefix == "Test":
                    evaluation.append(drawings)
        _zip(folder / f"{root}.zip", files)
    _zip(folder / "all_runs.zip", _runs(evaluation))
    order = np.random.default_rng(0).permutation(len(names))
    ends = (0, len(names) * 2 // 3, len(names) * 3 // 4, len(names))  # about the proportions of the published lists
    for number, part_name in enumerate(("train", "val", "test")):
        chosen = sorted(names[i] for i in order[ends[number] : ends[number + 1]])
        lines = [f"{name}/rot{turn:03}\n" for name in chosen for turn in (0, 90, 180, 270)]
        (folder / f"{part_name}.txt").write_text("".join(lines), encoding="ascii")


def _runs(characters: list[list[bytes]]) -> list[tuple[str, bytes]]:
    """Twenty one-shot runs in the layout of Lake's ``all_runs.zip``, from the drawings of each character."""
    files = []
    for run in range(1, 21):
        rng = np.random.default_rng((2, run))
        chosen, order = rng.permutation(len(characters))[:20], rng.permutation(20)
        pairs = [rng.permutation(20)[:2] for _ in chosen]  # of two people: one draws the class, one the test item
        labels = []
        for place, kind in enumerate(order):
            item, label = f"run{run:02}/test/item{place + 1:02}.png", f"run{run:02}/training/class{kind + 1:02}.png"
            drawings = characters[chosen[kind]]
            files += [(item, drawings[pairs[kind][1]]), (label, drawings[pairs[kind][0]])]
            labels.append(f"{item} {label}\n")
        files.append((f"run{run:02}/class_labels.txt", "".join(labels).encode("ascii")))
    return files


def _glyph(rng: np.random.Generator, slant: float, curl: float, strokes: int) -> NDArray[np.float64]:
    """Quadratic Bézier strokes as control points (strokes, 3, xy) within the square from -1 to 1."""
    joints = [np.zeros(2)]  # where a stroke may begin: at an end or the bend of an earlier one
    glyph = []
    for _ in range(strokes + int(rng.integers(0, 2))):
        start = joints[int(rng.integers(len(joints)))]
        angle = int(rng.integers(8)) * math.pi / 4 + rng.normal(0, 0.15)
        end = start + rng.uniform(0.8, 1.5) * np.array([math.cos(angle), math.sin(angle)])
        bend = (start + end) / 2 + rng.normal(0, curl, 2)
        glyph.append([start, bend, end])
        joints += [(start + 2 * bend + end) / 4, end]
    points = np.array(glyph)
    points[..., 0] += slant * points[..., 1]
    low, high = points.min((0, 1)), points.max((0, 1))
    return np.asarray((points - (low + high) / 2) / max((high - low).max() / 2, 1e-6) * 0.9)


def _write(rng: np.random.Generator, glyph: NDArray[np.float64]) -> Image.Image:
    """One drawing, 105×105, black on white, one bit: the glyph turned, stretched, moved and shaken a little."""
    turn = rng.normal(0, 0.1)
    shape = np.array([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]]) * rng.uniform(0.75, 1, 2)
    points = (glyph + rng.normal(0, 0.05, glyph.shape)) @ shape.T
    points = 52 + 42 * points + rng.normal(0, 4, 2)
    t = np.linspace(0, 1, 16)[:, None]
    image = Image.new("1", (105, 105), 1)
    pen = ImageDraw.Draw(image)
    for start, middle, end in points:
        curve = (1 - t) ** 2 * start + 2 * t * (1 - t) * middle + t**2 * end
        pen.line([tuple(point) for point in curve.tolist()], fill=0, width=5, joint="curve")
    return image


# --- small colour images ----------------------------------------------------------------------------------------


def _small_images(folder: Path) -> None:
    sizes = {f"data_batch_{number}": IMAGES_PER_BATCH for number in range(1, 6)} | {"test_batch": TEST_IMAGES}
    with (
        (folder / "cifar-10-binary.tar.gz").open("wb") as file,
        gzip.GzipFile("", "wb", compresslevel=1, fileobj=file, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w") as archive,
    ):
        for number, (name, count) in enumerate(sizes.items()):
            data = _batch(np.random.default_rng(number), count).tobytes()
            member = tarfile.TarInfo(f"cifar-10-batches-bin/{name}.bin")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))


def _batch(rng: np.random.Generator, count: int) -> NDArray[np.uint8]:
    """Records (count, 3073) in the official layout, the classes equally often."""
    labels = rng.permutation(np.arange(count) % 10)
    grid = np.linspace(-1, 1, 32)

    def per_image(low: float, high: float, channels: int = 1) -> NDArray[np.float64]:
        return rng.uniform(low, high, (count, channels, 1, 1))

    x, y = grid[None, None, None, :], grid[None, None, :, None]  # y grows downwards
    sky = np.array([0.55, 0.7, 0.9])[None, :, None, None] + per_image(-0.2, 0.1, 3)
    ground = np.array([0.4, 0.35, 0.2])[None, :, None, None] + per_image(-0.2, 0.2, 3)
    down = 1 / (1 + np.exp(-(y - per_image(-0.2, 0.4)) * per_image(3, 12)))
    scene = sky * (1 - down) + ground * down
    size = per_image(0.4, 0.65)
    u, v = (x - per_image(-0.4, 0.4)) / size, (y - per_image(-0.2, 0.4)) / size
    inside = np.take_along_axis(_shapes(u, v), labels[None, :, None, None], 0)[0][:, None]
    shade = per_image(0, 1, 3) * np.clip(1 - 0.3 * v, 0.6, 1.2)  # lit from above
    image = np.where(inside, shade, scene) + rng.normal(0, 0.05, (count, 3, 32, 32))
    pixels = (255 * np.clip(image, 0, 1)).astype(np.uint8).reshape(count, -1)
    return np.concatenate([labels.astype(np.uint8)[:, None], pixels], 1)


def _shapes(u: NDArray[np.float64], v: NDArray[np.float64]) -> NDArray[np.bool_]:
    """The object of each class, as masks (10, count, 32, 32); u to the right and v downwards, about -1 to 1."""
    u, v = (a[:, 0] for a in np.broadcast_arrays(u, v))
    radius, box = np.hypot(u, v), np.maximum(abs(u), abs(v))
    return np.stack(
        [
            radius < 0.9,  # disc
            (radius < 1) & (radius > 0.55),  # ring
            box < 0.8,  # square
            (box < 0.9) & (box > 0.5),  # frame
            (v < 0.9) & (abs(u) < (v + 1) / 2),  # pyramid
            (v > -0.9) & (abs(u) < (1 - v) / 2),  # funnel
            (np.minimum(abs(u), abs(v)) < 0.25) & (box < 1),  # plus
            (abs(abs(u) - abs(v)) < 0.3) & (box < 0.9),  # cross
            (abs(u) < 1) & (abs(abs(v) - 0.5) < 0.25),  # two bars
            (abs(v) < 1) & (abs(abs(u) - 0.5) < 0.25),  # two columns
        ]
    )


# --- photographs' size ------------------------------------------------------------------------------------------


def _insects(folder: Path) -> None:
    placeholder = Image.new("P", (120, 90), 7)
    files = [("hymenoptera_data/train/ants/imageNotFound.gif", _encode(placeholder, "GIF"))]
    for part, (place, count) in enumerate(PHOTOGRAPHS.items()):
        for label, (kind, insect) in enumerate((("ants", _ant), ("bees", _bee))):
            for number in range(count):
                rng = np.random.default_rng((part, label, number))
                image = _photograph(rng, insect)
                files.append((f"hymenoptera_data/{place}/{kind}/{number + 1:04}.jpg", _encode(image, "JPEG")))
    _zip(folder / "hymenoptera_data.zip", files)


def _photograph(rng: np.random.Generator, insect: Callable[[np.random.Generator], Image.Image]) -> Image.Image:
    """An insect somewhere on a blotchy ground, landscape or portrait, about 320×260 pixels."""
    width, height = rng.permutation([int(rng.integers(300, 341)), int(rng.integers(256, 281))]).tolist()
    # Ants are met on sand and bees on petals, but not always: the ground alone does not tell them apart.
    sandy = rng.random() < (0.7 if insect is _ant else 0.3)
    ground = np.array([190, 165, 125] if sandy else [200, 120, 170]) + rng.normal(0, 25, 3)
    blotches = rng.normal(0, 30, (height // 16, width // 16, 1)) + rng.normal(0, 10, (height // 16, width // 16, 3))
    coarse = Image.fromarray(np.clip(ground + blotches, 0, 255).astype(np.uint8))
    image = coarse.resize((width, height), Image.Resampling.BICUBIC).filter(ImageFilter.GaussianBlur(2))
    animal = insect(rng).rotate(float(rng.uniform(0, 360)), Image.Resampling.BICUBIC)
    side = int(rng.uniform(0.55, 0.85) * min(width, height))
    animal = animal.resize((side, side), Image.Resampling.LANCZOS)
    place = (int(rng.integers(0, width - side + 1)), int(rng.integers(0, height - side + 1)))
    image.paste(animal, place, animal)
    grain = rng.normal(0, 6, (height, width, 3))
    return Image.fromarray(np.clip(np.asarray(image) + grain, 0, 255).astype(np.uint8))


def _ant(rng: np.random.Generator) -> Image.Image:
    """Three dark segments, six thin legs, two feelers; 240×240 with a transparent ground."""
    image = Image.new("RGBA", (240, 240))
    pen = ImageDraw.Draw(image)
    tone = int(rng.integers(10, 60))
    colour = (tone + int(rng.integers(0, 70)), tone, tone // 2, 255)
    for side in (-1, 1):
        for hip, foot in ((105, 60), (115, 125), (125, 185)):
            knee = (120 + side * 40, (hip + foot) // 2 - 10 + int(rng.integers(-8, 9)))
            pen.line([(120, hip), knee, (120 + side * 75, foot)], fill=colour, width=5, joint="curve")
        pen.line([(120, 50), (120 + side * 20, 30), (120 + side * 35, 8)], fill=colour, width=4, joint="curve")
    for x, y, half_width, half_length in ((120, 62, 17, 18), (120, 108, 13, 26), (120, 175, 26, 42)):
        pen.ellipse((x - half_width, y - half_length, x + half_width, y + half_length), fill=colour)
    return image


def _bee(rng: np.random.Generator) -> Image.Image:
    """A stout body in dark and yellow stripes, pale wings; 240×240 with a transparent ground."""
    image = Image.new("RGBA", (240, 240))
    pen = ImageDraw.Draw(image)
    dark = (35, 25, 15, 255)
    yellow = (int(rng.integers(200, 250)), int(rng.integers(140, 190)), 30, 255)
    for side in (-1, 1):
        for y, length in ((105, 95), (140, 70)):
            x = 120 + side * length // 2 + side * 10
            pen.ellipse((x - length // 2, y - 22, x + length // 2, y + 22), fill=(225, 225, 215, 190))
        pen.line([(120, 40), (120 + side * 25, 15)], fill=dark, width=4)
    pen.ellipse((95, 30, 145, 75), fill=dark)
    body = Image.new("L", (240, 240))
    ImageDraw.Draw(body).ellipse((78, 62, 162, 225), fill=255)
    stripes = Image.new("RGBA", (240, 240), yellow)
    across = ImageDraw.Draw(stripes)
    for top in range(95 + int(rng.integers(0, 10)), 235, 34):
        across.rectangle((0, top, 240, top + 16), fill=dark)
    image.paste(stripes, (0, 0), body)
    return image


# Each writes the stand-in archives of its dataset into a folder.
DRAW = {"omniglot": _glyphs, "cifar10": _small_images, "hymenoptera": _insects}
