"""Index generations and the aliases `live` and `predecessor`, in SQL."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, Row, delete, insert, select, update

from service.application.errors import Conflict, NotFound
from service.application.types import Generation
from service.catalog.database import Database
from service.catalog.tables import AliasRow, GenerationRow

LIVE = "live"
PREDECESSOR = "predecessor"

_TABLE = GenerationRow.__table__


class SqlGenerations:
    """`GenerationRepository` on a database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, generation: Generation) -> None:
        """Record a generation; what it is (`live`, `predecessor`) is not stored, the aliases say that."""
        values = {column.name: getattr(generation, column.name) for column in _TABLE.columns}
        with self._database.write() as connection:
            connection.execute(insert(GenerationRow).values(**values))

    def get(self, generation_id: str) -> Generation | None:
        """One generation, or None."""
        with self._database.read() as connection:
            query = select(_TABLE).where(_TABLE.c.id == generation_id)
            row = connection.execute(query).one_or_none()
            return None if row is None else _generation(row, _aliases(connection))

    def all(self) -> list[Generation]:
        """All generations, newest first."""
        with self._database.read() as connection:
            aliases = _aliases(connection)
            query = select(_TABLE).order_by(_TABLE.c.created.desc(), _TABLE.c.id.desc())
            return [_generation(row, aliases) for row in connection.execute(query)]

    def live(self) -> Generation | None:
        """The generation that the alias names, or None."""
        return self._named(LIVE)

    def predecessor(self) -> Generation | None:
        """The generation that was live before the live one while it is kept, or None."""
        return self._named(PREDECESSOR)

    def set_live(self, generation_id: str) -> None:
        """Move the alias; what was live becomes the predecessor. Raises `NotFound`."""
        with self._database.write() as connection:
            move_alias(connection, generation_id)

    def remove(self, generation_id: str) -> None:
        """Forget a generation. Raises `Conflict` when it is live."""
        with self._database.write() as connection:
            if _aliases(connection).get(LIVE) == generation_id:
                raise Conflict(f"generation {generation_id} is live and cannot be removed")
            connection.execute(delete(AliasRow).where(AliasRow.generation_id == generation_id))
            connection.execute(delete(GenerationRow).where(GenerationRow.id == generation_id))

    def _named(self, alias: str) -> Generation | None:
        query = (
            select(_TABLE).join(AliasRow, AliasRow.generation_id == _TABLE.c.id).where(AliasRow.name == alias)
        )
        with self._database.read() as connection:
            row = connection.execute(query).one_or_none()
        return None if row is None else _generation(row, {alias: row.id})


def move_alias(connection: Connection, generation_id: str) -> None:
    """Point `live` at a generation inside a write transaction, `predecessor` at what was. `NotFound`.

    When what was live is lost, the predecessor stays what it is, unless that is live now.
    """
    aliases = _aliases(connection)
    live = aliases.get(LIVE)
    query = select(GenerationRow.id).where(GenerationRow.id.in_([generation_id, live]))
    known = {*connection.execute(query).scalars()}
    if generation_id not in known:
        raise NotFound(f"there is no index generation {generation_id!r}")
    if live == generation_id:
        return
    point_alias(connection, LIVE, generation_id)
    if live is not None and live in known:
        point_alias(connection, PREDECESSOR, live)
    elif aliases.get(PREDECESSOR) == generation_id:
        connection.execute(delete(AliasRow).where(AliasRow.name == PREDECESSOR))


def point_alias(connection: Connection, name: str, generation_id: str) -> None:
    """Point one alias at a generation inside a write transaction, whatever the others do."""
    alias = update(AliasRow).where(AliasRow.name == name).values(generation_id=generation_id)
    if connection.execute(alias).rowcount == 0:
        connection.execute(insert(AliasRow).values(name=name, generation_id=generation_id))


def _aliases(connection: Connection) -> dict[str, str]:
    return {row.name: row.generation_id for row in connection.execute(select(AliasRow.__table__))}


def _generation(row: Row[Any], aliases: Mapping[str, str]) -> Generation:
    live, predecessor = aliases.get(LIVE), aliases.get(PREDECESSOR)
    return Generation(**row._mapping, live=row.id == live, predecessor=row.id == predecessor)
