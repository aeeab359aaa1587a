"""Reading archives and prepared files: golden values on tiny ones, counts and digests on the real ones."""

import io
import itertools
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from fewlabel.data import cifar10, hymenoptera, omniglot, prepared, standins
from fewlabel.data.sources import SOURCES
from fewlabel.errors import DamagedFile, UserError
from tests.data.test_archives import make_tar, make_zip


def png(image: Image.Image, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


def omniglot_folder(folder: Path, drawing: bytes, drawings: int = 20) -> Path:
    for root, alphabet in (("images_background", "Latin"), ("images_evaluation", "Runes")):
        names = [f"{root}/{alphabet}/character01/0001_{number + 1:02}.png" for number in range(drawings)]
        make_zip(folder / f"{root}.zip", dict.fromkeys(names, drawing))
    for name, text in (("train", "Latin/character01/rot000\n"), ("val", "Latin/character01/rot090\n")):
        (folder / f"{name}.txt").write_text(text)
    (folder / "test.txt").write_text("Runes/character01/rot270\nRunes/character01/rot180\n")
    make_zip(folder / "all_runs.zip", runs(drawing))
    return folder


def runs(drawing: bytes) -> dict[str, bytes]:
    """Lake's layout: test drawing 1 of each run is of the last class, and so on backwards; only class 20 has ink."""
    files = {}
    for run in (f"run{number:02}" for number in range(1, 21)):
        items, classes = ([f"{run}/{kind}{number:02}.png" for number in range(1, 21)] for kind in KINDS)
        pairs = zip(items, reversed(classes), strict=True)
        files[f"{run}/class_labels.txt"] = "".join(f"{item} {label}\n" for item, label in pairs).encode()
        files |= dict.fromkeys(items + classes, png(Image.new("1", (105, 105), 1)))
        files[items[0]] = files[classes[-1]] = drawing
    return files


KINDS = ("test/item", "training/class")


def corner() -> Image.Image:
    """A black square in the top left corner of a white page."""
    image = Image.new("1", (105, 105), 1)
    ImageDraw.Draw(image).rectangle((0, 0, 51, 51), fill=0)
    return image


def test_omniglot_ink_is_255_and_upright(tmp_path: Path) -> None:
    arrays = omniglot.pack(omniglot_folder(tmp_path, png(corner())), "embedded")
    images = arrays["images"]
    assert images.shape == (2, 20, 28, 28)
    assert (images[0, 0, :10, :10] == 255).all()
    assert (images[0, 0, 16:] == 0).all()
    assert (images[0, 0, :, 16:] == 0).all()
    assert arrays["names"].tolist() == ["Latin/character01", "Runes/character01"]
    assert arrays["background"].tolist() == [True, False]
    assert arrays["vinyals_val"].tolist() == [[0, 1]]
    assert arrays["vinyals_test"].tolist() == [[1, 3], [1, 2]]


def test_lakes_runs_pair_each_test_drawing_with_its_class(tmp_path: Path) -> None:
    arrays = omniglot.pack(omniglot_folder(tmp_path, png(corner())), "embedded")
    assert arrays["runs_answer"].tolist() == [list(range(19, -1, -1))] * 20
    for name, place in (("runs_support", 19), ("runs_query", 0)):
        assert arrays[name].shape == (20, 20, 28, 28)
        assert (arrays[name].max((0, 2, 3)) > 0).tolist() == [number == place for number in range(20)]
    files = runs(png(corner()))
    for name, content in (("run20/test/item03.png", None), ("run07/class_labels.txt", b"item01.png class01.png\n")):
        changed = {key: value for key, value in files.items() if key != name} | ({name: content} if content else {})
        make_zip(tmp_path / "all_runs.zip", changed)
        with pytest.raises(UserError, match=r"all_runs\.zip"):
            omniglot.pack(tmp_path, "embedded")


def test_rot090_of_the_lists_is_one_quarter_turn_of_numpy() -> None:
    page = np.asarray(corner().convert("L"))
    assert (np.asarray(corner().convert("L").rotate(90)) == np.rot90(page)).all()


def test_omniglot_refuses_what_it_does_not_know(tmp_path: Path) -> None:
    omniglot_folder(tmp_path, png(corner()), drawings=19)
    with pytest.raises(UserError, match="19 drawings"):
        omniglot.pack(tmp_path, "embedded")
    omniglot_folder(tmp_path, b"no png")
    with pytest.raises(UserError, match=r"images_background\.zip: images_background/Latin/character01/0001_01\.png"):
        omniglot.pack(tmp_path, "embedded")
    omniglot_folder(tmp_path, png(Image.new("1", (28, 28))))
    with pytest.raises(UserError, match="105"):
        omniglot.pack(tmp_path, "embedded")
    omniglot_folder(tmp_path, png(corner()))
    with pytest.raises(UserError, match="964"):
        omniglot.pack(tmp_path, "archive")
    (tmp_path / "val.txt").write_text("Elvish/character01/rot000\n")
    with pytest.raises(UserError, match=r"val\.txt, line 1"):
        omniglot.pack(tmp_path, "embedded")


def cifar_files(label: int = 3) -> dict[str, bytes]:
    record = bytes([label]) + bytes([10] * 1024) + bytes([20] * 1024) + bytes(range(256)) * 4
    return dict.fromkeys((*cifar10.TRAIN_FILES, cifar10.TEST_FILE), record * 2)


@pytest.mark.parametrize(("name", "mode"), [("cifar-10-binary.tar.gz", "w:gz"), ("cifar-10-binary.tar.xz", "w:xz")])
def test_cifar10_planes_rows_and_labels(tmp_path: Path, name: str, mode: str) -> None:
    make_tar(tmp_path / name, cifar_files() | {"cifar-10-batches-bin/readme.html": b"x"}, mode)
    arrays = cifar10.pack(tmp_path, "embedded")
    assert arrays["train_images"].shape == (10, 3, 32, 32)
    assert arrays["test_labels"].tolist() == [3, 3]
    image = arrays["test_images"][1]
    assert (image[0] == 10).all()
    assert (image[1] == 20).all()
    assert image[2, 1, :3].tolist() == [32, 33, 34]  # the second row starts after 32 pixels


def test_cifar10_refuses_what_it_does_not_know(tmp_path: Path) -> None:
    path = tmp_path / "cifar-10-binary.tar.gz"
    with pytest.raises(UserError, match=r"cifar-10-binary\.tar\.gz"):
        cifar10.pack(tmp_path, "embedded")
    for files, message in (
        (cifar_files(label=10), "label above 9"),
        (cifar_files() | {cifar10.TEST_FILE: b"123"}, "3073"),
        ({cifar10.TEST_FILE: cifar_files()[cifar10.TEST_FILE]}, "data_batch_1"),
    ):
        make_tar(path, files, "w:gz")
        with pytest.raises(UserError, match=message):
            cifar10.pack(tmp_path, "embedded")
    make_tar(path, cifar_files(), "w:gz")
    with pytest.raises(UserError, match="10,000"):
        cifar10.pack(tmp_path, "archive")


def photographs(**more: bytes) -> dict[str, bytes]:
    wide = Image.new("RGB", (600, 300), (0, 0, 255))
    ImageDraw.Draw(wide).rectangle((150, 0, 449, 299), fill=(255, 0, 0))  # all that a centre crop keeps
    kinds = {
        "train/ants/grey.jpg": png(Image.new("L", (50, 80), 100), "JPEG"),
        "train/bees/cmyk.jpg": png(Image.new("CMYK", (300, 300)), "JPEG"),
        "val/ants/wide.png": png(wide),
        "val/bees/alpha.png": png(Image.new("RGBA", (300, 300), (1, 2, 3, 0))),
        "val/bees/dot.jpg": png(Image.new("RGB", (1, 1), (7, 7, 7)), "JPEG"),
        "train/ants/imageNotFound.gif": b"never read",
    }
    return {f"hymenoptera_data/{name}": data for name, data in (kinds | more).items()}


def test_hymenoptera_modes_crop_and_order(tmp_path: Path) -> None:
    make_zip(tmp_path / "hymenoptera_data.zip", photographs())
    arrays = hymenoptera.pack(tmp_path, "embedded")
    expected = ["train/ants/grey.jpg", "train/bees/cmyk.jpg", "val/ants/wide.png", "val/bees/alpha.png"]
    expected.append("val/bees/dot.jpg")
    assert arrays["names"].tolist() == expected
    assert arrays["labels"].tolist() == [0, 1, 0, 1, 1]
    assert arrays["is_train"].tolist() == [True, True, False, False, False]
    assert arrays["images"].shape == (5, 3, 256, 256)
    assert (arrays["images"][0] == 100).all()
    assert (arrays["images"][1] == 255).all()  # no ink of any colour
    assert (arrays["images"][3] == 255).all()  # what is transparent shows white, not the colour hidden beneath
    assert (arrays["images"][4] == 7).all()
    assert arrays["images"][2, :, 128, [5, 128, 250]].tolist() == [[255, 0, 0]] * 3
    with pytest.raises(UserError, match="244"):
        hymenoptera.pack(tmp_path, "archive")


def test_hymenoptera_names_a_corrupt_photograph(tmp_path: Path) -> None:
    whole = png(Image.effect_noise((300, 300), 50), "JPEG")
    make_zip(tmp_path / "hymenoptera_data.zip", photographs(**{"val/bees/half.jpg": whole[: len(whole) // 2]}))
    with pytest.raises(UserError, match=r"val/bees/half\.jpg") as error:
        hymenoptera.pack(tmp_path, "embedded")
    assert "\n" not in str(error.value)


def test_a_damaged_prepared_file_says_what_to_do(tmp_path: Path) -> None:
    standins.DRAW["hymenoptera"](tmp_path)
    arrays = hymenoptera.pack(tmp_path, "embedded")
    path = tmp_path / "hymenoptera.npz"
    prepared.write(path, arrays)
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 3] ^= 0xFF
    for damaged in (b"", b"hello", whole[: len(whole) // 2], bytes(flipped)):
        path.write_bytes(damaged)
        with pytest.raises(DamagedFile, match="damaged") as error:
            hymenoptera.load(path)
        assert "\n" not in str(error.value)
    for change in (
        {"labels": arrays["labels"].astype(np.int64)},
        {"images": arrays["images"][:, :, :100]},
        {"labels": arrays["labels"][:-1]},
        {"origin": np.array("elsewhere")},
        {"names": np.array([{}], dtype=object)},
    ):
        with path.open("wb") as file:
            np.savez(file, **(arrays | change))
        with pytest.raises(DamagedFile, match="damaged"):
            hymenoptera.load(path)


@pytest.mark.mirror
def test_the_real_archives(mirror: Path, tmp_path: Path) -> None:
    for source in itertools.chain(*SOURCES.values()):
        found = [mirror / source.folder / name for name in (source.name, *source.also)]
        path = next(path for path in found if path.exists())
        source.verify(path)
        (tmp_path / path.name).symlink_to(path)
    characters = omniglot.pack(tmp_path, "archive")  # which checks 964 + 659 characters of 20 drawings
    assert len({name.split("/")[0] for name in characters["names"].tolist()}) == 50
    lists = [characters[f"vinyals_{name}"] for name in omniglot.LISTS]  # of (character, turns)
    assert list(map(len, lists)) == [4112, 688, 1692]
    kinds = [set(each[:, 0].tolist()) for each in lists]
    assert list(map(len, kinds)) == [1028, 172, 423]
    assert len(set.union(*kinds)) == 1623  # no character is in two of them, however turned
    evaluation = {drawing.tobytes() for drawing in characters["images"][~characters["background"]].reshape(-1, 28, 28)}
    for name in ("runs_support", "runs_query"):
        assert {drawing.tobytes() for drawing in characters[name].reshape(-1, 28, 28)} <= evaluation
    assert 10 < characters["images"].mean() < 40  # ink is bright and little of the page
    insects = hymenoptera.pack(tmp_path, "archive")  # which checks 244 + 153 photographs
    assert np.bincount(insects["labels"][insects["is_train"]]).tolist() == [123, 121]
    assert np.bincount(insects["labels"][~insects["is_train"]]).tolist() == [70, 83]


@pytest.mark.mirror
def test_a_member_name_outside_the_archive_never_reaches_the_disk(mirror: Path, tmp_path: Path) -> None:
    """The real archive with one hostile member more."""
    path = tmp_path / "hymenoptera_data.zip"
    path.write_bytes((mirror / path.name).read_bytes())
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("../../escaped.jpg", b"x")
    with pytest.raises(UserError, match="leads outside"):
        SOURCES["hymenoptera"][0].verify(path)
