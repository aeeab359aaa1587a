"""Typed, strict models of params.yaml: a typo or a value out of range fails before any work starts.

Any scalar may be written as a mapping over budgets, ``{smoke: 20, cpu: 1500, gpu: 60000}``; `load` picks the
entry of the chosen ``budget`` before the models see the value.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from fewlabel.errors import UserError

Budget = Literal["smoke", "cpu", "gpu"]
BUDGETS: tuple[str, ...] = get_args(Budget)
DRAWINGS_PER_CLASS = 20  # Omniglot: every character was drawn by 20 people

Count = Annotated[int, Field(ge=1, le=10_000_000)]
Epochs = Annotated[float, Field(gt=0, le=100_000, allow_inf_nan=False)]
Rate = Annotated[float, Field(gt=0, le=100, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Processes = Annotated[int, Field(ge=1, le=64)]
Share = Annotated[float, Field(gt=0, lt=1)]
Seed = Annotated[int, Field(ge=0, lt=2**31)]
LABEL_CELL = r"^([1-9][0-9]{0,2}|[1-4][0-9]{3}|5000)-(0|[1-9][0-9]{0,8})$"  # labels per class of CIFAR-10, and a seed
LabelCell = Annotated[str, Field(pattern=LABEL_CELL)]
TrainingTask = Annotated[str, Field(pattern=r"^[1-9][0-9]{0,3}w[1-9][0-9]?s$")]
TestTask = Annotated[str, Field(pattern=r"^([1-9][0-9]{0,3}w|all-)[1-9][0-9]?s([1-9][0-9]?q)?(-upright)?$")]
Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,39}$")]  # no hyphen: it parts the words of a cell's name
FileName = Annotated[str, Field(max_length=511)]  # of a class, perhaps in a group
MetricMethod = Literal["siamese", "prototypes", "nearest_mean"]
GradientMethod = Literal["maml", "reptile"]
METRIC_METHODS: tuple[str, ...] = get_args(MetricMethod)
GRADIENT_METHODS: tuple[str, ...] = get_args(GradientMethod)
OMNIGLOT_SPLITS = ("lake", "vinyals")
# efficientnet_lite0, and torchvision's classification networks that end in one linear layer: importing it takes 3 s.
BACKBONES = """
    efficientnet_lite0
    alexnet convnext_base convnext_large convnext_small convnext_tiny densenet121 densenet161 densenet169
    densenet201 efficientnet_b0 efficientnet_b1 efficientnet_b2 efficientnet_b3 efficientnet_b4
    efficientnet_b5 efficientnet_b6 efficientnet_b7 efficientnet_v2_l efficientnet_v2_m efficientnet_v2_s
    maxvit_t mnasnet0_5 mnasnet0_75 mnasnet1_0 mnasnet1_3 mobilenet_v2 mobilenet_v3_large mobilenet_v3_small
    regnet_x_16gf regnet_x_1_6gf regnet_x_32gf regnet_x_3_2gf regnet_x_400mf regnet_x_800mf regnet_x_8gf
    regnet_y_128gf regnet_y_16gf regnet_y_1_6gf regnet_y_32gf regnet_y_3_2gf regnet_y_400mf regnet_y_800mf
    regnet_y_8gf resnet101 resnet152 resnet18 resnet34 resnet50 resnext101_32x8d resnext101_64x4d
    resnext50_32x4d shufflenet_v2_x0_5 shufflenet_v2_x1_0 shufflenet_v2_x1_5 shufflenet_v2_x2_0 swin_b swin_s
    swin_t swin_v2_b swin_v2_s swin_v2_t vgg11 vgg11_bn vgg13 vgg13_bn vgg16 vgg16_bn vgg19 vgg19_bn vit_b_16
    vit_b_32 vit_h_14 vit_l_16 vit_l_32 wide_resnet101_2 wide_resnet50_2
""".split()


def _each_once(values: list[Any]) -> list[Any]:
    """A cell twice would be two rows of the leaderboard, and look like two seeds."""
    for value in values:
        if values.count(value) > 1:
            raise ValueError(f"{_short(value)} stands there twice: take one out")
    return values


def _known(backbone: str) -> str:
    if backbone not in BACKBONES:
        close = ", ".join(difflib.get_close_matches(backbone[:60], BACKBONES, n=3, cutoff=0.0))
        raise ValueError(f"{_short(backbone)} is no network that can be taken; close to it: {close}")
    return backbone


T = TypeVar("T")
Some = Annotated[list[T], Field(min_length=1, max_length=1000), AfterValidator(_each_once)]


class Section(BaseModel):
    """A mapping of params.yaml: unknown keys and loose types are refused."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Cells(Section):
    """Which cells of the DAG's matrices exist. Read by dvc.yaml and by `compare`."""

    splits: Some[Name]
    metric_methods: Some[MetricMethod]
    gradient_methods: Some[GradientMethod]
    tasks: Some[TrainingTask]
    few_shot_seeds: Some[Seed]
    label_cells: Some[LabelCell]
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
            if task.shot + queries > DRAWINGS_PER_CLASS:
                raise ValueError(
                    f"task {name} with {queries} queries a class needs {task.shot + queries} drawings of each class, "
                    f"and there are {DRAWINGS_PER_CLASS}: lower the shot or the queries"
                )
        return self


class OwnImages(Section):
    """One data set of a person's own: a folder of class folders, which may be grouped one level up."""

    folder: Annotated[str, Field(min_length=1, max_length=4096)]
    size: Annotated[int, Field(ge=16, le=224)] = 28
    colour: bool = False
    rotations: bool = False
    by: Literal["class", "group"] = "class"
    test: Share | list[FileName] = 0.3
    validation: Share | list[FileName] = 0.1
    per_class: Annotated[int, Field(ge=2, le=10_000)] | None = None
    tasks: Some[TestTask] | None = None
    seed: Seed = 0

    @model_validator(mode="after")
    def _some_classes_to_train_on(self) -> OwnImages:
        if self.folder.startswith("~"):
            raise ValueError(f"folder = {_short(self.folder)}: DVC does not know ~, write the whole path")
        shares = [part for part in (self.test, self.validation) if isinstance(part, float)]
        if sum(shares) >= 1:
            raise ValueError(f"test + validation = {sum(shares):g} leave no class to train on: lower one of them")
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


class NearestMean(Training):
    width: Annotated[int, Field(ge=1, le=1024)]
    downsample: Literal["stride", "pool"]
    classes: Annotated[int, Field(ge=2, le=4096)]
    drawings: Annotated[int, Field(ge=1, le=DRAWINGS_PER_CLASS)]
    lr: Rate


def _check_processes(section: str, meta_batch: int, processes: int) -> None:
    if meta_batch % processes:
        raise ValueError(f"{section}.processes = {processes} must divide {section}.meta_batch = {meta_batch}")


class Maml(Training):
    width: Annotated[int, Field(ge=1, le=1024)]
    downsample: Literal["stride", "pool"]
    meta_batch: Annotated[int, Field(ge=1, le=4096)]
    queries: Annotated[int, Field(ge=1, le=DRAWINGS_PER_CLASS - 1)]
    inner_lr: Rate
    inner_steps: Annotated[int, Field(ge=1, le=1000)]
    test_inner_steps: Annotated[int, Field(ge=1, le=1000)]
    outer_lr: Rate
    outer_schedule: Literal["cosine", "constant"]
    first_order: bool
    second_order_from: Fraction
    multi_step_loss: bool
    learn_inner_lr: bool
    anil: bool
    processes: Processes

    @model_validator(mode="after")
    def _tasks_for_every_process(self) -> Maml:
        _check_processes("maml", self.meta_batch, self.processes)
        return self


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
    processes: Processes
    outer_step: Annotated[float, Field(gt=0, le=1)]

    @model_validator(mode="after")
    def _tasks_for_every_process(self) -> Reptile:
        _check_processes("reptile", self.meta_batch, self.processes)
        return self


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
    backbone: Annotated[str, AfterValidator(_known)]
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
    deterministic: bool
    data: Data
    cells: Cells
    episodes: Episodes
    own_images: dict[Name, OwnImages]
    siamese: Siamese
    prototypes: Prototypes
    nearest_mean: NearestMean
    maml: Maml
    reptile: Reptile
    pretrain_rotation: PretrainRotation
    finetune: Finetune
    transfer: Transfer

    @staticmethod
    def dataset(split: str) -> str:
        """The data set that a split divides: Omniglot, or the person's own of that name."""
        return "omniglot" if split in OMNIGLOT_SPLITS else split

    def test_tasks(self, split: str) -> list[str]:
        """The names of the tasks that a model of this split is tested on."""
        own = self.own_images.get(split)
        if own:
            return own.tasks or self.episodes.tasks
        published = self.episodes.published_tasks.get(split, [])  # type: ignore[call-overload]
        return list(dict.fromkeys([*self.episodes.tasks, *published]))

    @model_validator(mode="after")
    def _splits_are_there(self) -> Params:
        for name in self.own_images:
            if name in (*OMNIGLOT_SPLITS, "omniglot", "cifar10", "hymenoptera"):
                raise ValueError(f"own_images.{name}: that name is taken, choose another")
        for split in self.cells.splits:
            if split not in (*OMNIGLOT_SPLITS, *self.own_images):
                there = ", ".join((*OMNIGLOT_SPLITS, *self.own_images))
                raise ValueError(f"cells.splits names {split}, and there are {there}: own images go under own_images")
        return self

    @model_validator(mode="after")
    def _tasks_have_episodes(self) -> Params:
        for task in self.cells.tasks:
            way, shot = parse_task(task)
            for split in self.cells.splits:
                tested = map(Task.parse, self.test_tasks(split))
                if not any((each.way, each.shot) == (way, shot) for each in tested):
                    raise ValueError(f"cells.tasks names {task}, and no test task of {split} has that way and shot")
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


@dataclass(frozen=True)
class Task:
    """What a test episode asks, as its name says it: ``5w1s``, ``5w1s1q``, ``5w1s1q-upright``, ``all-5s``.

    Attributes:
        way: classes of an episode; None: every test class at once.
        shot: labelled drawings of each.
        queries: drawings of each to classify; None: as many as ``episodes.queries`` says.
        upright: only test classes that are not turned.
    """

    way: int | None
    shot: int
    queries: int | None = None
    upright: bool = False

    @staticmethod
    def parse(name: str) -> Task:
        """Raises `UserError` when `name` is no task."""
        found = re.fullmatch(r"(?:([1-9][0-9]{0,3})w|all-)([1-9][0-9]?)s(?:([1-9][0-9]?)q)?(-upright)?", name)
        if not found:
            raise UserError(f"{_short(name)}: no task; one is written like 5w1s, 5w1s1q, 5w1s1q-upright or all-5s")
        way, shot, queries, upright = found.groups()
        return Task(int(way) if way else None, int(shot), int(queries) if queries else None, bool(upright))


def parse_task(task: str) -> tuple[int, int]:
    """Way and shot of a task to train for: ``"20w1s"`` → ``(20, 1)``. Raises `UserError`."""
    parsed = Task.parse(task)
    if parsed.way is None or parsed != Task(parsed.way, parsed.shot):
        raise UserError(f"{task}: a training has a way and a shot and no more, like 5w1s")
    return parsed.way, parsed.shot


def parse_label_cell(cell: str) -> tuple[int, int]:
    """``"20-1"`` → ``(labels per class=20, seed=1)``. Raises `UserError`."""
    found = re.match(LABEL_CELL, cell)
    if not found:
        raise UserError(f"{_short(cell)}: must be labels per class (1 to 5000) and a seed, as in 20-0")
    return int(found[1]), int(found[2])


def seed(text: str) -> int:
    """The type of a seed on a command line. Raises ValueError, which argparse reports."""
    value = int(text)
    if not 0 <= value < 2**31:
        raise ValueError
    return value


def load(path: str | Path = "params.yaml") -> Params:
    """Read, resolve for the chosen budget, and check params.yaml. Raises `UserError` naming the first mistake."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error})") from None
    return loads(text, name=str(path))


def loads(text: str, name: str = "params.yaml") -> Params:
    """`load` of a file's text. Raises `UserError`."""
    try:
        raw = yaml.load(text, Loader=_Loader)
    except Exception as error:  # PyYAML's constructors raise errors of many kinds
        raise UserError(f"{name}: not valid YAML ({plain(str(error))[:300]})") from None
    return parse(raw, name)


def parse(raw: Any, name: str = "params.yaml") -> Params:
    """Check an already parsed params.yaml. Raises `UserError`."""
    if not isinstance(raw, dict):
        raise UserError(f"{name}: must be a mapping of sections, not {type(raw).__name__}")
    budget = raw.get("budget")
    if not isinstance(budget, str) or budget not in BUDGETS:
        raise UserError(f"{name}: budget = {_short(budget)}: must be one of {', '.join(BUDGETS)}")
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
    location = [plain(str(part))[:80] for part in first["loc"]]
    where = ".".join(location)
    if first["type"] == "extra_forbidden":
        model: Any = Params
        for part in location[:-1]:
            model = model.model_fields[part].annotation if hasattr(model, "model_fields") else get_args(model)[1]
        close = difflib.get_close_matches(location[-1], list(model.model_fields), n=1, cutoff=0.0)
        hint = f"; the closest valid key is {'.'.join([*location[:-1], *close])}" if close else ""
        return f"{name}: {where} = {_short(first['input'])}: unknown parameter{hint}"
    if first["type"] == "missing":
        return f"{name}: {where}: missing"
    message = plain(first["msg"].removeprefix("Value error, "))
    if first["type"] == "value_error":
        return f"{name}: {where + ': ' if where else ''}{message}"
    return f"{name}: {where} = {_short(first['input'])}: {message[:1].lower()}{message[1:]}"


def _short(value: Any) -> str:
    try:
        text = ascii(value)
    except ValueError:  # an integer of more digits than Python writes
        text = type(value).__name__
    return text if len(text) <= 60 else text[:57] + "..."


def plain(text: str) -> str:
    """On one line, and without characters that a terminal would obey."""
    text = " ".join(text.split())
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)


class _Loader(yaml.SafeLoader):
    """PyYAML reads YAML 1.1, where 1e-3 is a string; DVC reads 1.2, where it is a number. Read as DVC does.

    Keys that occur twice are refused, as DVC does. Aliases are too: a few lines of them can stand for billions of
    values, or for one that holds itself.
    """

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark
            raise yaml.YAMLError(f"line {mark.line + 1}: aliases are not read here, write the value out")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        if len(set(keys)) < len(keys):
            twice = next(key for key in keys if keys.count(key) > 1)
            raise yaml.YAMLError(f"line {node.start_mark.line + 1}: the key {_short(twice)} occurs twice in a mapping")
        return super().construct_mapping(node, deep)

    def construct_scalar(self, node: Any) -> Any:
        if node.tag.endswith((":int", ":float")) and re.search(r"^[-+]?0[0-9]|[:_bBxo]", node.value):
            told = f"line {node.start_mark.line + 1}: {_short(node.value)}: write the number in decimal digits alone"
            raise yaml.YAMLError(told)  # DVC reads 010 as 10, and 1:30 as text
        return super().construct_scalar(node)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d+(\.\d*)?|\.\d+)([eE][-+]?\d+)$"),
    list("-+0123456789."),
)
