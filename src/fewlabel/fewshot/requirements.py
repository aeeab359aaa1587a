"""A check, before any work, that a user's own images are enough for all tests and trainings in params.yaml."""

from __future__ import annotations

from dataclasses import dataclass

from fewlabel.data.own_images import Listing
from fewlabel.errors import UserError
from fewlabel.params import Params, Task, Training, parse_task


@dataclass(frozen=True)
class Requirement:
    """What a test task or a training needs.

    Attributes:
        name: of the task or the training, for the message.
        images: of each class.
        train, validation, test: classes.
    """

    name: str
    images: int
    train: int = 0
    validation: int = 0
    test: int = 0


def check(params: Params, listing: Listing) -> None:
    """Raise one `UserError` that names all test tasks and trainings for which the images or classes are too few."""
    own = f"own_images.{listing.name}"
    wanted = requirements(params, listing.name)
    lacking = [f"{each.name} takes {each.images}" for each in wanted if each.images > listing.per_class]
    shortages = []
    if lacking:
        has = (
            f"class {listing.smallest} has {listing.per_class} image{'s' * (listing.per_class > 1)}"
            if listing.per_class == len(listing.files[listing.smallest])
            else f"{own}.per_class is {listing.per_class}"
        )
        shortages.append(f"{has}, and {', '.join(lacking)}")
    for part, kinds in (("training", "train"), ("validation", "validation"), ("test", "test")):
        there = len(getattr(listing, kinds)) * (4 if listing.settings.rotations and kinds == "train" else 1)
        lacking = [f"{each.name} takes {n}" for each in wanted if (n := getattr(each, kinds)) > there]
        if lacking:
            shortages.append(f"there are {there} {part} classes, and {', '.join(lacking)}")
    if shortages:
        fewer = f", or write {own}.tasks that take less, such as [2w1s{min(listing.per_class - 1, 15)}q]"
        raise UserError(
            f"{own}: {'; '.join(shortages)}: add images or classes, or take a small class out of the folder"
            f"{fewer if listing.per_class > 1 else ''}"
        )


def requirements(params: Params, split: str) -> list[Requirement]:
    """What the split's test tasks need and, if ``cells`` names the split, its trainings."""
    found = []
    for name in params.test_tasks(split):
        task = Task.parse(name)
        images = task.shot + (task.queries or params.episodes.queries)
        found.append(Requirement(f"test task {name}", images, test=task.way or 0))
    if split not in params.cells.splits:
        return found
    found += [  # these methods train on all classes where there are fewer than they ask for
        Requirement(method, _training_images(getattr(params, method), shot=1)) for method in params.cells.metric_methods
    ]
    for gradient_method in params.cells.gradient_methods:
        for name in params.cells.tasks:
            way, shot = parse_task(name)
            trained_on = _training_images(getattr(params, gradient_method), shot)
            images = max(trained_on, shot + 1)  # validation takes one query at least
            found.append(Requirement(f"{gradient_method} for {name}", images, train=way, validation=way))
    return found


def _training_images(settings: Training, shot: int) -> int:
    """Images of a class in a training episode, from the fields in the method's section."""
    sizes = settings.model_dump()
    for field in ("drawings", "train_shots"):
        if field in sizes:
            return int(sizes[field])
    return int(sizes.get("shot", shot)) + int(sizes["queries"])
