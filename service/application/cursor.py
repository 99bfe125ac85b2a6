"""Cursors: opaque text that says where a page ended.

A search cursor names the model, the query and the last hit's (distance, id). The order of hits is total,
so "strictly after that hit" means the same in every generation of one model, after a restart and after the
hit itself was deleted: pages stay what they were. Under another model distances mean something else, and
with another query the place means nothing: both are refused. Nothing in a cursor is secret and nothing is
trusted: each field is checked, and only the exact text that we would write is taken.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from dataclasses import asdict
from typing import Any

from service.application.errors import InvalidInput
from service.application.ports import Neighbour
from service.application.types import Filter, Side
from service.application.validation import check_id

_MAX_CHARS = 1000
_DIGEST_CHARS = 16


def query_digest(
    code: bytes, direction: tuple[Side, Side], scope: tuple[int | None, str | None], where: Filter
) -> str:
    """What makes two queries the same: code, direction, (max_distance, item left out), filter; not `k`."""
    canonical = json.dumps([code.hex(), direction, scope, asdict(where)], sort_keys=True)
    return _short(canonical)


def write_search_cursor(model_digest: str, query: str, last: Neighbour) -> str:
    """Cursor to continue a search after `last`."""
    return _write({"d": last.distance, "i": last.id, "m": _short(model_digest), "q": query})


def read_search_cursor(cursor: str, model_digest: str, query: str, bits: int) -> Neighbour:
    """Where to continue.

    Raises `InvalidInput`: `bad_cursor`, `stale_cursor` (another model) or `foreign_cursor` (another query).
    """
    fields = _read(cursor, {"d": int, "i": str, "m": str, "q": str})
    if fields["m"] != _short(model_digest):
        raise InvalidInput(
            "this cursor belongs to a model that is no longer served: start from the first page",
            code="stale_cursor",
        )
    if fields["q"] != query:
        raise InvalidInput("this cursor belongs to another query", code="foreign_cursor")
    if not 0 <= fields["d"] <= bits:
        raise _bad()
    return Neighbour(check_id(fields["i"]), fields["d"])


def write_page_cursor(last_id: str) -> str:
    """Cursor to continue a listing of items after `last_id`."""
    return _write({"a": last_id})


def read_page_cursor(cursor: str) -> str:
    """The id to continue after. Raises `InvalidInput` (`bad_cursor`)."""
    return check_id(_read(cursor, {"a": str})["a"])


def _short(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:_DIGEST_CHARS]


def _write(fields: dict[str, Any]) -> str:
    text = json.dumps(fields, sort_keys=True, separators=(",", ":"))
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def _read(cursor: str, wanted: dict[str, type]) -> dict[str, Any]:
    if len(cursor) > _MAX_CHARS:
        raise _bad()
    try:
        fields = json.loads(base64.urlsafe_b64decode(cursor.encode("ascii") + b"=" * (-len(cursor) % 4)))
    except (ValueError, binascii.Error, RecursionError) as error:
        raise _bad() from error
    if not isinstance(fields, dict) or {name: type(value) for name, value in fields.items()} != wanted:
        raise _bad()
    if _write(fields) != cursor:
        raise _bad()
    return fields


def _bad() -> InvalidInput:
    return InvalidInput("this is no cursor that an answer of this call gave", code="bad_cursor")
