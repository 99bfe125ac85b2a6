r"""JSON as RFC 8259 has it, and nothing that only Python takes: no NaN, no name twice, no lone surrogates.

Python's reader takes `NaN`, keeps the last of two equal names, and lets `"\ud800"` through, which fails
later where it is written as UTF-8. NUL is refused with it: PostgreSQL cannot store it. Integers stay
within 64 bits, depth within `MAX_DEPTH`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, NoReturn

from service.api.errors import FieldError, InvalidFields, pointer_to
from service.application.errors import BadRequest

MAX_DEPTH = 16
"""Deepest nesting of objects and lists."""

_UNSTORABLE = re.compile("[\0\ud800-\udfff]")
_INTEGERS = range(-(2**63), 2**63)


def loads(data: bytes | str, place: str = "body", root: tuple[object, ...] = ()) -> object:
    """The value of a JSON document.

    `place` and `root` say in errors where the document came from (a form field has its name as root).

    Raises:
        BadRequest: not UTF-8, or not JSON.
        InvalidFields: JSON that holds what is refused above.
    """
    where = f"{place} {pointer_to(root)}" if root else place
    try:
        text = data.decode("utf-8") if isinstance(data, bytes) else data
        value: object = json.loads(text, parse_constant=_no_constant, object_pairs_hook=_unique)
    except UnicodeDecodeError as error:
        raise BadRequest(f"The JSON ({where}) is not valid UTF-8.", code="invalid_json") from error
    except RecursionError as error:
        raise BadRequest(f"The JSON ({where}) is nested too deeply.", code="invalid_json") from error
    except ValueError as error:
        detail = f"The JSON ({where}) cannot be read: {_reason(error)}"
        raise BadRequest(detail, code="invalid_json") from error
    faults = _faults(value, root)
    errors = [FieldError(place, pointer_to(path), code, detail) for path, code, detail in faults]
    if errors:
        raise InvalidFields(errors)
    return value


def _reason(error: ValueError) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg} at character {error.pos}."
    return f"{error}."


def _no_constant(word: str) -> NoReturn:
    raise ValueError(f"{word} is no JSON number")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("an object has the same name twice")
    return result


def _faults(value: object, path: tuple[object, ...]) -> Iterator[tuple[tuple[object, ...], str, str]]:
    """The first fault of each branch: its path, code and words."""
    if isinstance(value, str):
        if _UNSTORABLE.search(value):
            yield path, "invalid_text", "the text holds NUL or half a surrogate pair"
    elif isinstance(value, int) and value not in _INTEGERS:
        yield path, "integer_range", "the integer does not fit 64 bits"
    elif isinstance(value, float) and value in (float("inf"), float("-inf")):
        yield path, "number_range", "the number is too large"
    elif isinstance(value, (dict, list)):
        yield from _faults_within(value, path)


def _faults_within(
    value: dict[str, Any] | list[Any], path: tuple[object, ...]
) -> Iterator[tuple[tuple[object, ...], str, str]]:
    if len(path) >= MAX_DEPTH:
        yield path, "too_deep", f"nested deeper than {MAX_DEPTH} levels"
        return
    if isinstance(value, dict):
        for key, member in value.items():
            key_faults = list(_faults(key, path))
            yield from key_faults
            if not key_faults:
                yield from _faults(member, (*path, key))
        return
    for index, member in enumerate(value):
        yield from _faults(member, (*path, index))
