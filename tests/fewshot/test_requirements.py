"""Too few images or classes are said once, for all tests and trainings together, before any of them."""

from pathlib import Path

import pytest
import yaml

from fewlabel import params
from fewlabel.data.own_images import Listing
from fewlabel.errors import UserError
from fewlabel.fewshot import requirements
from tests.conftest import ROOT


def checked(images: int, classes: tuple[int, int, int] = (20, 20, 20), **own: object) -> str:
    """What is said of a data set with so many images of each class and training, validation and test classes."""
    text = (ROOT / "params.yaml").read_text()
    entry = {"folder": "/x", "tasks": ["5w1s", "5w5s", "all-5s"], **own}
    text = text.replace("\nown_images: {}", f"\nown_images:\n  flowers: {entry}").replace("[lake]", "[flowers]")
    all_params = params.parse(yaml.safe_load(text))
    parts = [[f"{part}{i}" for i in range(count)] for part, count in zip("abc", classes, strict=True)]
    files = dict.fromkeys([name for part in parts for name in part], [Path()] * images)
    settings = all_params.own_images["flowers"]
    try:
        requirements.check(all_params, Listing("flowers", settings, files, settings.per_class or images, *parts))
    except UserError as error:
        return str(error)
    return ""


def test_enough() -> None:
    assert checked(20, (5, 5, 5)) == ""


def test_too_few_images_for_all_that_takes_more() -> None:
    text = checked(5)
    assert text.startswith("own_images.flowers: class a0 has 5 images, and ")
    for each in (
        "test task 5w1s takes 16",
        "test task all-5s takes 20",
        "reptile for 5w1s takes 10",
        "maml for 5w5s takes 10",
    ):
        assert each in text
    assert "siamese" not in text  # it takes 3
    assert "tasks that take less, such as [2w1s4q]" in text
    assert "own_images.flowers.per_class is 5" in checked(9, per_class=5)


def test_a_class_of_one_image_gets_no_hint_that_needs_more() -> None:
    text = checked(1)
    assert "class a0 has 1 image, and" in text
    assert "such as" not in text


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ((20, 20, 3), "there are 3 test classes, and test task 5w1s takes 5, test task 5w5s takes 5"),
        ((20, 4, 20), "there are 4 validation classes, and maml for 5w1s takes 5"),
        ((2, 20, 20), "there are 2 training classes, and maml for 5w1s takes 5"),
    ],
)
def test_too_few_classes(classes: tuple[int, int, int], message: str) -> None:
    assert message in checked(20, classes)
    assert "training classes" not in checked(20, classes, rotations=True)  # four times as many
