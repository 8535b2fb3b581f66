"""What a setting may be: its type, its range and its help, beside the field; errors of one line.

    @settings
    class Codes:
        length: Whole = setting(16, "positions T", ge=1, le=65_536)

A class of settings is a frozen pydantic dataclass that refuses what it does not know and says so in
one line. Sections nest; `flat` spells every setting once more by one name, and that name is the
notebook's parameter, the key in profiles, studies and records, and the option of the commands.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import field as dataclass_field
from dataclasses import fields, is_dataclass
from functools import cache
from typing import Annotated, Any, NamedTuple, dataclass_transform, get_type_hints

from pydantic import BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass
from pydantic.fields import FieldInfo

from .checks import integer, shown

BOUNDS = {"greater than or equal to": "at least", "less than or equal to": "at most",
          "greater than": "above", "less than": "below", " after validation, not 0": "",
          "dictionary": "mapping"}  # fmt: skip


def _whole(value: Any) -> Any:
    """NumPy's integers are integers; booleans and floats are not."""
    try:
        number = integer(value, "it")
    except TypeError:
        raise ValueError("should be a whole number") from None
    if abs(number) >= 2**63:  # no setting needs more, and NumPy takes no more
        raise ValueError("should be below 2^63")
    return number


def _real(value: Any) -> Any:
    if isinstance(value, bool | str) or not hasattr(value, "__float__"):
        raise ValueError("should be a number")
    return float(value) if isinstance(value, float) or not hasattr(value, "__index__") else value


def _sizes(value: Any) -> Any:
    """A list of whole numbers, or its text (papermill's -p gives text): `[2, 4, 8]`."""
    try:
        if isinstance(value, str) and value.lstrip().startswith(("[", "(")):
            value = json.loads(value.replace("(", "[").replace(")", "]"))
        if isinstance(value, str):
            return value
        if not isinstance(value, list | tuple) and not hasattr(value, "tolist"):
            raise TypeError
        return tuple(_whole(k) for k in value)
    except (TypeError, ValueError):
        raise ValueError("should be a name or a list of whole numbers") from None


Whole = Annotated[int, BeforeValidator(_whole)]
Real = Annotated[float, BeforeValidator(_real), Field(allow_inf_nan=False)]
Flag = Annotated[bool, Field(strict=True)]
Sizes = Annotated[str | tuple[int, ...], BeforeValidator(_sizes)]


def setting(
    default: Any, about: str, *, habit: bool = False, later: bool = False, **limits: Any
) -> Any:
    """A field with its help and limits (`ge`, `gt`, `le`, `lt`, `pattern`).

    habit: it says how a run is watched, stored or spread, and shapes no result.
    later: it came when records were there already; at its default a run is what it was without it.
    """
    extra = {"habit": habit, "later": later}
    return Field(default=default, description=about, json_schema_extra=extra, **limits)


@dataclass_transform(frozen_default=True, field_specifiers=(setting, dataclass_field))
def settings(cls: type) -> type:
    """Make a frozen dataclass whose values are checked, with errors of one line."""
    made = dataclass(cls, frozen=True, config=ConfigDict(extra="forbid", validate_default=False))
    build = made.__init__

    def __init__(self: Any, *args: Any, **values: Any) -> None:
        try:
            build(self, *args, **values)
        except ValidationError as error:
            raise ValueError(one_line(error, made)) from None

    made.__init__ = __init__
    return made


def one_line(error: ValidationError, cls: Any, name: str = "") -> str:
    """`n_images must be at least 2, got 1`."""
    first = error.errors(include_url=False, include_context=False)[0]
    said = first["msg"].removeprefix("Value error, ").removeprefix("Input ")
    where = ".".join(map(str, first["loc"]))
    if first["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        return f"unknown setting {where!r} (known: {', '.join(f.name for f in fields(cls))})"
    if first["type"] == "missing":
        return f"{where} is missing"
    if first["type"] == "value_error" and not said.startswith("should "):
        return said  # a sentence of our own
    names = {entry.path: name for name, entry in flat(cls).items()} if is_dataclass(cls) else {}
    paths = (tuple(first["loc"][:n]) for n in range(len(first["loc"]), 0, -1))
    name = name or next((names[p] for p in paths if p in names), where)
    for long, short in BOUNDS.items():
        said = said.replace(long, short)
    _, should, rest = said.partition("should ")
    said = f" must {rest}" if should else f": {said.lower()}"
    return f"{name}{said}, got {shown(first['input'])}"


class Setting(NamedTuple):
    """One setting of a nested class, as everybody outside spells it."""

    path: tuple[str, ...]  # section, …, field
    type: Any
    default: Any
    info: FieldInfo
    help: str
    habit: bool  # see `setting`
    later: bool


@cache
def flat(cls: type) -> Mapping[str, Setting]:
    """Name → setting of a class and its sections, in order.

    A section called `x_recipe` spells its settings `x_…`; all others are called by their own name.
    """
    found: dict[str, Setting] = {}
    for name, entry in _walk(cls, (), ""):
        if name in found:
            raise TypeError(f"{cls.__name__}: two settings are called {name}")
        found[name] = entry
    return found


def _walk(cls: type, path: tuple[str, ...], prefix: str) -> Iterator[tuple[str, Setting]]:
    hints = get_type_hints(cls, include_extras=True)
    for f in fields(cls):
        kind, here = hints[f.name], (*path, f.name)
        if is_dataclass(kind):
            inner = f.name.removesuffix("recipe") if f.name.endswith("_recipe") else prefix
            yield from _walk(kind, here, inner)
        elif isinstance(info := f.default, FieldInfo) and info.description:
            about = {"help": info.description, **info.json_schema_extra}
            yield prefix + f.name, Setting(here, kind, info.default, info, **about)


def unfold(cls: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """{"ar_steps": 5} → {"ar_recipe": {"steps": 5}}: the constructor's nested keywords."""
    known, nested = flat(cls), {}
    for name, value in values.items():
        *sections, last = known[name].path
        place = nested
        for section in sections:
            place = place.setdefault(section, {})
        place[last] = value
    return nested


def fold(value: Any) -> dict[str, Any]:
    """Every setting of an object by its flat name, as JSON values."""
    found = {}
    for name, entry in flat(type(value)).items():
        at = value
        for part in entry.path:
            at = getattr(at, part)
        found[name] = list(at) if isinstance(at, tuple) else at
    return found


def check(kind: Any, value: Any, name: str) -> Any:
    """The value as a lone setting of this type takes it; ValueError in one line if it does not."""
    try:
        return _adapter(kind).validate_python(value)
    except ValidationError as error:
        raise ValueError(one_line(error, kind, name)) from None


_adapter = cache(TypeAdapter)
