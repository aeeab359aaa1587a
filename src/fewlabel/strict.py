"""YAML files read as DVC reads them, into strict models: the first mistake is named in one line."""

from __future__ import annotations

import difflib
from typing import Annotated, Any, TypeVar, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.events import AliasEvent, CollectionEndEvent, CollectionStartEvent

from fewlabel.errors import UserError

DEEPEST = 20  # mappings and lists within each other
T = TypeVar("T")
Model = TypeVar("Model", bound=BaseModel)


class Section(BaseModel):
    """A mapping: unknown keys and values of another type are refused."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


def _each_once(values: list[T]) -> list[T]:
    for value in values:
        if values.count(value) > 1:
            raise ValueError(f"{short(value)} stands there twice: take one out")
    return values


Some = Annotated[list[T], Field(min_length=1, max_length=1000), AfterValidator(_each_once)]


def read(text: str, name: str) -> Any:
    """The content of YAML text. Aliases and deep nesting are refused: with them a short text can use up the memory or
    the stack.

    Raises:
        UserError: what is wrong, after the `name` of the file.
    """
    reader, depth = YAML(typ="safe"), 0  # DVC's choice
    try:
        for event in reader.parse(text):
            depth += isinstance(event, CollectionStartEvent) - isinstance(event, CollectionEndEvent)
            if depth > DEEPEST or isinstance(event, AliasEvent):
                what = "nested too deeply" if depth > DEEPEST else "aliases are not read here, write the value out"
                raise ValueError(f"line {event.start_mark.line + 1}: {what}")
        return reader.load(text)
    except Exception as error:  # of a malformed scalar, such as !!int '', ruamel raises errors of many kinds
        raise UserError(f"{name}: not valid YAML ({plain(str(error))[:300]})") from None


def check(model: type[Model], content: Any, name: str) -> Model:
    """The content of the file called `name` as this model. Raises `UserError`."""
    try:
        return model.model_validate(content)
    except ValidationError as error:
        raise UserError(f"{name}: {_first_mistake(error, model)}") from None


def _first_mistake(error: ValidationError, model: Any) -> str:
    # A mistyped key is also a missing one: name the typo, not the gap it leaves.
    first = min(error.errors(), key=lambda each: each["type"] != "extra_forbidden")
    location = [plain(str(part))[:80] for part in first["loc"]]
    where = ".".join(location)
    if first["type"] == "extra_forbidden":
        for part in location[:-1]:  # into a section, or into a mapping of sections by name
            model = model.model_fields[part].annotation if hasattr(model, "model_fields") else get_args(model)[1]
        close = difflib.get_close_matches(location[-1], list(model.model_fields), n=1, cutoff=0.0)
        hint = f"; the closest valid key is {'.'.join([*location[:-1], *close])}" if close else ""
        return f"{where} = {short(first['input'])}: unknown parameter{hint}"
    if first["type"] == "missing":
        return f"{where}: missing"
    message = plain(first["msg"].removeprefix("Value error, "))
    if first["type"] == "value_error":
        return f"{where + ': ' if where else ''}{message}"
    return f"{where} = {short(first['input'])}: {message[:1].lower()}{message[1:]}"


def short(value: Any) -> str:
    """At most 60 characters that stand for the value in a message."""
    try:
        text = ascii(value)
    except ValueError:  # an integer of more digits than Python writes
        text = type(value).__name__
    return text if len(text) <= 60 else text[:57] + "..."


def plain(text: str) -> str:
    """On one line, and without characters that a terminal would obey."""
    text = " ".join(text.split())
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)
