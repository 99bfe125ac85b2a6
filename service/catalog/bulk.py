"""Codes by the hundred thousand, in SQL: a few statements for each call, none of them for an item.

The ids travel as one parameter (SQLite: JSON, PostgreSQL: an array) and the codes as another, which the
database cuts into rows; measured on SQLite, some 4 microseconds an item with its code and its change.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime

from sqlalchemy import Connection, TextClause, and_, bindparam, select, text

from service.application.bulk_ports import CodedContent
from service.application.ports import CodeArray
from service.application.types import Side
from service.catalog.database import Database, move_counter
from service.catalog.tables import ITEM_COUNTER, SEQ_COUNTER, CodeRow, ItemRow

_PAGE = 16384
_GIVEN = {
    "sqlite": "SELECT key AS place, value AS id FROM json_each(:ids)",
    "postgresql": (
        "SELECT CAST(number - 1 AS int) AS place, id "
        "FROM unnest(CAST(:ids AS text[])) WITH ORDINALITY AS listed (id, number)"
    ),
}
_ITEMS = """
INSERT INTO items (id, seq, meta, created, updated)
SELECT given.id, :first + given.place, '{{}}', :now, :now FROM ({given}) AS given WHERE true
ON CONFLICT (id) DO NOTHING
"""
_CODES = """
INSERT INTO codes (item_id, model_digest, side, seq, code)
SELECT given.id, :digest, :side, items.seq, substr({codes}, 1 + given.place * :width, :width)
FROM ({given}) AS given JOIN items ON items.id = given.id WHERE true
ON CONFLICT (item_id, model_digest, side) DO UPDATE SET seq = EXCLUDED.seq, code = EXCLUDED.code
"""
_CHANGES = """
INSERT INTO changes (seq, item_id) SELECT :first + given.place, given.id FROM ({given}) AS given
"""


class SqlBulk:
    """`BulkRepository` on a database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def put(
        self, ids: Sequence[str], codes: Mapping[Side, CodeArray], model_digest: str, now: datetime
    ) -> tuple[int, int, int]:
        """Give distinct ids these codes of a model; see `BulkRepository.put`."""
        with self._database.write() as connection:
            last = move_counter(connection, SEQ_COUNTER, len(ids))
            first = last - len(ids) + 1
            given = {"ids": _listed(connection, ids)}
            made = connection.execute(_sql(connection, _ITEMS), given | {"first": first, "now": now}).rowcount
            move_counter(connection, ITEM_COUNTER, made)
            for side, array in codes.items():
                row = {"digest": model_digest, "side": side, "width": array.shape[1]}
                connection.execute(_sql(connection, _CODES), given | row | {"codes": array.tobytes()})
            connection.execute(_sql(connection, _CHANGES), given | {"first": first})
        return made, first, last

    def coded(self, model_digest: str, side: Side) -> Iterator[list[CodedContent]]:
        """All valid codes of a model on one side with what they were made of; see `BulkRepository.coded`."""
        content = ItemRow.image_digest if side == "image" else ItemRow.text
        query = (
            select(CodeRow.item_id, CodeRow.code, content)
            .join(ItemRow, and_(ItemRow.id == CodeRow.item_id, ItemRow.seq == CodeRow.seq))
            .where(CodeRow.model_digest == model_digest, CodeRow.side == side)
            .order_by(CodeRow.item_id)
        )
        with self._database.read() as connection:
            rows = connection.execution_options(yield_per=_PAGE).execute(query)
            for page in rows.partitions():
                yield [CodedContent(*row) for row in page]


def _listed(connection: Connection, ids: Sequence[str]) -> str | list[str]:
    """Ids as the parameter that `_GIVEN` takes apart."""
    return json.dumps([*ids]) if connection.dialect.name == "sqlite" else [*ids]


def _sql(connection: Connection, statement: str) -> TextClause:
    """One of the statements above for this database, with the type of its time."""
    name = connection.dialect.name
    codes = ":codes" if name == "sqlite" else "CAST(:codes AS bytea)"
    clause = text(statement.format(given=_GIVEN[name], codes=codes))
    if ":now" in statement:
        clause = clause.bindparams(bindparam("now", type_=ItemRow.__table__.c.created.type))
    return clause
