"""What the use cases accept: ids, texts, metadata, filters and queries.

Everything here comes from outside and is checked again whatever the transport has checked before.
Raises `InvalidInput` with a stable `code`; messages quote at most a few characters of the input.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from service.application.errors import InvalidInput, TooLarge
from service.application.types import Condition, Filter, ItemDraft, Query

MAX_K = 1000
MAX_INTEGER = 2**53
"""Largest integer that metadata keep exactly: filters compare numbers as IEEE doubles."""

_ID = re.compile(r"[A-Za-z0-9._:-]{1,200}", re.ASCII)
_OPERATORS = {"eq", "in", "gt", "gte", "lt", "lte"}
_ORDERED = {"gt", "gte", "lt", "lte"}


@dataclass(frozen=True)
class Limits:
    """Sizes that a client may send; the names say the units."""

    max_image_bytes: int
    max_text_chars: int
    max_metadata_keys: int
    max_metadata_key_chars: int
    max_metadata_value_chars: int
    max_metadata_list: int
    max_filter_conditions: int
    max_filter_values: int
    max_batch_items: int
    max_batch_queries: int


def check_id(item_id: object) -> str:
    """The id when it can be one; `.` and `..` cannot, because a URL path never carries them whole."""
    if not isinstance(item_id, str) or not _ID.fullmatch(item_id) or item_id in {".", ".."}:
        raise InvalidInput(
            f"an id has 1 to 200 characters of A-Z a-z 0-9 . _ : - (not . or ..), got {_quoted(item_id)}",
            code="bad_id",
        )
    return item_id


def check_text(text: object, limits: Limits) -> str:
    """The text when it is not blank, has no NUL, is proper Unicode and not too long."""
    if not isinstance(text, str) or not text.strip():
        raise InvalidInput("a text needs at least one character that is not white space", code="empty_text")
    if len(text) > limits.max_text_chars:
        raise InvalidInput(
            f"a text may have {limits.max_text_chars} characters, got {len(text)}", code="text_too_long"
        )
    _check_characters(text, "a text", "bad_text")
    return text


def check_image(data: object, limits: Limits) -> bytes:
    """The image bytes when they are not too many; whether they are an image the decoder says."""
    if not isinstance(data, bytes):
        raise InvalidInput(f"an image is bytes, got {type(data).__name__}", code="bad_image")
    if len(data) > limits.max_image_bytes:
        raise TooLarge(f"an image may have {limits.max_image_bytes} bytes, got {len(data)}")
    return data


def check_draft(draft: ItemDraft, limits: Limits) -> None:
    """Raise `InvalidInput` when the draft cannot become an item."""
    check_id(draft.id)
    if draft.image is None and draft.text is None:
        raise InvalidInput("an item needs an image or a text", code="empty_item")
    if draft.image is not None:
        check_image(draft.image, limits)
    if draft.text is not None:
        check_text(draft.text, limits)
    check_metadata(draft.metadata, limits)


def check_metadata(metadata: object, limits: Limits) -> None:
    """Raise `InvalidInput` when it is no flat object of strings, numbers, booleans and lists of strings."""
    if not isinstance(metadata, Mapping):
        raise InvalidInput(f"metadata is an object, got {type(metadata).__name__}", code="bad_metadata")
    if len(metadata) > limits.max_metadata_keys:
        raise InvalidInput(
            f"metadata may have {limits.max_metadata_keys} keys, got {len(metadata)}", code="bad_metadata"
        )
    for key, value in metadata.items():
        _check_key(key, limits)
        if isinstance(value, list):
            _check_list(key, value, limits)
        else:
            _check_scalar(f"metadata value of {_quoted(key)}", value, limits, "bad_metadata")


def check_filter(condition: Filter, limits: Limits) -> None:
    """Raise `InvalidInput` when the filter asks what no metadata can answer."""
    parts = (*condition.must, *condition.should, *condition.must_not)
    if len(parts) > limits.max_filter_conditions:
        raise InvalidInput(
            f"a filter may have {limits.max_filter_conditions} conditions, got {len(parts)}",
            code="bad_filter",
        )
    for part in parts:
        _check_condition(part, limits)


def check_query(query: Query, limits: Limits) -> None:
    """Raise `InvalidInput` when the query does not hang together; distances need the model's bits."""
    given = [name for name in ("image", "text", "item") if getattr(query, name) is not None]
    if len(given) != 1:
        raise InvalidInput(f"a query has exactly one of image, text and item, got {given or 'none'}")
    if query.to not in {"image", "text"}:
        raise InvalidInput(f"`to` is image or text, got {_quoted(query.to)}")
    if not _is_integer(query.k) or not 1 <= query.k <= MAX_K:
        raise InvalidInput(f"k is 1 to {MAX_K}, got {_quoted(query.k)}", code="bad_k")
    if query.item is not None:
        check_id(query.item[0])
        if query.item[1] not in {"image", "text"}:
            raise InvalidInput(f"`from` is image or text, got {_quoted(query.item[1])}")
    check_filter(query.filter, limits)


def check_max_distance(max_distance: int | None, bits: int) -> None:
    """Raise `InvalidInput` when the distance is outside 0..bits."""
    if max_distance is None:
        return
    if not _is_integer(max_distance) or not 0 <= max_distance <= bits:
        raise InvalidInput(
            f"max_distance is 0 to {bits} (the model's bits), got {_quoted(max_distance)}",
            code="bad_max_distance",
        )


def check_count(what: str, values: Sequence[object], limit: int) -> None:
    """Raise `InvalidInput` when a batch is empty or too long."""
    if not 1 <= len(values) <= limit:
        raise InvalidInput(f"a batch has 1 to {limit} {what}, got {len(values)}", code="bad_batch")


def _check_key(key: object, limits: Limits) -> None:
    if not isinstance(key, str) or not 1 <= len(key) <= limits.max_metadata_key_chars:
        raise InvalidInput(
            f"a metadata key has 1 to {limits.max_metadata_key_chars} characters, got {_quoted(key)}",
            code="bad_metadata",
        )
    _check_characters(key, "a metadata key", "bad_metadata")


def _check_list(key: str, values: Iterable[object], limits: Limits) -> None:
    listed = list(values)
    if len(listed) > limits.max_metadata_list:
        raise InvalidInput(
            f"a metadata list may have {limits.max_metadata_list} strings, {_quoted(key)} has {len(listed)}",
            code="bad_metadata",
        )
    for value in listed:
        if not isinstance(value, str):
            raise InvalidInput(
                f"metadata lists hold strings, {_quoted(key)} holds {type(value).__name__}",
                code="bad_metadata",
            )
        _check_scalar(f"a string in the list {_quoted(key)}", value, limits, "bad_metadata")


def _check_scalar(what: str, value: object, limits: Limits, code: str) -> None:
    if isinstance(value, str):
        if len(value) > limits.max_metadata_value_chars:
            raise InvalidInput(
                f"{what} may have {limits.max_metadata_value_chars} characters, got {len(value)}", code=code
            )
        _check_characters(value, what, code)
    elif isinstance(value, float) and not math.isfinite(value):
        raise InvalidInput(f"{what} must be a finite number, got {value}", code=code)
    elif isinstance(value, int) and not -MAX_INTEGER <= value <= MAX_INTEGER:
        raise InvalidInput(f"{what} must lie within +-2^53, beyond that integers are not exact", code=code)
    elif not isinstance(value, int | float):
        raise InvalidInput(
            f"{what} must be a string, number, boolean or list of strings, got {type(value).__name__}",
            code=code,
        )


def _check_condition(condition: Condition, limits: Limits) -> None:
    if not condition.key:
        raise InvalidInput("a filter's key cannot be empty", code="bad_filter")
    if condition.operator not in _OPERATORS:
        raise InvalidInput(
            f"a filter tests eq, in, gt, gte, lt or lte, got {_quoted(condition.operator)}", code="bad_filter"
        )
    what = f"the filter's value for {_quoted(condition.key)}"
    _check_characters(condition.key, "a filter's key", "bad_filter")
    value = condition.value
    if condition.operator == "in":
        if isinstance(value, str) or not isinstance(value, Sequence) or len(value) > limits.max_filter_values:
            raise InvalidInput(
                f"{what} must be a list of at most {limits.max_filter_values} values", code="bad_filter"
            )
        for one in value:
            _check_scalar(what, one, limits, "bad_filter")
        return
    _check_scalar(what, value, limits, "bad_filter")
    if condition.operator in _ORDERED and isinstance(value, bool):
        raise InvalidInput(f"{what} cannot be a boolean: booleans have no order", code="bad_filter")


def _check_characters(text: str, what: str, code: str) -> None:
    if "\0" in text:
        raise InvalidInput(f"{what} must not hold a NUL character", code=code)
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise InvalidInput(f"{what} must be proper Unicode, got a lone surrogate", code=code) from error


def _is_integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _quoted(value: object) -> str:
    """A short, printable piece of what came."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
