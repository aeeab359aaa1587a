"""A person's own images: any folder of class folders becomes a data set, or one line says why not."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from fewlabel.data import own_images
from fewlabel.data.own_images import image, read
from fewlabel.errors import UserError
from fewlabel.params import OwnImages


def folder_of(folder: Path, classes: dict[str, int], size: int = 12) -> Path:
    """A PNG of a colour of its own for each image: class number in red, image number in green."""
    for number, (name, count) in enumerate(classes.items()):
        (folder / name).mkdir(parents=True)
        for i in range(count):
            Image.new("RGB", (size, size), (number, i, 200)).save(folder / name / f"{i:03}.png")
    return folder


def settings_of(folder: Path, **changes: object) -> OwnImages:
    return OwnImages(**{"folder": str(folder), "size": 16, "colour": True} | changes)


def refused(message: str, folder: Path, needed: int = 2, **changes: object) -> None:
    with pytest.raises(UserError, match=message) as refusal:
        read("flowers", settings_of(folder, **changes), needed, "5w1s1q")
    assert "\n" not in str(refusal.value)


FLAT = {f"class{i}": 4 for i in range(10)}
GROUPED = {f"group{i}/class{j}": 4 for i in range(5) for j in range(3)}


def test_a_flat_folder(tmp_path: Path) -> None:
    data = read("flowers", settings_of(folder_of(tmp_path, FLAT), rotations=True), 4, "5w1s3q")
    assert data.images.shape == (10, 4, 3, 16, 16)
    assert data.names.tolist() == sorted(FLAT)
    assert data.origin == "own"
    assert (len(data.train), len(data.validation), len(data.test)) == (4 * 5, 2, 3)
    for number in range(10):  # in order, and none twice
        assert (data.images[number, :, 0] == number).all()
        assert data.images[number, :, 1, 0, 0].tolist() == [0, 1, 2, 3]


def test_a_grouped_folder_divided_by_group(tmp_path: Path) -> None:
    data = read("flowers", settings_of(folder_of(tmp_path, GROUPED), by="group", test=0.4, validation=0.2), 2, "x")
    groups = [
        {data.names[kind].split("/")[0] for kind in part[:, 0]} for part in (data.train, data.validation, data.test)
    ]
    assert [len(part) for part in groups] == [2, 1, 2]
    assert len(set.union(*groups)) == 5


def test_lists_of_names_are_taken_as_they_are(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, GROUPED)
    data = read(
        "flowers",
        settings_of(folder, test=["group1/class2", "group0/class0"], validation=["group4/class1", "group1/class1"]),
        2,
        "x",
    )
    assert data.names[data.test[:, 0]].tolist() == ["group0/class0", "group1/class2"]
    assert data.names[data.validation[:, 0]].tolist() == ["group1/class1", "group4/class1"]
    assert len(data.train) == 11
    data = read("flowers", settings_of(folder, by="group", test=["group3"], validation=0.25), 2, "x")
    assert data.names[data.test[:, 0]].tolist() == [f"group3/class{i}" for i in range(3)]
    assert (len(data.train), len(data.validation)) == (9, 3)


@given(
    groups=st.integers(0, 6), each=st.integers(2, 15), test=st.floats(0.01, 0.6), validation=st.floats(0.01, 0.39),
    by_group=st.booleans(), rotations=st.booleans(), seed=st.integers(0, 99),
)  # fmt: skip
@settings(max_examples=100, deadline=None)
def test_no_class_is_in_two_parts_and_each_has_two(
    groups: int, each: int, test: float, validation: float, by_group: bool, rotations: bool, seed: int
) -> None:
    names = [f"g{i}/c{j:02}" for i in range(groups) for j in range(each)] or [f"c{j:02}" for j in range(each)]
    chosen = OwnImages(folder="x", by="group" if by_group else "class", test=test, validation=validation, seed=seed)
    if groups < 3 if by_group else len(names) < 6:
        with pytest.raises(UserError, match="in no groups" if by_group and not groups else "need at least 2 each"):
            own_images._divide("flowers", chosen, names)
        return
    parts = own_images._divide("flowers", chosen, names)
    assert min(map(len, parts)) >= 2
    assert sorted([*parts[0], *parts[1], *parts[2]]) == names
    if by_group:
        of = [{name.split("/")[0] for name in part} for part in parts]
        assert not of[0] & of[1] | of[0] & of[2] | of[1] & of[2]


def test_the_shares_give_two_classes_at_least() -> None:
    chosen = OwnImages(folder="x")
    for classes, expected in {6: (2, 2, 2), 10: (5, 2, 3), 14: (8, 2, 4), 30: (18, 3, 9)}.items():
        parts = own_images._divide("flowers", chosen, [f"class{i}" for i in range(classes)])
        assert tuple(map(len, parts)) == expected


def test_every_class_gives_as_many_images_as_the_smallest_or_as_said(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, FLAT | {"class3": 9, "class7": 6})
    assert read("flowers", settings_of(folder), 2, "x").drawings == 4
    chosen = read("flowers", settings_of(folder, per_class=3), 2, "x")
    assert chosen.drawings == 3
    taken = chosen.images[3, :, 1, 0, 0].tolist()
    assert len(set(taken)) == 3
    assert taken == read("flowers", settings_of(folder, per_class=3), 2, "x").images[3, :, 1, 0, 0].tolist()
    refused(r"own_images\.flowers\.per_class = 5: class class0 has 4 images", folder, per_class=5)


def test_a_class_with_too_few_images_is_refused_by_name(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, FLAT | {"tulip": 1})
    refused(r"own_images\.flowers: class tulip has 1 images, and 5w1s1q needs 2 of each class", folder)


@pytest.mark.parametrize("place", range(9))
def test_a_broken_image_is_refused_though_the_seed_does_not_draw_it(tmp_path: Path, place: int) -> None:
    folder = folder_of(tmp_path, FLAT | {"class3": 9})
    path = folder / "class3" / f"{place:03}.png"
    path.write_bytes(path.read_bytes()[:50])  # the header is whole
    refused(rf"class3/{path.name}: not a readable image", folder)
    refused(rf"class3/{path.name}: not a readable image", folder, per_class=2)
    path.unlink()
    assert read("flowers", settings_of(folder), 2, "x").drawings == 4
    path.with_suffix(".txt").write_text("no image")
    refused(rf"class3/{path.stem}\.txt: not an image", folder)


def test_what_is_no_image_is_refused_by_name(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, FLAT)
    (folder / "class4" / ".DS_Store").write_text("left by a file manager")
    (folder / "class4" / "Thumbs.db").write_text("left by another")
    assert read("flowers", settings_of(folder), 2, "x").drawings == 4
    (folder / "class4" / "002.png").write_bytes((folder / "class4" / "002.png").read_bytes()[:50])
    refused(r"class4/002\.png: not a readable image", folder)
    (folder / "class4" / "002.png").unlink()
    (folder / "class4" / "002.txt").write_text("no image")
    refused(r"class4/002\.txt: not an image", folder)


def test_a_folder_of_another_form_is_refused(tmp_path: Path) -> None:
    refused(r"own_images\.flowers\.folder = .*nowhere: no such folder", tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    refused("holds no class folder", tmp_path / "empty")
    folder = folder_of(tmp_path / "a", FLAT)
    (folder / "class5" / "deeper").mkdir()
    refused(r"class5/000\.png lies beside folders", folder)
    shutil.rmtree(folder / "class5" / "deeper")
    (folder / "stray.jpg").write_text("")
    refused(r"stray\.jpg lies beside folders", folder)
    (folder / "stray.jpg").rename(folder / "README.txt")
    (folder / "nothing").mkdir()
    refused(r"nothing holds no image", folder)
    refused("some of its folders hold images", folder_of(tmp_path / "b", {"one": 2, "group/two": 2, "group/three": 2}))
    refused("holds folders; there may be one level", folder_of(tmp_path / "c", {"a/b/c": 2, "a/b/d": 2}))


@pytest.mark.parametrize("name", [b"caf\xe9", b"\x1b[31mred"])
def test_a_name_that_cannot_be_written_is_refused(tmp_path: Path, name: bytes) -> None:
    (tmp_path / os.fsdecode(name)).mkdir()
    with pytest.raises(UserError, match="which is no name that can be written: rename it") as refused:
        read("flowers", OwnImages(folder=str(tmp_path)), 2, "5w1s")
    assert str(refused.value).isascii()


def test_two_classes_of_one_name_are_refused(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "a", FLAT | {"Class3": 4})
    if len(list(folder.iterdir())) == 10:
        pytest.skip("this file system does not tell cases apart")
    refused("Class3 and class3 are two classes of one name", folder)
    same_name_in_other_groups = folder_of(tmp_path / "b", {f"{group}/rose": 2 for group in "abcdef"})
    assert len(read("flowers", settings_of(same_name_in_other_groups), 2, "x").names) == 6


def test_parts_that_cannot_be_are_refused(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, FLAT)
    refused(r"own_images\.flowers\.test: daisy is no class", folder, test=["daisy"])
    refused(r"own_images\.flowers\.test: an empty list", folder, test=[])
    refused("class1 is both in test and in validation", folder, test=["class1"], validation=["class1"])
    refused("in no groups", folder, by="group")
    each = r"own_images\.flowers: of its 10 classes {} would be for {}, and training, validation and test need at least"
    two = ["class0", "class1"]
    refused(each.format(0, "training") + ".* fewer by", folder, test=sorted(FLAT)[2:], validation=two)
    more = each.format(1, "validation") + r".* take more by own_images\.flowers\.validation"
    refused(more, folder, test=two, validation=["class2"])
    refused(each.format(1, "test"), folder, test=["class2"], validation=two)
    single = folder_of(tmp_path / "b", {"a/one": 2} | {f"{group}/{name}": 2 for group in "bc" for name in "xyz"})
    refused("of its 7 classes 1 would be for validation", single, by="group", test=["b"], validation=["a"])
    refused("0 would be for training", folder_of(tmp_path / "c", dict.fromkeys("abcd", 2)))


# --- photographs of every kind ------------------------------------------------------------------------------------


def photograph(size: tuple[int, int]) -> Image.Image:
    """Red left of the middle, blue right of it; the upper half brighter."""
    width, height = size
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[:, : width // 2, 0] = 200
    pixels[:, width // 2 :, 2] = 200
    pixels[: height // 2] += 40
    return Image.fromarray(pixels)


@pytest.mark.parametrize("size", [(640, 480), (480, 640), (1000, 90), (17, 33), (8, 8), (2000, 2000)])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF"])
def test_a_photograph_of_any_shape_gives_its_middle_square(tmp_path: Path, size: tuple[int, int], kind: str) -> None:
    path = tmp_path / f"x.{kind.lower()}"
    photograph(size).save(path, kind)
    pixels = image(path, 16, colour=True)
    assert pixels.shape == (3, 16, 16)
    assert pixels.dtype == np.uint8
    red, blue = pixels[0].astype(int), pixels[2].astype(int)
    assert (red[:, :5] > blue[:, :5] + 80).all()
    assert (blue[:, -5:] > red[:, -5:] + 80).all()
    assert pixels[:, 2].mean() > pixels[:, -3].mean() + 20
    grey = image(path, 16, colour=False)
    assert grey.shape == (1, 16, 16)


def test_modes(tmp_path: Path) -> None:
    picture = photograph((64, 48))
    for mode in ("L", "LA", "P", "RGBA", "1"):
        picture.convert(mode).save(tmp_path / f"{mode}.png")
    picture.convert("CMYK").save(tmp_path / "CMYK.jpg", quality=95)
    Image.fromarray(np.full((40, 60), 40_000, np.uint16)).save(tmp_path / "16bit.png")
    for path in sorted(tmp_path.iterdir()):
        assert image(path, 8, colour=True).shape == (3, 8, 8)
        assert image(path, 8, colour=False).shape == (1, 8, 8)
    red, _, blue = image(tmp_path / "CMYK.jpg", 8, colour=True).astype(int)
    assert (red[:, :2] > blue[:, :2] + 80).all()
    assert (image(tmp_path / "16bit.png", 8, colour=False) == 40_000 >> 8).all()


def test_the_right_way_up_and_white_where_transparent(tmp_path: Path) -> None:
    upright = photograph((64, 64))
    turned = upright.transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera says: turn me a quarter clockwise
    turned.save(tmp_path / "turned.jpg", exif=exif, quality=95)
    upright.save(tmp_path / "upright.jpg", quality=95)
    one, other = (image(tmp_path / f"{name}.jpg", 16, True).astype(int) for name in ("turned", "upright"))
    assert abs(one - other).mean() < 4
    clear = Image.new("RGBA", (20, 20), (0, 0, 0, 0))
    clear.save(tmp_path / "clear.png")
    assert (image(tmp_path / "clear.png", 8, True) == 255).all()


@pytest.mark.parametrize("kind", ["JPEG", "WEBP"])
def test_a_photograph_whose_camera_data_are_damaged_is_refused_by_name(tmp_path: Path, kind: str) -> None:
    exif = Image.Exif()
    exif[0x010F], exif[0x0112] = "maker", 6
    path = tmp_path / f"x.{kind.lower()}"
    photograph((20, 20)).save(path, kind, exif=exif)
    content = path.read_bytes()
    assert content.count(b"\x01\x0f\0\2") == 1
    path.write_bytes(content.replace(b"\x01\x0f\0\2", b"\x01\x01\0\2"))  # a height that is text: struct.error
    with pytest.raises(UserError, match=rf"{path.name}: not a readable image \(.*; mend it or take it out"):
        image(path, 8, colour=True)


def test_an_image_that_takes_all_memory_is_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fit(*_: object) -> None:
        raise MemoryError

    photograph((20, 20)).save(tmp_path / "x.png")
    monkeypatch.setattr(own_images.ImageOps, "fit", fit)
    with pytest.raises(UserError, match=r"x\.png: not a readable image \(MemoryError\)"):
        image(tmp_path / "x.png", 8, colour=True)
