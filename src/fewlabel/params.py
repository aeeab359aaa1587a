"""Typed, strict models of params.yaml: a mistyped key or a value out of range is refused before any work starts.

Any value may be a mapping over budgets, ``{smoke: 20, cpu: 1500, gpu: 60000}``: `load` takes the entry of the chosen
``budget`` before the models see it. night and gpu take the entry of cpu where the mapping names none for them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, get_args

from pydantic import Field, model_validator

from fewlabel import strict
from fewlabel.errors import UserError
from fewlabel.grammar import LabelsAndSeed, Task, TestTask, TrainingTask, parse_label_cell, parse_task, seed
from fewlabel.strict import Section, Some, short

__all__ = ["Task", "parse_label_cell", "parse_task", "seed"]  # beside what is defined here
Budget = Literal["smoke", "cpu", "night", "gpu"]
BUDGETS: tuple[str, ...] = get_args(Budget)  # from the smallest
OMNIGLOT_SPLITS = ("lake", "vinyals")
DRAWINGS_PER_CLASS = 20  # Omniglot: every character was drawn by 20 people

Count = Annotated[int, Field(ge=1, le=10_000_000)]
Classes = Annotated[int, Field(ge=2, le=4096)]
Drawings = Annotated[int, Field(ge=1, le=DRAWINGS_PER_CLASS)]
Pixels = Annotated[int, Field(ge=32, le=1024)]
Shift = Annotated[int, Field(ge=0, le=16)]
Epochs = Annotated[float, Field(gt=0, le=100_000, allow_inf_nan=False)]
Rate = Annotated[float, Field(gt=0, le=100, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, le=1)]
PositiveFraction = Annotated[float, Field(gt=0, le=1)]
Seed = Annotated[int, Field(ge=0, lt=2**31)]
Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,39}$")]
FileName = Annotated[str, Field(max_length=511)]  # of a class, perhaps in a group
PretrainMethod = Literal["rotation", "emp_ssl"]
TransferStart = Literal["scratch", "finetune", "frozen", "small-scratch", "small-rotation"]


class Cells(Section):
    """The values that the matrices of dvc.yaml combine. Read by dvc.yaml and by the stage compare."""

    splits: Some[Name]
    metric_methods: Some[Name]
    gradient_methods: Some[Name]
    tasks: Some[TrainingTask]
    few_shot_seeds: Some[Seed]
    label_cells: Some[LabelsAndSeed]
    frozen_cells: Some[LabelsAndSeed]
    transfer_seeds: Some[Seed]


class Data(Section):
    source: Literal["official", "embedded"]
    mirror: str | None


class Episodes(Section):
    tasks: Some[TestTask]
    published_tasks: dict[Literal["lake", "vinyals"], list[TestTask]]
    queries: Annotated[int, Field(ge=1, le=99)]
    count: Count
    all_way_count: Count
    validation_count: Count
    validation_alphabets: Annotated[int, Field(ge=1, le=29)]
    seed: Seed

    @model_validator(mode="after")
    def _enough_drawings(self) -> Episodes:
        for name in (*self.tasks, *(task for tasks in self.published_tasks.values() for task in tasks)):
            task = Task.parse(name)
            queries = task.queries or self.queries
            _check_drawings(
                task.shot + queries, f"task {name} with {queries} queries a class", "the shot or the queries"
            )
        return self


class OwnImages(Section):
    """A person's own data set: a folder of class folders, which may be grouped one level up."""

    folder: Annotated[str, Field(min_length=1, max_length=4096)]
    size: Annotated[int, Field(ge=16, le=224)] = 28
    colour: bool = False
    rotations: bool = False
    by: Literal["class", "group"] = "class"
    test: PositiveFraction | list[FileName] = 0.3
    validation: PositiveFraction | list[FileName] = 0.1
    per_class: Annotated[int, Field(ge=2, le=10_000)] | None = None
    tasks: Some[TestTask] | None = None
    seed: Seed = 0

    @model_validator(mode="after")
    def _can_be_read_and_divided(self) -> OwnImages:
        if self.folder.startswith("~"):
            raise ValueError(f"folder = {short(self.folder)}: DVC does not know ~, write the whole path")
        shares = [part for part in (self.test, self.validation) if isinstance(part, float)]
        if sum(shares) >= 1:
            raise ValueError(f"test + validation = {sum(shares):g} leave no class to train on: lower one of them")
        return self


class Network(Section):
    """A network of four blocks, see `networks.conv4`."""

    widths: Annotated[list[Annotated[int, Field(ge=1, le=1024)]], Field(min_length=4, max_length=4)]
    downsample: Literal["stride", "pool"]

    def __str__(self) -> str:
        return "-".join(map(str, [*self.widths, self.downsample]))


class Distortion(Section):
    """How much training images are distorted at most, see `fewshot.distort`; 0: not at all."""

    turn: Annotated[float, Field(ge=0, le=180)] = 0.0
    scale: Annotated[float, Field(ge=0, le=0.9)] = 0.0
    shear: Annotated[float, Field(ge=0, le=0.9)] = 0.0
    shift: Annotated[float, Field(ge=0, le=0.9)] = 0.0


class Training(Section):
    """What every few-shot method has: its network and the variety of its training images, how long it trains, how
    often it looks at the validation classes."""

    fixed_way: ClassVar[bool] = False  # True: one training a task

    network: Network
    distortion: Distortion = Distortion()
    hard_share: Fraction = 0.0
    average: Annotated[float, Field(ge=0, lt=1)] = 0.0
    iterations: Count
    validate_every: Count
    checkpoint_every: Count
    patience: Count | None


class BatchTraining(Training):
    """A method that learns batches of classes."""

    classes: Classes
    drawings: Annotated[int, Field(ge=2, le=DRAWINGS_PER_CLASS)]
    lr: Rate


class Siamese(BatchTraining):
    loss: Literal["pairs", "ranking"]


class Prototypes(Training):
    way: Classes
    shot: Drawings
    queries: Drawings
    every_support: bool
    temperature: Rate
    lr: Rate

    @model_validator(mode="after")
    def _enough_drawings(self) -> Prototypes:
        _check_drawings(self.shot + self.queries, f"shot {self.shot} with {self.queries} queries", "shot or queries")
        return self


class NearestMean(BatchTraining):
    drawings: Drawings


class Contrastive(BatchTraining):
    temperature: Rate


class GradientTraining(Training):
    """A method that adapts the weights to each task, by an inner loop."""

    fixed_way: ClassVar[bool] = True

    meta_batch: Count
    inner_lr: Rate
    inner_steps: Count
    test_inner_steps: Count


class Maml(GradientTraining):
    queries: Drawings
    outer_lr: Rate
    outer_schedule: Literal["cosine", "constant"] = "cosine"
    second_order_from: Fraction = 0.0
    multi_step_loss: bool = False
    learn_inner_lr: bool = False


class Reptile(GradientTraining):
    train_shots: Drawings
    inner_batch: Count
    inner_optimizer: Literal["sgd", "adam"]
    outer_step: PositiveFraction


class Supervised(Section):
    """What every training by SGD has."""

    batch_size: Annotated[int, Field(ge=2, le=4096)]
    momentum: Fraction
    weight_decay: Fraction


class Pretrain(Supervised):
    """What every pretraining without labels has."""

    network: Annotated[str, Field(pattern=r"^(resnet18-(imagenet|cifar)|compact(-[1-9][0-9]{0,3}){3})$")]
    images: Annotated[int, Field(ge=4, le=50_000)]
    steps: Count
    evaluate_every: Count
    curve_images: Annotated[int, Field(ge=2, le=10_000)]
    save_every: Count
    seed: Seed


class PretrainRotation(Section):
    lr: Rate
    shift: Shift


class PretrainEmpSsl(Section):
    lr: Rate
    crops: Annotated[int, Field(ge=2, le=256)]
    smallest_crop: PositiveFraction
    colour: Fraction
    invariance: Annotated[float, Field(gt=0, le=10_000)]


class Finetune(Supervised):
    """What every start has."""

    steps: Count
    epochs: Epochs
    lr: Rate
    frozen_lr: Rate
    frozen_grids: Annotated[list[Annotated[int, Field(ge=1, le=32)]], Field(min_length=4, max_length=4)]
    shift: Shift
    loss: Literal["cross_entropy", "focal"]
    focal_alpha: Fraction
    focal_gamma: Annotated[float, Field(ge=0, le=10)]
    target_accuracy: PositiveFraction | None
    evaluate_every: Count
    curve_images: Count
    save_every: Count
    test_images: Count


class Transfer(Supervised):
    """What every start has."""

    backbone: str
    image_size: Pixels
    crop_size: Pixels
    smallest_crop: PositiveFraction
    evaluate_every: Epochs
    save_every: Epochs


class TransferFrom(Section):
    """What one start has of its own."""

    lr: Rate
    epochs: Epochs
    size: Pixels | None = None


class Params(Section):
    """All of params.yaml. The fields that are a `Training` are the few-shot methods there are, see `METHODS`."""

    budget: Budget
    device: Literal["auto", "cpu", "cuda"]
    deterministic: bool
    launch: Annotated[str, Field(pattern=r"^(python|torchrun)[ -~]{0,200}$")]
    data: Data
    cells: Cells
    episodes: Episodes
    own_images: dict[Name, OwnImages]
    siamese: Siamese
    prototypes: Prototypes
    nearest_mean: NearestMean
    contrastive: Contrastive
    maml: Maml
    fomaml: Maml
    anil: Maml
    reptile: Reptile
    pretrain: Pretrain
    pretrain_rotation: PretrainRotation
    pretrain_emp_ssl: PretrainEmpSsl
    finetune: Finetune
    transfer: Transfer
    transfer_from: dict[TransferStart, TransferFrom]

    @staticmethod
    def dataset(split: str) -> str:
        """The data set that a split divides: Omniglot, or the person's own of that name."""
        return "omniglot" if split in OMNIGLOT_SPLITS else split

    def test_tasks(self, split: str) -> list[str]:
        """The names of the tasks that a model of this split is tested on."""
        if own := self.own_images.get(split):
            return own.tasks or self.episodes.tasks
        published = {str(name): tasks for name, tasks in self.episodes.published_tasks.items()}
        return list(dict.fromkeys([*self.episodes.tasks, *published.get(split, [])]))

    @model_validator(mode="after")
    def _cells_are_there(self) -> Params:
        for name in self.own_images:
            if name in (*OMNIGLOT_SPLITS, "omniglot", "cifar10", "hymenoptera"):
                raise ValueError(f"own_images.{name}: that name is taken, choose another")
        _check_known("metric_methods", self.cells.metric_methods, METRIC_METHODS)
        _check_known("gradient_methods", self.cells.gradient_methods, GRADIENT_METHODS)
        _check_known(
            "splits", self.cells.splits, (*OMNIGLOT_SPLITS, *self.own_images), ": own images go under own_images"
        )
        for task in self.cells.tasks:
            way, shot = parse_task(task)
            for split in self.cells.splits:
                tested = map(Task.parse, self.test_tasks(split))
                if not any((each.way, each.shot) == (way, shot) for each in tested):
                    raise ValueError(f"cells.tasks names {task}, and no test task of {split} has that way and shot")
            for name, settings in self:
                if isinstance(settings, Maml):
                    asked_by = f"{name}.queries = {settings.queries} with task {task}"
                    _check_drawings(shot + settings.queries, asked_by, f"{name}.queries")
        return self


METHODS: dict[str, type[Training]] = {
    name: field.annotation
    for name, field in Params.model_fields.items()
    if isinstance(field.annotation, type) and issubclass(field.annotation, Training)
}
METRIC_METHODS = tuple(name for name, section in METHODS.items() if not section.fixed_way)
GRADIENT_METHODS = tuple(name for name, section in METHODS.items() if section.fixed_way)


def _check_known(key: str, names: list[str], there: tuple[str, ...], hint: str = "") -> None:
    for name in names:
        if name not in there:
            raise ValueError(f"cells.{key} names {name}, and there are {', '.join(there)}{hint}")


def _check_drawings(needed: int, asked_by: str, lower: str) -> None:
    if needed > DRAWINGS_PER_CLASS:
        raise ValueError(
            f"{asked_by} needs {needed} drawings of each class, and there are {DRAWINGS_PER_CLASS}: lower {lower}"
        )


def load(path: str | Path = "params.yaml") -> Params:
    """Read params.yaml, resolve it for the chosen budget and check it. Raises `UserError` naming the first mistake."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error})") from None
    return parse(strict.read(text, str(path)), str(path))


def parse(raw: Any, name: str = "params.yaml") -> Params:
    """Check an already parsed params.yaml. Raises `UserError`."""
    if not isinstance(raw, dict):
        raise UserError(f"{name}: must be a mapping of sections, not {type(raw).__name__}")
    budget = raw.get("budget")
    if budget not in BUDGETS:
        raise UserError(f"{name}: budget = {short(budget)}: must be one of {', '.join(BUDGETS)}")
    return strict.check(Params, {key: _resolve(item, budget, f"{name}: {key}") for key, item in raw.items()}, name)


def _resolve(value: Any, budget: str, where: str) -> Any:
    """The value with each mapping over budgets replaced by the entry of this budget."""
    if not isinstance(value, dict):
        return value
    if not value or not set(value) <= set(BUDGETS):
        return {key: _resolve(item, budget, f"{where}.{key}") for key, item in value.items()}
    for entry in (budget, "cpu") if budget in ("night", "gpu") else (budget,):
        if entry in value:
            return value[entry]
    raise UserError(f"{where}: has no value for budget {budget!r}")
