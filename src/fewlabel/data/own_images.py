"""A person's own images: a folder of class folders, optionally grouped one level up, as alphabets group characters.

``folder/rose/1.jpg`` gives the class ``rose``, ``folder/garden/rose/1.jpg`` the class ``garden/rose`` of the group
``garden``.
"""

from __future__ import annotations

import os
import unicodedata
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from fewlabel.data.few_shot import FewShotData, turned
from fewlabel.errors import UserError
from fewlabel.params import OwnImages

SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}
FORMATS = ["BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP"]
CLUTTER = {"desktop.ini", "thumbs.db"}  # which file managers leave; names that begin with a dot are left out too


def read(name: str, settings: OwnImages, needed: int, needed_by: str) -> FewShotData:
    """Read the folder and divide its classes into training, validation and test.

    Args:
        name: of the data set, its key in ``own_images``.
        needed: images of a class that the test episodes take, and the task that takes most, for the refusal.

    Raises:
        UserError: naming the folder, class, file or parameter at fault.
    """
    files = _classes(Path(settings.folder), f"own_images.{name}.folder = {settings.folder}")
    parts = _divide(name, settings, sorted(files))
    smallest = min(files, key=lambda each: (len(files[each]), each))
    per_class = settings.per_class or len(files[smallest])
    if settings.per_class and len(files[smallest]) < per_class:
        raise UserError(
            f"own_images.{name}.per_class = {per_class}: class {smallest} has {len(files[smallest])} images; "
            "lower it, or add images to that class, or take it out of the folder"
        )
    if per_class < needed:
        fewest = f"class {smallest} has {per_class} images" if not settings.per_class else f"per_class is {per_class}"
        raise UserError(
            f"own_images.{name}: {fewest}, and {needed_by} needs {needed} of each class: add images, take the class "
            f"out of the folder, or write own_images.{name}.tasks that take fewer, such as [5w1s5q]"
        )
    names = sorted(files)
    images = np.empty((len(names), per_class, 3 if settings.colour else 1, settings.size, settings.size), np.uint8)
    for number, kind in enumerate(names):
        rng = np.random.default_rng([settings.seed, zlib.crc32(kind.encode())])
        chosen = np.sort(rng.permutation(len(files[kind]))[:per_class])
        # All are read, not the chosen alone: whether a broken one is refused must not hang on the seed.
        images[number] = np.stack([image(path, settings.size, settings.colour) for path in files[kind]])[chosen]
    kinds = [np.flatnonzero(np.isin(names, part)) for part in parts]
    train = turned(kinds[0], 4 if settings.rotations else 1)
    return FewShotData(images, np.array(names), train, turned(kinds[1], 1), turned(kinds[2], 1), "own")


def image(path: Path, size: int, colour: bool) -> NDArray[np.uint8]:
    """The middle square of an image, the right way up, on white where it is transparent → (3 or 1, size, size).
    Raises `UserError` naming the file."""
    try:
        with Image.open(path, formats=FORMATS) as file:
            file.draft(None, (2 * size, 2 * size))  # a large JPEG is decoded smaller, and faster
            upright = ImageOps.exif_transpose(file)
            if upright.mode.startswith("I"):  # 16 bits of grey, which `convert` would cut off at 255
                upright = Image.fromarray((np.asarray(upright) >> 8).clip(0, 255).astype(np.uint8))
            if upright.has_transparency_data:
                page = Image.new("RGBA", upright.size, "white")
                upright = Image.alpha_composite(page, upright.convert("RGBA"))
            square = ImageOps.fit(upright.convert("RGB" if colour else "L"), (size, size), Image.Resampling.LANCZOS)
    except Exception as error:  # damage makes Pillow raise errors of many kinds, also struct.error
        kind = "not a readable image" if path.suffix.lower() in SUFFIXES else "not an image"
        reason = " ".join(str(error).split())[:80] or type(error).__name__
        raise UserError(f"{path}: {kind} ({reason}); mend it or take it out") from None
    pixels = np.asarray(square)
    return np.ascontiguousarray(pixels.transpose(2, 0, 1) if colour else pixels[None])


def _classes(folder: Path, where: str) -> dict[str, list[Path]]:
    """``class`` or ``group/class`` → its files, sorted. Raises `UserError` when the folder is not of that form."""
    if not folder.is_dir():
        raise UserError(f"{where}: no such folder")
    found: dict[str, list[Path]] = {}
    depths = set()
    for outer in _folders(folder, where):
        inner = _folders(outer, where)
        depths.add(bool(inner))
        for path in inner or [outer]:
            if inner and _folders(path, where):
                raise UserError(f"{where}: {path} holds folders; there may be one level of groups above the classes")
            files = [each for each in _entries(path) if each.is_file()]
            if not files:
                raise UserError(f"{where}: {path} holds no image")
            found[path.relative_to(folder).as_posix()] = files
    if not found:
        raise UserError(f"{where}: holds no class folder")
    if len(depths) > 1:
        raise UserError(f"{where}: some of its folders hold images and others hold folders: group all classes or none")
    spelt: dict[str, str] = {}
    for name in found:  # one and the same folder on a file system that does not tell cases apart
        other = spelt.setdefault(unicodedata.normalize("NFC", name).casefold(), name)
        if other != name:
            raise UserError(f"{where}: {other} and {name} are two classes of one name: rename one")
    return found


def _entries(folder: Path) -> list[Path]:
    """Raises `UserError` where a name holds control characters, or bytes that are no text."""
    names = [name for name in sorted(os.listdir(folder)) if not name.startswith(".") and name.lower() not in CLUTTER]
    for name in names:
        if any(unicodedata.category(letter) in ("Cc", "Cs") for letter in name):
            raise UserError(f"{folder}: it holds {name!a}, which is no name that can be written: rename it")
    return [folder / name for name in names]


def _folders(folder: Path, where: str) -> list[Path]:
    """The folders in a folder. Raises `UserError` where an image lies beside them: it would be of no class."""
    entries = _entries(folder)
    folders = [path for path in entries if path.is_dir()]
    for path in entries if folders else ():
        if path not in folders and path.suffix.lower() in SUFFIXES:
            raise UserError(f"{where}: {path} lies beside folders and is of no class: move it into a class folder")
    return folders


def _divide(name: str, settings: OwnImages, classes: list[str]) -> tuple[list[str], list[str], list[str]]:
    """The classes for training, validation and test, at least two each: of one alone nothing can be told apart. Lists
    are taken as they are; shares are of the classes or groups that no list names, by chance from the seed. Raises
    `UserError` naming the parameter at fault."""
    where = f"own_images.{name}"
    if settings.by == "group" and not all("/" in each for each in classes):
        raise UserError(f"{where}.by = 'group': the classes of {settings.folder} are in no groups; write by: class")
    unit_of = {each: each.split("/")[0] if settings.by == "group" else each for each in classes}
    units = sorted(set(unit_of.values()))
    chosen: dict[str, list[str]] = {}
    for part in ("test", "validation"):
        wanted = getattr(settings, part)
        if isinstance(wanted, list):
            unknown = [each for each in wanted if each not in units]
            if unknown or not wanted:
                said = f"{unknown[0]} is no {settings.by} of {settings.folder}" if unknown else "an empty list"
                raise UserError(f"{where}.{part}: {said}; there are {', '.join(units[:8])}{', …' * (len(units) > 8)}")
            chosen[part] = wanted
    both = sorted(set(chosen.get("test", ())) & set(chosen.get("validation", ())))
    if both:
        raise UserError(f"{where}: {both[0]} is both in test and in validation: take it out of one")
    listed = {each for part in chosen.values() for each in part}
    rest = [units[i] for i in np.random.default_rng(settings.seed).permutation(len(units)) if units[i] not in listed]
    shares = [part for part in ("test", "validation") if part not in chosen]
    total = len(rest)
    least = 1 if settings.by == "group" else 2
    for left, part in zip((len(shares), 1), shares, strict=False):  # the least for this and for all that follow
        count = max(least, min(round(getattr(settings, part) * total), len(rest) - least * left))
        chosen[part], rest = rest[:count], rest[count:]
    parts = (rest, chosen["validation"], chosen["test"])
    train, validation, test = ([each for each in classes if unit_of[each] in part] for part in parts)
    for part, found in (("training", train), ("validation", validation), ("test", test)):
        if len(found) < 2:
            take = f"fewer by {where}.test or {where}.validation" if part == "training" else f"more by {where}.{part}"
            raise UserError(
                f"{where}: of its {len(classes)} classes {len(found)} would be for {part}, and training, validation "
                f"and test need at least 2 each: add classes, or take {take}"
            )
    return train, validation, test
