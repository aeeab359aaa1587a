"""A user's own images: a folder of class folders, optionally grouped one level up, as alphabets group characters.

``folder/rose/1.jpg`` gives the class ``rose``, ``folder/garden/rose/1.jpg`` the class ``garden/rose`` of the group
``garden``. `scan` looks at names alone, `read` opens every image.
"""

from __future__ import annotations

import os
import subprocess
import unicodedata
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fewlabel.data import images
from fewlabel.data.few_shot import FewShotData, turned
from fewlabel.errors import UserError
from fewlabel.params import OwnImages

SUFFIXES = {".avif", ".bmp", ".gif", ".heic", ".heif", ".jp2", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}
# What systems leave in folders of images. Names that begin with a dot are passed over too.
CLUTTER = {"__macosx", "@eadir", "#recycle", "$recycle.bin", "system volume information", "desktop.ini", "thumbs.db"}
DIVISION = {"train", "training", "val", "valid", "validation", "test", "testing"}
REPORTED = 10  # problems named in one message
MIN_CLASSES = 6


@dataclass(frozen=True)
class Listing:
    """What a folder holds, and how it is divided.

    Attributes:
        name: of the data set, its key in ``own_images``.
        files: ``class`` or ``group/class`` → its image files, sorted.
        per_class: images used of each class.
        train, validation, test: the names of their classes.
    """

    name: str
    settings: OwnImages
    files: dict[str, list[Path]]
    per_class: int
    train: list[str]
    validation: list[str]
    test: list[str]

    @property
    def smallest(self) -> str:
        """The class with the fewest images."""
        return min(self.files, key=lambda each: (len(self.files[each]), each))


def scan(name: str, settings: OwnImages) -> Listing:
    """List the folder and divide its classes into training, validation and test.

    Raises:
        UserError: naming the folder, the classes, up to ten files, or the parameter at fault.
    """
    folder, where = Path(settings.folder), f"own_images.{name}.folder = {settings.folder}"
    _check_place(folder, where)
    files = _classes(folder, where)
    fewest = min(map(len, files.values()))
    listing = Listing(name, settings, files, settings.per_class or fewest, *_divide(name, settings, sorted(files)))
    if listing.per_class > fewest:
        raise UserError(
            f"own_images.{name}.per_class = {settings.per_class}: class {listing.smallest} has {fewest} images; "
            "lower it, or add images to that class, or take it out of the folder"
        )
    return listing


def read(listing: Listing) -> FewShotData:
    """Open every image, also those that are not used: whether a damaged one is refused must not depend on the seed.

    Raises:
        UserError: naming up to ten files that cannot be read.
    """
    settings, names = listing.settings, sorted(listing.files)
    channels = 3 if settings.colour else 1
    pixels = np.empty((len(names), listing.per_class, channels, settings.size, settings.size), np.uint8)
    problems = []
    for number, kind in enumerate(names):
        files = listing.files[kind]
        rng = np.random.default_rng([settings.seed, zlib.crc32(kind.encode())])
        places = {file: place for place, file in enumerate(sorted(rng.permutation(len(files))[: listing.per_class]))}
        for index, path in enumerate(files):
            try:
                square = image(path, settings.size, settings.colour)
            except images.Unreadable as reason:
                problems.append(f"{path.relative_to(settings.folder)} ({reason})")
                continue
            if index in places:
                pixels[number, places[index]] = square
    if problems:
        mend = f"convert them to {', '.join(images.FORMATS)}, or take them out"
        raise _report(f"own_images.{listing.name}: {len(problems)} files that cannot be read; {mend}", problems)
    train, validation, test = (
        np.flatnonzero(np.isin(names, part)) for part in (listing.train, listing.validation, listing.test)
    )
    turns = 4 if settings.rotations else 1
    return FewShotData(pixels, np.array(names), turned(train, turns), turned(validation, 1), turned(test, 1), "own")


def image(path: Path, size: int, colour: bool) -> NDArray[np.uint8]:
    """The middle square of an image file → (3 or 1, size, size). Raises `images.Unreadable`."""
    return images.square(images.decode(path, side=2 * size), size, colour, Image.Resampling.LANCZOS)


def _report(what: str, problems: list[str]) -> UserError:
    more = f"; and {len(problems) - REPORTED} more" if len(problems) > REPORTED else ""
    return UserError(f"{what}: {'; '.join(problems[:REPORTED])}{more}")


def _check_place(folder: Path, where: str) -> None:
    """Raise `UserError` where the folder is none, or one whose images an experiment would commit or not find."""
    if not folder.is_absolute():
        raise UserError(f"{where}: write the absolute path; an experiment in a temporary copy does not find another")
    if folder.is_file():
        raise UserError(f"{where}: a file, not a folder; unpack it first if it is an archive")
    if not folder.is_dir():
        raise UserError(f"{where}: no such folder")
    checkout, folder = Path(os.environ.get("DVC_ROOT", ".")).resolve(), folder.resolve()
    if folder.is_relative_to(checkout):
        asked = subprocess.run(["git", "-C", checkout, "check-ignore", "--quiet", folder], capture_output=True)
        if asked.returncode == 1:  # 0: ignored, as a folder under DVC is; 128: no git repository
            raise UserError(
                f"{where}: lies in the checkout, so that an experiment would commit its images to git: "
                "move it out or into data/own, which git ignores, or run `dvc add` on it"
            )


def _classes(folder: Path, where: str) -> dict[str, list[Path]]:
    """``class`` or ``group/class`` → its files, sorted. Raises `UserError` when the folder is not of that form."""
    problems: list[str] = []
    found: dict[str, list[Path]] = {}
    outer, _ = _entries(folder, problems)
    grouped = any(_entries(path, [])[0] for path in outer)
    for top in outer:
        inner, files = _entries(top, problems)
        if grouped and not inner:
            problems.append(f"{top} holds no folder and others do: group all classes or none")
        for path in inner or [top]:
            deeper, files = _entries(path, problems) if inner else ([], files)
            if deeper:
                problems.append(f"{path} holds folders; there may be one level of groups above the classes")
            elif not files:
                problems.append(f"{path} holds no image")
            found[path.relative_to(folder).as_posix()] = files
    spelt: dict[str, str] = {}
    for name in found:  # one and the same folder on a file system that ignores case
        other = spelt.setdefault(unicodedata.normalize("NFC", name).casefold(), name)
        if other != name:
            problems.append(f"{other} and {name} are two classes of one name: rename one")
    if problems:
        raise _report(where, problems)
    if not found:
        raise UserError(f"{where}: holds no class folder")
    if grouped:
        _check_not_divided(found, where)
    return found


def _entries(folder: Path, problems: list[str]) -> tuple[list[Path], list[Path]]:
    """The folders and the files in a folder, sorted. What is of no use there is added to the problems."""
    folders: list[Path] = []
    files: list[Path] = []
    for name in sorted(os.listdir(folder)):
        path = folder / name
        if name.startswith(".") or name.lower() in CLUTTER:
            continue
        if any(unicodedata.category(letter) in ("Cc", "Cs") for letter in name):
            problems.append(f"{str(path)!a} has a name that cannot be written: rename it")
        elif path.is_dir() and path.is_symlink():
            problems.append(f"{path} is a link, behind which DVC sees no change: put the folder itself there")
        else:
            (folders if path.is_dir() else files).append(path)
    if folders:
        stray = [path for path in files if path.suffix.lower() in SUFFIXES]
        problems += [f"{path} lies beside folders and is of no class: move it into a class folder" for path in stray]
    return folders, files


def _check_not_divided(classes: dict[str, list[Path]], where: str) -> None:
    """Raise `UserError` for a folder of train, test, …: as groups, they would be different classes of one name."""
    inner: dict[str, set[str]] = {}
    for name in classes:
        group, kind = name.split("/")
        inner.setdefault(group, set()).add(kind)
    twice = sum(map(len, inner.values())) - len(set.union(*inner.values()))
    if twice and {group.lower() for group in inner} <= DIVISION:
        part = next((group for group in inner if group.lower().startswith("train")), min(inner))
        raise UserError(
            f"{where}: divided into {', '.join(sorted(inner))}, which hold the same classes; few-shot learning divides "
            f"classes, not images: name one part, as in folder: {where.partition(' = ')[2]}/{part}"
        )


def _divide(name: str, settings: OwnImages, classes: list[str]) -> tuple[list[str], list[str], list[str]]:
    """The classes for training, validation and test, at least two each: of one alone nothing can be told apart. Lists
    are taken as they are; shares are of the classes or groups that no list names, by chance from the seed. Raises
    `UserError` naming the parameter at fault."""
    where = f"own_images.{name}"
    if len(classes) < MIN_CLASSES:
        raise UserError(
            f"{where}: {settings.folder} has {len(classes)} classes, and training, validation and test need 2 each: "
            "add classes"
        )
    if settings.by == "group" and not all("/" in each for each in classes):
        raise UserError(f"{where}.by = 'group': the classes of {settings.folder} are in no groups; write by: class")
    unit_of = {each: each.split("/")[0] if settings.by == "group" else each for each in classes}
    units = sorted(set(unit_of.values()))
    chosen = _listed(where, settings, units)
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


def _listed(where: str, settings: OwnImages, units: list[str]) -> dict[str, list[str]]:
    """The classes or groups of the parts that are lists of names. Raises `UserError` for a name unknown or in both."""
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
    return chosen
