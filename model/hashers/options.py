"""Reading a JSON or TOML table into a frozen dataclass of options, field by field.

The architecture of a model comes from a recipe or from an artefact's manifest, so nothing about it is
believed: an unknown key, a wrong type or a value out of range is a RecipeError that names the field.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from model.errors import RecipeError

T = TypeVar("T")


def read_options(kind: type[T], raw: Mapping[str, Any], where: str) -> T:
    """Build the dataclass `kind` from `raw`; `where` is the table's name in messages.

    Fields may be int, float, bool, str, dict, or a homogeneous tuple of int or float (a list in `raw`).
    A field's metadata may hold `low` and `high` (both included; for tuples, of each entry) and `most`
    (entries of a tuple). Raises RecipeError.
    """
    if not isinstance(raw, Mapping):
        raise RecipeError(f"{where}: wanted a table, got {type(raw).__name__}")
    fields = {f.name: f for f in dataclasses.fields(kind)}  # type: ignore[arg-type]  # any dataclass
    unknown = sorted(str(name) for name in raw if name not in fields)
    if unknown:
        raise RecipeError(f"{where}: unknown {', '.join(unknown)}; known: {', '.join(sorted(fields))}")
    hints = get_type_hints(kind)
    values: dict[str, Any] = {}
    for name, value in raw.items():
        values[name] = _convert(value, hints[name], f"{where}.{name}")
        _check_range(values[name], fields[name].metadata, f"{where}.{name}")
    missing = [n for n, f in fields.items() if n not in values and _required(f)]
    if missing:
        raise RecipeError(f"{where}: missing {', '.join(missing)}")
    return kind(**values)


def _required(f: dataclasses.Field[Any]) -> bool:
    return f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING


def _convert(value: object, wanted: Any, where: str) -> Any:  # noqa: ANN401  # types as values
    if get_origin(wanted) is tuple:
        if not isinstance(value, list | tuple):
            raise RecipeError(f"{where}: wanted a list, got {value!r}")
        entry = get_args(wanted)[0]
        return tuple(_convert(v, entry, where) for v in value)
    if get_origin(wanted) is dict:
        wanted = dict
    if wanted is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if not isinstance(value, wanted) or (wanted is not bool and isinstance(value, bool)):
        raise RecipeError(f"{where}: wanted {wanted.__name__}, got {value!r}")
    return value


def _check_range(value: object, limits: Mapping[str, Any], where: str) -> None:
    entries = value if isinstance(value, tuple) else (value,)
    if "most" in limits and not 1 <= len(entries) <= limits["most"]:
        raise RecipeError(f"{where}: wanted 1 to {limits['most']} entries, got {len(entries)}")
    for entry in entries:
        if isinstance(entry, float) and not math.isfinite(entry):
            raise RecipeError(f"{where}: wanted a finite number, got {entry}")
        if "low" in limits and not limits["low"] <= entry <= limits["high"]:
            raise RecipeError(f"{where}: wanted {limits['low']} to {limits['high']}, got {entry}")


def option(default: Any = dataclasses.MISSING, **limits: float) -> Any:  # noqa: ANN401  # as dataclasses.field
    """A dataclass field with limits: `low` and `high` of its value (or entries), `most` entries."""
    metadata = limits
    if default is dataclasses.MISSING:
        return dataclasses.field(metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)
