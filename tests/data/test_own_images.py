"""A person's own images: any folder of class folders becomes a data set, or one line says why not."""

import os
import subprocess
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from fewlabel.data import own_images
from fewlabel.data.few_shot import FewShotData
from fewlabel.errors import UserError
from fewlabel.params import OwnImages


def folder_of(folder: Path, classes: dict[str, int], size: int = 12) -> Path:
    """A PNG of a colour of its own for each image: class number in red, image number in green."""
    for number, (name, count) in enumerate(classes.items()):
        (folder / name).mkdir(parents=True)
        for i in range(count):
            Image.new("RGB", (size, size), (number, i, 200)).save(folder / name / f"{i:03}.png")
    return folder


def read(folder: Path, **changes: object) -> FewShotData:
    settings = OwnImages(**{"folder": str(folder), "size": 16, "colour": True} | changes)
    return own_images.read(own_images.scan("flowers", settings))


def refused(folder: Path, *words: str, **changes: object) -> None:
    """The folder is refused in one line with these words."""
    with pytest.raises(UserError) as refusal:
        read(folder, **changes)
    text = str(refusal.value)
    assert "\n" not in text
    assert [word for word in words if word not in text] == [], text


FLAT = {f"class{i}": 4 for i in range(10)}
GROUPED = {f"group{i}/class{j}": 4 for i in range(5) for j in range(3)}


def test_a_flat_folder(tmp_path: Path) -> None:
    data = read(folder_of(tmp_path, FLAT), rotations=True)
    assert data.images.shape == (10, 4, 3, 16, 16)
    assert data.names.tolist() == sorted(FLAT)
    assert data.origin == "own"
    assert (len(data.train), len(data.validation), len(data.test)) == (4 * 5, 2, 3)
    for number in range(10):  # in order, and none twice
        assert (data.images[number, :, 0] == number).all()
        assert data.images[number, :, 1, 0, 0].tolist() == [0, 1, 2, 3]


def test_a_grouped_folder_divided_by_group(tmp_path: Path) -> None:
    data = read(folder_of(tmp_path, GROUPED), by="group", test=0.4, validation=0.2)
    groups = [
        {data.names[kind].split("/")[0] for kind in part[:, 0]} for part in (data.train, data.validation, data.test)
    ]
    assert [len(part) for part in groups] == [2, 1, 2]
    assert len(set.union(*groups)) == 5


def test_lists_of_names_are_taken_as_they_are(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, GROUPED)
    test, validation = ["group1/class2", "group0/class0"], ["group4/class1", "group1/class1"]
    data = read(folder, test=test, validation=validation)
    assert data.names[data.test[:, 0]].tolist() == sorted(test)
    assert data.names[data.validation[:, 0]].tolist() == sorted(validation)
    assert len(data.train) == 11
    data = read(folder, by="group", test=["group3"], validation=0.25)
    assert data.names[data.test[:, 0]].tolist() == [f"group3/class{i}" for i in range(3)]
    assert (len(data.train), len(data.validation)) == (9, 3)


@given(
    groups=st.integers(0, 6), each=st.integers(2, 15), test=st.floats(0.01, 0.6), validation=st.floats(0.01, 0.39),
    by_group=st.booleans(), seed=st.integers(0, 99),
)  # fmt: skip
@settings(max_examples=100, deadline=None)
def test_no_class_is_in_two_parts_and_each_has_two(
    groups: int, each: int, test: float, validation: float, by_group: bool, seed: int
) -> None:
    names = [f"g{i}/c{j:02}" for i in range(groups) for j in range(each)] or [f"c{j:02}" for j in range(each)]
    chosen = OwnImages(folder="x", by="group" if by_group else "class", test=test, validation=validation, seed=seed)
    if len(names) < 6 or (by_group and groups < 3):
        with pytest.raises(UserError, match=r"need (at least )?2 each|in no groups"):
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
    assert read(folder).drawings == 4
    chosen = read(folder, per_class=3)
    assert chosen.drawings == 3
    taken = chosen.images[3, :, 1, 0, 0].tolist()
    assert taken == sorted(set(taken))
    assert taken == read(folder, per_class=3).images[3, :, 1, 0, 0].tolist()
    refused(folder, "own_images.flowers.per_class = 5: class class0 has 4 images", per_class=5)


def test_memory_follows_the_images_that_are_used(tmp_path: Path) -> None:
    listing = own_images.scan("flowers", OwnImages(folder=str(folder_of(tmp_path, FLAT | {"class3": 60})), size=224))
    tracemalloc.start()
    data = own_images.read(listing)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert data.images.nbytes < peak < data.images.nbytes + 12 * 224**2  # class3 alone has 60 * 224**2


def test_all_files_that_cannot_be_read_are_in_one_report(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, FLAT | {"class3": 9})
    whole = (folder / "class3/000.png").read_bytes()
    for i in range(9):  # whichever of them the seed draws
        (folder / f"class3/{i:03}.png").write_bytes(whole[:50])  # the header is whole
    (folder / "class4/note.txt").write_text("no image")
    (folder / "class5/photo.heic").write_bytes(b"\0\0\0 ftypheic" + bytes(100))
    formats = "convert them to BMP, GIF, JPEG, PNG, TIFF, WEBP"
    refused(folder, "11 files that cannot be read", formats, "class3/008.png (", "class4/note.txt (", "; and 1 more")
    refused(folder, "11 files", "class3/008.png", per_class=2)


def test_what_systems_leave_in_folders_is_passed_over(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, FLAT)
    for name in ("__MACOSX/class1", "@eaDir", "$RECYCLE.BIN", "class2/@eaDir", ".Trash-1000/files"):
        (folder / name).mkdir(parents=True)
        (folder / name / "x.png").touch()
    for name in (".DS_Store", "Thumbs.db", "class1/desktop.ini", "class1/._000.png"):
        (folder / name).touch()
    assert read(folder).names.tolist() == sorted(FLAT)


def test_a_folder_of_another_form_is_refused(tmp_path: Path) -> None:
    refused(tmp_path / "nowhere", "own_images.flowers.folder = ", "nowhere: no such folder")
    (tmp_path / "flowers.zip").touch()
    refused(tmp_path / "flowers.zip", "a file, not a folder; unpack it first")
    refused(Path("flowers"), "folder = flowers: write the absolute path")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "holds no class folder")
    folder = folder_of(tmp_path / "a", {f"class{i}": 2 for i in range(5)})
    refused(folder, "has 5 classes, and training, validation and test need 2 each: add classes")
    (folder / "class4" / "deeper").mkdir()
    (folder / "stray.jpg").touch()
    (folder / "README.txt").touch()
    (folder / "nothing").mkdir()
    refused(folder, "class4/000.png lies beside folders", "stray.jpg lies beside folders", "nothing holds no image")
    mixed = folder_of(tmp_path / "b", {"one": 2, "group/two": 2, "group/three": 2})
    refused(mixed, "/one holds no folder and others do")
    refused(folder_of(tmp_path / "c", {"a/b/c": 2, "a/b/d": 2}), "a/b holds folders; there may be one level")


def test_linked_folders_are_refused_by_name_and_linked_files_are_read(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "a", FLAT)
    (folder / "class1/004.png").symlink_to(folder / "class2/000.png")
    assert read(folder).drawings == 4
    (folder / "class10").symlink_to(folder_of(tmp_path / "b", {"x": 4}) / "x")
    refused(folder, "class10 is a link")


def test_a_folder_that_is_divided_already_is_refused(tmp_path: Path) -> None:
    classes = [f"class{i}" for i in range(6)]
    folder = folder_of(tmp_path / "a", {f"{part}/{name}": 2 for part in ("Train", "val") for name in classes})
    refused(folder, "divided into Train, val, which hold the same classes", f"folder: {folder}/Train")
    assert len(read(folder / "Train").names) == 6
    groups = folder_of(tmp_path / "b", {f"{group}/{name}": 2 for group in ("train", "tram") for name in classes})
    assert len(read(groups).names) == 12  # groups may share names
    parts = folder_of(tmp_path / "c", {f"{part}/{part}{i}": 2 for part in ("train", "val", "test") for i in range(2)})
    assert len(read(parts, by="group", test=["test"], validation=["val"]).test) == 2  # divided by class, as it must be


def test_images_in_the_checkout_must_be_ignored_by_git(tmp_path: Path, monkeypatch) -> None:
    subprocess.run(["git", "init", "--quiet", tmp_path], check=True)
    folder = folder_of(tmp_path / "data/flowers", FLAT)
    (tmp_path / ".dvc/tmp/exps/x").mkdir(parents=True)
    for place, root in ((tmp_path, ""), (tmp_path / ".dvc/tmp/exps/x", str(tmp_path))):  # the second: exp run --temp
        monkeypatch.chdir(place)
        monkeypatch.setenv("DVC_ROOT", root) if root else monkeypatch.delenv("DVC_ROOT", raising=False)
        (tmp_path / "data/.gitignore").unlink(missing_ok=True)
        refused(folder, "lies in the checkout", "dvc add")
        (tmp_path / "data/.gitignore").write_text("/flowers\n")  # as `dvc add` does
        assert len(read(folder).names) == 10


@pytest.mark.parametrize("name", [b"caf\xe9", b"\x1b[31mred"])
def test_a_name_that_cannot_be_written_is_refused(tmp_path: Path, name: bytes) -> None:
    folder_of(tmp_path, FLAT)
    (tmp_path / os.fsdecode(name)).mkdir()
    with pytest.raises(UserError, match="has a name that cannot be written: rename it") as refused:
        read(tmp_path)
    assert str(refused.value).isascii()


def test_two_classes_of_one_name_are_refused(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, FLAT | {"Class3": 4})
    if len(list(folder.iterdir())) == 10:
        pytest.skip("this file system does not tell cases apart")
    refused(folder, "Class3 and class3 are two classes of one name")


def test_parts_that_cannot_be_are_refused(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, FLAT)
    refused(folder, "own_images.flowers.test: daisy is no class", test=["daisy"])
    refused(folder, "own_images.flowers.test: an empty list", test=[])
    refused(folder, "class1 is both in test and in validation", test=["class1"], validation=["class1"])
    refused(folder, "in no groups", by="group")
    two = ["class0", "class1"]
    refused(folder, "of its 10 classes 0 would be for training", "fewer by", test=sorted(FLAT)[2:], validation=two)
    more = "take more by own_images.flowers.validation"
    refused(folder, "of its 10 classes 1 would be for validation", more, test=two, validation=["class2"])
    refused(folder, "of its 10 classes 1 would be for test", test=["class2"], validation=two)
