"""Items in SQL: rows, metadata, and the sequence number that every change takes.

A change takes its numbers from a counter row in its own transaction (see `tables`), so numbers become
visible in their order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import Connection, Row, bindparam, delete, exists, insert, select, update

from service.application.ports import ItemRecord, Written
from service.application.types import Filter, Item
from service.catalog.database import Database, chunks, move_counter, read_counter
from service.catalog.filters import matching_ids, metadata_rows
from service.catalog.tables import (
    ITEM_COUNTER,
    SEQ_COUNTER,
    ChangeRow,
    CodeRow,
    ItemRow,
    MetadataRow,
    OrphanRow,
)

_COLUMNS = (
    ItemRow.id,
    ItemRow.image_digest,
    ItemRow.image_type,
    ItemRow.text,
    ItemRow.meta,
    ItemRow.created,
    ItemRow.updated,
    ItemRow.seq,
)
# Made once: every search asks it, and SQLAlchemy takes longer to build and match it than SQLite to answer.
_BY_ID = select(*_COLUMNS).where(ItemRow.id.in_(bindparam("ids", expanding=True)))


class SqlItems:
    """`ItemRepository` on a database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def put(self, records: Sequence[ItemRecord], before_commit: Callable[[], None]) -> Written:
        """Insert or replace items of distinct ids; `before_commit` runs inside, under the write lock."""
        with self._database.write() as connection:
            last = move_counter(connection, SEQ_COUNTER, len(records))
            first = last - len(records) + 1
            known = _present(connection, [record.item.id for record in records])
            _clear(connection, records, known)
            items = tuple(_with_birth(record.item, known) for record in records)
            _write_items(connection, items, first, known)
            _write_parts(connection, records, first)
            move_counter(connection, ITEM_COUNTER, len(records) - len(known))
            before_commit()
        return Written(items, tuple(item.id not in known for item in items), first, last)

    def delete(self, item_id: str) -> int | None:
        """Delete an item with its metadata and its codes of every model."""
        with self._database.write() as connection:
            known = _present(connection, [item_id])
            if not known:
                return None
            _orphan(connection, {known[item_id].image_digest})
            connection.execute(delete(ItemRow).where(ItemRow.id == item_id))
            move_counter(connection, ITEM_COUNTER, -1)
            seq = move_counter(connection, SEQ_COUNTER, 1)
            connection.execute(insert(ChangeRow).values(seq=seq, item_id=item_id))
        return seq

    def collect_blobs(self, remove: Callable[[str], None]) -> int:
        """Call `remove` for each orphaned blob that no item refers to; the number removed.

        The write lock is held meanwhile, and `put` makes sure of its blobs under the same lock: a blob
        cannot vanish between a writer's look at it and the writer's commit.
        """
        with self._database.read() as connection:
            if connection.execute(select(OrphanRow.digest).limit(1)).first() is None:
                return 0
        removed = 0
        with self._database.write() as connection:
            for digest in connection.execute(select(OrphanRow.digest)).scalars().all():
                used = select(exists().where(ItemRow.image_digest == digest))
                if not connection.execute(used).scalar_one():
                    remove(digest)
                    removed += 1
            connection.execute(delete(OrphanRow))
        return removed

    def get(self, ids: Iterable[str]) -> dict[str, Item]:
        """The items among `ids` that exist."""
        found: dict[str, Item] = {}
        with self._database.read() as connection:
            for chunk in chunks(list(ids)):
                rows = connection.execute(_BY_ID, {"ids": list(chunk)})
                found.update((row.id, _item(row)) for row in rows)
        return found

    def page(self, after: str | None, limit: int) -> list[Item]:
        """Items with an id beyond `after`, in the order of their ids."""
        query = select(*_COLUMNS).order_by(ItemRow.id).limit(limit)
        if after is not None:
            query = query.where(ItemRow.id > after)
        with self._database.read() as connection:
            return [_item(row) for row in connection.execute(query)]

    def count(self) -> int:
        """Number of items, from the counter: costs the same for ten and for ten million."""
        with self._database.read() as connection:
            return read_counter(connection, ITEM_COUNTER)

    def matching(self, condition: Filter) -> frozenset[str]:
        """Ids of the items whose metadata satisfy the filter."""
        with self._database.read() as connection:
            return frozenset(row.id for row in connection.execute(matching_ids(condition)))


class _Known(NamedTuple):
    """What a replacement must know of the item that it replaces."""

    image_digest: str | None
    created: datetime


def _item(row: Row[Any]) -> Item:
    return Item(
        row.id, row.image_digest, row.image_type, row.text, row.meta, row.created, row.updated, row.seq
    )


def _present(connection: Connection, ids: Sequence[str]) -> dict[str, _Known]:
    columns = (ItemRow.id, ItemRow.image_digest, ItemRow.created)
    found: dict[str, _Known] = {}
    for chunk in chunks(ids):
        for row in connection.execute(select(*columns).where(ItemRow.id.in_(chunk))):
            found[row.id] = _Known(row.image_digest, row.created)
    return found


def _clear(connection: Connection, records: Sequence[ItemRecord], known: Mapping[str, _Known]) -> None:
    """Drop what hangs on the items that are about to be replaced."""
    for chunk in chunks(list(known)):
        connection.execute(delete(MetadataRow).where(MetadataRow.item_id.in_(chunk)))
        connection.execute(delete(CodeRow).where(CodeRow.item_id.in_(chunk)))
    _orphan(
        connection,
        {
            known[record.item.id].image_digest
            for record in records
            if record.item.id in known and known[record.item.id].image_digest != record.item.image_digest
        },
    )


def _with_birth(item: Item, known: Mapping[str, _Known]) -> Item:
    return replace(item, created=known[item.id].created) if item.id in known else item


def _write_items(
    connection: Connection, items: Sequence[Item], first_seq: int, known: Mapping[str, _Known]
) -> None:
    new, replaced = [], []
    for offset, item in enumerate(items):
        values = {
            "seq": first_seq + offset,
            "image_digest": item.image_digest,
            "image_type": item.image_type,
            "text": item.text,
            "meta": dict(item.metadata),
            "updated": item.updated,
        }
        if item.id in known:
            replaced.append(values | {"row_id": item.id})
        else:
            new.append(values | {"id": item.id, "created": item.created})
    if new:
        connection.execute(insert(ItemRow), new)
    if replaced:
        connection.execute(update(ItemRow).where(ItemRow.id == bindparam("row_id")), replaced)


def _write_parts(connection: Connection, records: Sequence[ItemRecord], first_seq: int) -> None:
    metadata = [row for record in records for row in metadata_rows(record.item.id, record.item.metadata)]
    codes = [
        {
            "item_id": record.item.id,
            "model_digest": digest,
            "side": side,
            "seq": first_seq + offset,
            "code": code,
        }
        for offset, record in enumerate(records)
        for digest, sides in ({**record.others, record.model_digest: record.codes}).items()
        for side, code in sides.items()
    ]
    changes = [{"seq": first_seq + i, "item_id": record.item.id} for i, record in enumerate(records)]
    for table, rows in ((MetadataRow, metadata), (CodeRow, codes), (ChangeRow, changes)):
        if rows:
            connection.execute(insert(table), rows)


def _orphan(connection: Connection, digests: set[str | None]) -> None:
    """Note blobs that lost an item; `collect_blobs` looks whether another one still has them."""
    noted = {digest for digest in digests if digest is not None}
    if not noted:
        return
    for chunk in chunks(sorted(noted)):
        connection.execute(delete(OrphanRow).where(OrphanRow.digest.in_(chunk)))
    connection.execute(insert(OrphanRow), [{"digest": digest} for digest in sorted(noted)])
