"""Questions about the catalog as a whole, for `hashguard doctor`, and the few changes that put it right."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

from sqlalchemy import ColumnElement, Connection, and_, delete, distinct, exists, func, select, update
from sqlalchemy.exc import DatabaseError, IntegrityError, OperationalError

from service.application.errors import NotFound
from service.application.types import Generation
from service.catalog.database import Database, chunks, read_counter
from service.catalog.generations import SqlGenerations, point_alias
from service.catalog.tables import (
    ITEM_COUNTER,
    AliasRow,
    CodeRow,
    CounterRow,
    GenerationRow,
    ItemRow,
    MetadataRow,
    OrphanRow,
)

_NAMED = 5


class SqlAudit:
    """`AuditRepository` on a database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def damage(self, quick: bool = False) -> list[str]:
        """What SQLite says of its file's soundness; PostgreSQL looks after its own.

        `quick` does not notice an index that lacks rows of its table, by which an image seems nobody's.
        """
        if self._database.engine.dialect.name != "sqlite":
            return []
        with self._database.read() as connection:
            lines = [] if quick else _told(connection, "integrity_check")
            lines = lines or _told(connection, "quick_check") or ["the check could not go on: malformed"]
        return [" ".join(line.split()) for line in lines if line != "ok"]

    def item_counts(self) -> tuple[int, int]:
        """The number of items that the counter says, and the number of rows."""
        with self._database.read() as connection:
            return read_counter(connection, ITEM_COUNTER), _rows(connection)

    def recount(self) -> int:
        """Set the counter to the number of rows; that number."""
        with self._database.write() as connection:
            rows = _rows(connection)
            connection.execute(update(CounterRow).where(CounterRow.name == ITEM_COUNTER).values(value=rows))
        return rows

    def strays(self) -> dict[str, tuple[int, list[str]]]:
        """Table -> number of ids and the first few whose rows there belong to items that have no row."""
        found = {}
        with self._database.read() as connection:
            for table in (CodeRow, MetadataRow):
                orphan = ~exists().where(ItemRow.id == table.item_id)
                count = connection.execute(
                    select(func.count(distinct(table.item_id))).where(orphan)
                ).scalar_one()
                ids = select(table.item_id).where(orphan).distinct().order_by(table.item_id).limit(_NAMED)
                if count:
                    found[table.__tablename__] = (count, [*connection.execute(ids).scalars()])
        return found

    def empty_items(self, limit: int) -> tuple[int, list[str]]:
        """Items with neither image nor text nor a valid code: their number and the first ids."""
        empty = and_(
            ItemRow.image_digest.is_(None),
            ItemRow.text.is_(None),
            ~exists().where(CodeRow.item_id == ItemRow.id, CodeRow.seq == ItemRow.seq),
        )
        return self._counted(empty, limit)

    def aliases(self) -> Mapping[str, str]:
        """Where each alias points, whether that is there or not."""
        with self._database.read() as connection:
            return _pointed(connection)

    def point(self, alias: str, generation_id: str | None, instead_of: str | None) -> bool:
        """Point an alias at a generation that is there, or drop it (None); False when it has moved meanwhile.

        `instead_of`: where it points until now, None when it is not there.
        """
        with self._database.write() as connection:
            if _pointed(connection).get(alias) != instead_of:
                return False
            _point(connection, alias, generation_id)
        return True

    def adopt(self, generation: Generation) -> None:
        """Record a generation whose row was lost; nothing happens when it is there (again)."""
        with suppress(IntegrityError):
            SqlGenerations(self._database).add(generation)

    def take_place(self, old_id: str, new_id: str) -> bool:
        """Point at a new generation what points at another now; whether anything did. Raises `NotFound`.

        Should somebody have made the new one live already, the other alias has nothing to point at.
        """
        with self._database.write() as connection:
            known = select(GenerationRow.id).where(GenerationRow.id == new_id)
            if connection.execute(known).one_or_none() is None:
                raise NotFound(f"the index generation {new_id} is not kept any more")
            pointed = _pointed(connection)
            taken = new_id in pointed.values()
            moving = sorted(name for name, wanted in pointed.items() if wanted == old_id)
            for name in moving:
                _point(connection, name, None if taken else new_id)
                taken = True
        return bool(moving)

    def forget(self, generation_id: str) -> bool:
        """Remove the row of a generation, unless an alias points there: False."""
        with self._database.write() as connection:
            if generation_id in _pointed(connection).values():
                return False
            connection.execute(delete(GenerationRow).where(GenerationRow.id == generation_id))
        return True

    def digests(self, after: str, limit: int) -> list[str]:
        """Digests of images that items have, beyond `after`, in order."""
        column = ItemRow.image_digest
        query = select(column).where(column > after).distinct().order_by(column).limit(limit)
        with self._database.read() as connection:
            return [digest for digest in connection.execute(query).scalars() if digest is not None]

    def owners(self, digest: str, limit: int) -> tuple[int, list[str]]:
        """The items that have an image: their number and the first ids."""
        return self._counted(ItemRow.image_digest == digest, limit)

    def unused(self, digests: Sequence[str]) -> list[str]:
        """Those that no item has."""
        with self._database.read() as connection:
            return _unused(connection, digests)

    def remove_unused(self, digests: Sequence[str], remove: Callable[[str], None]) -> int:
        """Call `remove` for those that no item has, under the catalog's write lock; their number.

        As in `SqlItems.collect_blobs`: a writer makes sure of its blobs under the same lock.
        """
        with self._database.write() as connection:
            gone = _unused(connection, digests)
            for digest in gone:
                remove(digest)
            for chunk in chunks(gone):
                connection.execute(delete(OrphanRow).where(OrphanRow.digest.in_(chunk)))
        return len(gone)

    def _counted(self, which: ColumnElement[bool], limit: int) -> tuple[int, list[str]]:
        """The number of items that satisfy a condition, and the first ids."""
        ids = select(ItemRow.id).where(which).order_by(ItemRow.id).limit(limit)
        count = select(func.count()).select_from(ItemRow).where(which)
        with self._database.read() as connection:
            return connection.execute(count).scalar_one(), [*connection.execute(ids).scalars()]


def _pointed(connection: Connection) -> dict[str, str]:
    return {row.name: row.generation_id for row in connection.execute(select(AliasRow.__table__))}


def _point(connection: Connection, alias: str, generation_id: str | None) -> None:
    if generation_id is None:
        connection.execute(delete(AliasRow).where(AliasRow.name == alias))
    else:
        point_alias(connection, alias, generation_id)


def _told(connection: Connection, pragma: str) -> list[str]:
    """What a check of SQLite's says; nothing when damage stops it, as some stops only the thorough one."""
    try:
        return [*connection.exec_driver_sql(f"PRAGMA {pragma}(10)").scalars()]
    except OperationalError:
        raise
    except DatabaseError:
        return []


def _rows(connection: Connection) -> int:
    return connection.execute(select(func.count()).select_from(ItemRow)).scalar_one()


def _unused(connection: Connection, digests: Sequence[str]) -> list[str]:
    used: set[str | None] = set()
    for chunk in chunks(digests):
        found = select(ItemRow.image_digest).where(ItemRow.image_digest.in_(chunk)).distinct()
        used.update(connection.execute(found).scalars())
    return [digest for digest in digests if digest not in used]
