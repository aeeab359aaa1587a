"""Typed, strict models of params.yaml: a typo or a value out of range fails before any work starts.

Any scalar may be written as a mapping over budgets, ``{smoke: 20, cpu: 1500, gpu: 60000}``; `load` picks the
entry of the chosen ``budget`` before the models see the value.
"""

from __future__ import annotations

import difflib
import re
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from fewlabel.errors import UserError

Budget = Literal["smoke", "cpu", "gpu"]
BUDGETS: tuple[str, ...] = get_args(Budget)
DRAWINGS_PER_CLASS = 20  # Omniglot: every character was drawn by 20 people

Count = Annotated[int, Field(ge=1, le=10_000_000)]
Epochs = Annotated[float, Field(gt=0, le=100_000, allow_inf_nan=False)]
Rate = Annotated[float, Field(gt=0, le=100, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Seed = Annotated[int, Field(ge=0, lt=2**31)]
Task = Annotated[str, Field(pattern=r"^[1-9]\d{0,3}w[1-9]\d?s$")]
LABEL_CELL = r"^([1-9]\d{0,2}|[1-4]\d{3}|5000)-(\d{1,9})$"  # labels per class of CIFAR-10, and a seed
LabelCell = Annotated[str, Field(pattern=LABEL_CELL)]


class Section(BaseModel):
    """A mapping of params.yaml: unknown keys and loose types are refused."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Cells(Section):
    """Which cells of the DAG's matrices exist. Read by dvc.yaml and by `compare`."""

    splits: list[Literal["lake", "vinyals"]] = Field(min_length=1)
    metric_methods: list[Literal["siamese", "prototypes"]] = Field(min_length=1)
    gradient_methods: list[Literal["maml", "reptile"]] = Field(min_length=1)
    tasks: list[Task] = Field(min_length=1)
    few_shot_seeds: list[Seed] = Field(min_length=1)
    label_cells: list[LabelCell] = Field(min_length=1)
    transfer_seeds: list[Seed] = Field(min_length=1)


class Data(Section):
    source: Literal["official", "embedded"]
    mirror: str | None


class Episodes(Section):
    tasks: list[Task] = Field(min_length=1)
    queries: Annotated[int, Field(ge=1, le=19)]
    count: Count
    validation_count: Count
    validation_alphabets: Annotated[int, Field(ge=1, le=29)]
    seed: Seed

    @model_validator(mode="after")
    def _enough_drawings(self) -> Episodes:
        for task in self.tasks:
            _, shot = parse_task(task)
            if shot + self.queries > DRAWINGS_PER_CLASS:
                raise ValueError(
                    f"task {task} with {self.queries} queries a class needs {shot + self.queries} drawings of each "
                    f"class, and there are {DRAWINGS_PER_CLASS}: lower the shot or episodes.queries"
                )
        return self


class Training(Section):
    """What every meta-training has: how long, how often it looks at the validation classes, when it stops."""

    iterations: Count
    validate_every: Count
    checkpoint_every: Count
    patience: Count | None


class Siamese(Training):
    width: Annotated[int, Field(ge=1, le=1024)]
    downsample: Literal["stride", "pool"]
    classes: Annotated[int, Field(ge=2, le=512)]
    drawings: Annotated[int, Field(ge=2, le=DRAWINGS_PER_CLASS)]
    lr: Rate


class Prototypes(Training):
    width: Annotated[int, Field(ge=1, le=1024)]
    downsample: Literal["stride", "pool"]
    way: Annotated[int, Field(ge=2, le=512)]
    shot: Annotated[int, Field(ge=1, le=DRAWINGS_PER_CLASS - 1)]
    queries: Annotated[int, Field(ge=1, le=DRAWINGS_PER_CLASS - 1)]
    lr: Rate


class Maml(Training):
    width: Annotated[int, Field(ge=1, le=1024)]
    downsample: Literal["stride", "pool"]
    meta_batch: Annotated[int, Field(ge=1, le=4096)]
    queries: Annotated[int, Field(ge=1, le=DRAWINGS_PER_CLASS - 1)]
    inner_lr: Rate
    inner_steps: Annotated[int, Field(ge=1, le=1000)]
    test_inner_steps: Annotated[int, Field(ge=1, le=1000)]
    outer_lr: Rate
    first_order: bool


class Reptile(Training):
    width: Annotated[int, Field(ge=1, le=1024)]
    downsample: Literal["stride", "pool"]
    meta_batch: Annotated[int, Field(ge=1, le=4096)]
    train_shots: Annotated[int, Field(ge=1, le=DRAWINGS_PER_CLASS)]
    inner_batch: Annotated[int, Field(ge=1, le=4096)]
    inner_optimizer: Literal["sgd", "adam"]
    inner_lr: Rate
    inner_steps: Annotated[int, Field(ge=1, le=1000)]
    test_inner_steps: Annotated[int, Field(ge=1, le=1000)]
    outer_step: Annotated[float, Field(gt=0, le=1)]


class PretrainRotation(Section):
    stem: Literal["imagenet", "cifar"]
    images: Annotated[int, Field(ge=4, le=50_000)]
    epochs: Epochs
    batch_size: Annotated[int, Field(ge=1, le=4096)]
    shift: Annotated[int, Field(ge=0, le=16)]
    lr: Rate
    momentum: Fraction
    weight_decay: Annotated[float, Field(ge=0, le=1)]
    evaluate_every: Epochs
    curve_images: Annotated[int, Field(ge=1, le=10_000)]
    save_every: Epochs
    seed: Seed


class Finetune(Section):
    steps: Count
    epochs: Epochs
    batch_size: Annotated[int, Field(ge=2, le=4096)]
    shift: Annotated[int, Field(ge=0, le=16)]
    lr: Rate
    frozen_lr: Rate
    early_block: Annotated[int, Field(ge=1, le=3)]
    early_grid: Annotated[int, Field(ge=1, le=32)]
    momentum: Fraction
    weight_decay: Annotated[float, Field(ge=0, le=1)]
    loss: Literal["cross_entropy", "focal"]
    focal_alpha: Fraction
    focal_gamma: Annotated[float, Field(ge=0, le=10)]
    target_accuracy: Annotated[float, Field(gt=0, le=1)] | None
    evaluate_every: Count
    curve_images: Annotated[int, Field(ge=1, le=10_000)]
    save_every: Count
    test_images: Annotated[int, Field(ge=1, le=10_000)]


class Transfer(Section):
    backbone: str  # a name that `models.pretrained.create` knows
    image_size: Annotated[int, Field(ge=32, le=512)]
    crop_size: Annotated[int, Field(ge=32, le=512)]
    small_size: Annotated[int, Field(ge=32, le=512)]
    epochs: Epochs
    frozen_epochs: Epochs
    small_epochs: Epochs
    batch_size: Annotated[int, Field(ge=2, le=4096)]
    smallest_crop: Annotated[float, Field(gt=0, le=1)]
    scratch_lr: Rate
    finetune_lr: Rate
    frozen_lr: Rate
    small_lr: Rate
    momentum: Fraction
    weight_decay: Annotated[float, Field(ge=0, le=1)]
    evaluate_every: Epochs
    save_every: Epochs


class Params(Section):
    budget: Budget
    device: Literal["auto", "cpu", "cuda"]
    precision: Literal["auto", "fp32"]
    data: Data
    cells: Cells
    episodes: Episodes
    siamese: Siamese
    prototypes: Prototypes
    maml: Maml
    reptile: Reptile
    pretrain_rotation: PretrainRotation
    finetune: Finetune
    transfer: Transfer

    @model_validator(mode="after")
    def _tasks_have_episodes(self) -> Params:
        for task in self.cells.tasks:
            if task not in self.episodes.tasks:
                raise ValueError(f"cells.tasks names {task}, which episodes.tasks does not: add it there")
            _, shot = parse_task(task)
            if shot + self.maml.queries > DRAWINGS_PER_CLASS:
                raise ValueError(
                    f"maml.queries = {self.maml.queries} with task {task} needs {shot + self.maml.queries} drawings "
                    f"of each class, and there are {DRAWINGS_PER_CLASS}: lower maml.queries"
                )
        if self.prototypes.shot + self.prototypes.queries > DRAWINGS_PER_CLASS:
            raise ValueError(
                f"prototypes.shot + prototypes.queries = {self.prototypes.shot + self.prototypes.queries} exceeds "
                f"the {DRAWINGS_PER_CLASS} drawings of a class"
            )
        return self


def parse_task(task: str) -> tuple[int, int]:
    """``"20w1s"`` → ``(way=20, shot=1)``."""
    way, shot = task.removesuffix("s").split("w")
    return int(way), int(shot)


def parse_label_cell(cell: str) -> tuple[int, int]:
    """``"20-1"`` → ``(labels per class=20, seed=1)``. Raises `UserError`."""
    found = re.match(LABEL_CELL, cell)
    if not found:
        raise UserError(f"{_short(cell)}: must be labels per class (1 to 5000) and a seed, as in 20-0")
    return int(found[1]), int(found[2])


def load(path: str | Path = "params.yaml") -> Params:
    """Read, resolve for the chosen budget, and check params.yaml. Raises `UserError` naming the first mistake."""
    try:
        raw = yaml.load(Path(path).read_text(encoding="utf-8"), Loader=_Yaml12Loader)
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error})") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: not valid YAML ({' '.join(str(error).split())})") from None
    return parse(raw, name=str(path))


def parse(raw: Any, name: str = "params.yaml") -> Params:
    """Check an already parsed params.yaml. Raises `UserError`."""
    if not isinstance(raw, dict):
        raise UserError(f"{name}: must be a mapping of sections, not {type(raw).__name__}")
    budget = raw.get("budget")
    if budget not in BUDGETS:
        raise UserError(f"{name}: budget = {budget!r}: must be one of {', '.join(BUDGETS)}")
    resolved = _resolve(raw, budget, name, ())
    try:
        return Params.model_validate(resolved)
    except ValidationError as error:
        raise UserError(_describe(error, name)) from None


def _resolve(value: Any, budget: str, name: str, at: tuple[str, ...]) -> Any:
    if isinstance(value, dict):
        if value and set(value) <= set(BUDGETS):
            if budget not in value:
                raise UserError(f"{name}: {'.'.join(at)}: has no value for budget {budget!r}")
            return value[budget]
        return {key: _resolve(item, budget, name, (*at, str(key))) for key, item in value.items()}
    return value


def _describe(error: ValidationError, name: str) -> str:
    # A mistyped key is also a missing one: name the typo, not the gap it leaves.
    first = min(error.errors(), key=lambda each: each["type"] != "extra_forbidden")
    location = [str(part) for part in first["loc"]]
    where = ".".join(location)
    if first["type"] == "extra_forbidden":
        model: Any = Params
        for part in location[:-1]:
            model = model.model_fields[part].annotation
        close = difflib.get_close_matches(location[-1], list(model.model_fields), n=1, cutoff=0.0)
        hint = f"; the closest valid key is {'.'.join([*location[:-1], *close])}" if close else ""
        return f"{name}: {where} = {_short(first['input'])}: unknown parameter{hint}"
    if first["type"] == "missing":
        return f"{name}: {where}: missing"
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "value_error":
        return f"{name}: {where + ': ' if where else ''}{message}"
    return f"{name}: {where} = {_short(first['input'])}: {message[:1].lower()}{message[1:]}"


def _short(value: Any) -> str:
    text = ascii(value)
    return text if len(text) <= 60 else text[:57] + "..."


class _Yaml12Loader(yaml.SafeLoader):
    """PyYAML reads YAML 1.1, where 1e-3 is a string; DVC reads 1.2, where it is a number. Read as DVC does."""


_Yaml12Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d+(\.\d*)?|\.\d+)([eE][-+]?\d+)$"),
    list("-+0123456789."),
)
