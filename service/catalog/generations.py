"""Index generations and the alias `live`, in SQL."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, Row, delete, insert, select, update

from service.application.errors import Conflict, NotFound
from service.application.types import Generation
from service.catalog.database import Database
from service.catalog.tables import AliasRow, GenerationRow

LIVE = "live"

_TABLE = GenerationRow.__table__


class SqlGenerations:
    """`GenerationRepository` on a database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, generation: Generation) -> None:
        """Record a generation; its `live` field is not stored, the alias says that."""
        values = {column.name: getattr(generation, column.name) for column in _TABLE.columns}
        with self._database.write() as connection:
            connection.execute(insert(GenerationRow).values(**values))

    def get(self, generation_id: str) -> Generation | None:
        """One generation, or None."""
        with self._database.read() as connection:
            query = select(_TABLE).where(_TABLE.c.id == generation_id)
            row = connection.execute(query).one_or_none()
            return None if row is None else _generation(row, _live_id(connection))

    def all(self) -> list[Generation]:
        """All generations, newest first."""
        with self._database.read() as connection:
            live = _live_id(connection)
            query = select(_TABLE).order_by(_TABLE.c.created.desc(), _TABLE.c.id.desc())
            return [_generation(row, live) for row in connection.execute(query)]

    def live(self) -> Generation | None:
        """The generation that the alias names, or None."""
        query = (
            select(_TABLE).join(AliasRow, AliasRow.generation_id == _TABLE.c.id).where(AliasRow.name == LIVE)
        )
        with self._database.read() as connection:
            row = connection.execute(query).one_or_none()
        return None if row is None else _generation(row, row.id)

    def set_live(self, generation_id: str) -> None:
        """Move the alias. Raises `NotFound` when there is no such generation."""
        with self._database.write() as connection:
            move_alias(connection, generation_id)

    def remove(self, generation_id: str) -> None:
        """Forget a generation. Raises `Conflict` when it is live."""
        with self._database.write() as connection:
            if _live_id(connection) == generation_id:
                raise Conflict(f"generation {generation_id} is live and cannot be removed")
            connection.execute(delete(GenerationRow).where(GenerationRow.id == generation_id))


def move_alias(connection: Connection, generation_id: str) -> None:
    """Point `live` at a generation inside a write transaction. Raises `NotFound`."""
    known = connection.execute(select(GenerationRow.id).where(GenerationRow.id == generation_id))
    if known.one_or_none() is None:
        raise NotFound(f"there is no index generation {generation_id!r}")
    alias = update(AliasRow).where(AliasRow.name == LIVE).values(generation_id=generation_id)
    if connection.execute(alias).rowcount == 0:
        connection.execute(insert(AliasRow).values(name=LIVE, generation_id=generation_id))


def _live_id(connection: Connection) -> str | None:
    query = select(AliasRow.generation_id).where(AliasRow.name == LIVE)
    return connection.execute(query).scalar_one_or_none()


def _generation(row: Row[Any], live: str | None) -> Generation:
    return Generation(**row._mapping, live=row.id == live)
