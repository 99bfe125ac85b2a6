"""Metadata filters as SQL on the table `item_metadata`, and the rows that metadata become.

Values match only within their kind: string, number or boolean. So 1 equals 1.0, but neither "1" nor True.
Strings compare by their UTF-8 bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Select, and_, false, func, literal, or_, select

from service.application.types import Condition, Filter, Metadata
from service.catalog.tables import PREFIX, ItemRow, MetadataRow

_Scalar = str | int | float | bool
_SCALARS = (str, int, float, bool)


def metadata_rows(item_id: str, metadata: Metadata) -> Iterator[dict[str, Any]]:
    """One row per scalar of an item's metadata."""
    for key, value in metadata.items():
        for position, scalar in enumerate(value if isinstance(value, list) else [value]):
            kind = _kind(scalar)
            yield {
                "item_id": item_id,
                "key": key,
                "position": position,
                "kind": kind,
                "text_value": scalar if kind == "s" else None,
                "number_value": None if kind == "s" else float(scalar),
            }


def matching_ids(condition: Filter) -> Select[str]:
    """Query for the ids of the items that satisfy the filter."""
    query = select(ItemRow.id)
    for part in condition.must:
        query = query.where(_holds(part))
    if condition.should:
        query = query.where(or_(*(_holds(part) for part in condition.should)))
    for part in condition.must_not:
        query = query.where(~_holds(part))
    return query


def _kind(value: _Scalar) -> str:
    if isinstance(value, bool):
        return "b"
    return "s" if isinstance(value, str) else "n"


def _holds(condition: Condition) -> ColumnElement[bool]:
    rows = select(MetadataRow.item_id).where(MetadataRow.key == condition.key, _test(condition))
    return ItemRow.id.in_(rows)


def _test(condition: Condition) -> ColumnElement[bool]:
    wanted = condition.value
    if not isinstance(wanted, _SCALARS):
        return _one_of(wanted)
    kind, column, value = _typed(wanted)
    compared = [_compared(column, condition.operator, value)]
    if kind == "s":  # the index holds prefixes; their order is that of the whole values but for ties
        weaker = {"gt": "gte", "lt": "lte"}.get(condition.operator, condition.operator)
        compared.append(_compared(_prefix(), weaker, str(value)[:PREFIX]))
    return and_(MetadataRow.kind == kind, *compared)


def _compared(column: ColumnElement[Any], operator: str, value: _Scalar) -> ColumnElement[bool]:
    tests: dict[str, ColumnElement[bool]] = {
        "eq": column == value,
        "gt": column > value,
        "gte": column >= value,
        "lt": column < value,
        "lte": column <= value,
    }
    return tests[operator]


def _prefix() -> ColumnElement[str]:
    """What the index on strings holds, written as there: with its numbers in the statement."""
    first, length = (literal(number, literal_execute=True) for number in (1, PREFIX))
    return func.substr(MetadataRow.text_value, first, length)


def _one_of(values: Iterable[_Scalar]) -> ColumnElement[bool]:
    by_kind: dict[str, list[Any]] = {}
    for value in values:
        by_kind.setdefault(_kind(value), []).append(value)
    return or_(false(), *(_kind_in(kind, some) for kind, some in by_kind.items()))


def _kind_in(kind: str, values: Sequence[Any]) -> ColumnElement[bool]:
    column = _typed(values[0])[1]
    if kind != "s":
        return and_(MetadataRow.kind == kind, column.in_([float(value) for value in values]))
    prefixes = sorted({value[:PREFIX] for value in values})
    return and_(MetadataRow.kind == kind, _prefix().in_(prefixes), column.in_(values))


def _typed(value: _Scalar) -> tuple[str, Any, _Scalar]:
    kind = _kind(value)
    if kind == "s":
        return kind, MetadataRow.text_value, value
    return kind, MetadataRow.number_value, float(value)
