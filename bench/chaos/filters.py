"""The oracle's own reading of the contract's metadata filters, in plain Python."""

from __future__ import annotations

from collections.abc import Callable
from operator import eq, ge, gt, le, lt

from bench.chaos.journal import Event

_COMPARE: dict[str, Callable[[object, object], bool]] = {"eq": eq, "gt": gt, "gte": ge, "lt": lt, "lte": le}


def holds(condition: Event | None, metadata: dict[str, object]) -> bool:
    """Whether metadata pass a filter: all of `must`, one of `should` if there are any, none of `must_not`."""
    if condition is None:
        return True
    should = condition.get("should", [])
    return (
        all(_test(one, metadata) for one in condition.get("must", []))
        and (not should or any(_test(one, metadata) for one in should))
        and not any(_test(one, metadata) for one in condition.get("must_not", []))
    )


def _test(part: Event, metadata: dict[str, object]) -> bool:
    """A list in the metadata passes when one of its members does."""
    if part["key"] not in metadata:
        return False
    value = metadata[part["key"]]
    members = value if isinstance(value, list) else [value]
    [(operator, wanted)] = [(name, one) for name, one in part.items() if name != "key"]
    if operator == "in":
        return any(_compared("eq", member, one) for member in members for one in wanted)
    return any(_compared(operator, member, wanted) for member in members)


def _compared(operator: str, value: object, wanted: object) -> bool:
    """Values of different kinds never match; strings compare by their bytes."""
    if _kind(value) is not _kind(wanted):
        return False
    pair = (value.encode(), wanted.encode()) if isinstance(value, str) else (value, wanted)
    return _COMPARE[operator](*pair)


def _kind(value: object) -> type:
    return float if isinstance(value, int) and not isinstance(value, bool) else type(value)
