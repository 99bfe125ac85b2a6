"""Codes per model and the log of changes, in SQL.

A code is valid while its `seq` equals the item's: a worker that encoded an old version of an item cannot
make its code pass for one of the new version.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from sqlalchemy import ColumnElement, Connection, and_, delete, exists, func, insert, or_, select
from sqlalchemy.orm import aliased

from service.application.ports import CodeArray, ItemVersion, NewCode
from service.application.types import SIDES, Side
from service.catalog.database import Database, chunks, read_counter
from service.catalog.tables import SEQ_COUNTER, ChangeRow, CodeRow, ItemRow

_PAGE = 16384  # rows that are Python objects at a time
_CONTENT = {"image": ItemRow.image_digest, "text": ItemRow.text}


class SqlCodes:
    """`CodeRepository` on a database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def last_seq(self) -> int:
        """The highest sequence number given out; 0 before the first."""
        with self._database.read() as connection:
            return read_counter(connection, SEQ_COUNTER)

    def changes(self, after: int, limit: int) -> list[tuple[int, str]]:
        """(seq, item id) of the changes beyond `after`, in order."""
        query = (
            select(ChangeRow.seq, ChangeRow.item_id)
            .where(ChangeRow.seq > after)
            .order_by(ChangeRow.seq)
            .limit(limit)
        )
        with self._database.read() as connection:
            return [(row.seq, row.item_id) for row in connection.execute(query)]

    def versions(self, ids: Sequence[str], model_digest: str) -> dict[str, ItemVersion]:
        """Present versions of the items among `ids` that exist, with their valid codes of one model."""
        with self._database.read() as connection:
            return _versions(connection, ids, model_digest)

    def lacking(
        self, model_digest: str, sides: frozenset[str], after: str | None, limit: int
    ) -> list[ItemVersion]:
        """Items beyond id `after` that lack a valid code of the model for one of `sides`, in id order."""
        query = select(ItemRow.id).where(_lacks(model_digest, sides)).order_by(ItemRow.id).limit(limit)
        if after is not None:
            query = query.where(ItemRow.id > after)
        with self._database.read() as connection:
            ids = connection.execute(query).scalars().all()
            found = _versions(connection, ids, model_digest)
        return [found[item_id] for item_id in ids]

    def count_lacking(self, model_digest: str, sides: frozenset[str]) -> int:
        """Number of items that lack a valid code of the model for one of `sides`."""
        query = select(func.count()).select_from(ItemRow).where(_lacks(model_digest, sides))
        with self._database.read() as connection:
            return connection.execute(query).scalar_one()

    def stranded(self, model_digest: str, limit: int) -> tuple[int, list[str]]:
        """Items whose codes, by other models, cannot become codes of this one; see `CodeRepository`."""
        ids = (
            select(CodeRow.item_id)
            .where(CodeRow.model_digest != model_digest, _only_copy([model_digest]))
            .distinct()
        )
        with self._database.read() as connection:
            first = connection.execute(ids.order_by(CodeRow.item_id).limit(limit)).scalars().all()
            if len(first) < limit:
                return len(first), [*first]
            count = connection.execute(select(func.count()).select_from(ids.subquery())).scalar_one()
        return count, [*first]

    def add(self, model_digest: str, codes: Sequence[NewCode]) -> int:
        """Store codes whose item version is still the present one; the number stored."""
        with self._database.write() as connection:
            present: dict[str, int] = {}
            for chunk in chunks(sorted({code.id for code in codes})):
                rows = connection.execute(select(ItemRow.id, ItemRow.seq).where(ItemRow.id.in_(chunk)))
                present.update((row.id, row.seq) for row in rows)
            fresh = [code for code in codes if present.get(code.id) == code.seq]
            for side in SIDES:
                _replace(connection, model_digest, side, [code for code in fresh if code.side == side])
        return len(fresh)

    def all(self, model_digest: str, side: Side, bits: int) -> tuple[list[str], CodeArray]:
        """All valid codes of a model on one side, in id order: ids (n) and uint8 (n, bits / 8)."""
        query = (
            select(CodeRow.item_id, CodeRow.code)
            .join(ItemRow, and_(ItemRow.id == CodeRow.item_id, ItemRow.seq == CodeRow.seq))
            .where(CodeRow.model_digest == model_digest, CodeRow.side == side)
            .order_by(CodeRow.item_id)
        )
        ids: list[str] = []
        packed: list[bytes] = []
        with self._database.read() as connection:
            for page in connection.execution_options(yield_per=_PAGE).execute(query).partitions():
                ids.extend(row.item_id for row in page)
                packed.append(b"".join(row.code for row in page))
        return ids, np.frombuffer(b"".join(packed), dtype=np.uint8).reshape(len(ids), bits // 8)

    def trim(self, keep_digests: Iterable[str], keep_changes_after: int) -> None:
        """Drop the codes of all other models and the changes up to `keep_changes_after`.

        Codes that nothing could make again stay.
        """
        kept = list(keep_digests)
        with self._database.write() as connection:
            others = delete(CodeRow).where(CodeRow.model_digest.not_in(kept), ~_only_copy(kept))
            connection.execute(others)
            newest = connection.execute(select(func.max(ChangeRow.seq))).scalar()
            gone = delete(ChangeRow)
            if newest is not None and newest > keep_changes_after:  # all at once needs no visit to each row
                gone = gone.where(ChangeRow.seq <= keep_changes_after)
            connection.execute(gone)


def _replace(connection: Connection, model_digest: str, side: Side, codes: Sequence[NewCode]) -> None:
    for chunk in chunks([code.id for code in codes]):
        connection.execute(
            delete(CodeRow).where(
                CodeRow.item_id.in_(chunk), CodeRow.model_digest == model_digest, CodeRow.side == side
            )
        )
    if codes:
        rows = [
            {"item_id": c.id, "model_digest": model_digest, "side": side, "seq": c.seq, "code": c.code}
            for c in codes
        ]
        connection.execute(insert(CodeRow), rows)


def _lacks(model_digest: str, sides: Iterable[str]) -> ColumnElement[bool]:
    return or_(
        *(
            and_(
                _CONTENT[side].is_not(None),
                ~exists().where(
                    CodeRow.item_id == ItemRow.id,
                    CodeRow.model_digest == model_digest,
                    CodeRow.side == side,
                    CodeRow.seq == ItemRow.seq,
                ),
            )
            for side in sorted(sides)
        )
    )


def _only_copy(digests: Sequence[str]) -> ColumnElement[bool]:
    """Of a row of `codes`: it is valid, its side lacks content, and none of these models has a code there."""
    other = aliased(CodeRow)
    bare = or_(*(and_(CodeRow.side == side, _CONTENT[side].is_(None)) for side in SIDES))
    return and_(
        exists().where(ItemRow.id == CodeRow.item_id, ItemRow.seq == CodeRow.seq, bare),
        ~exists().where(
            other.item_id == CodeRow.item_id,
            other.side == CodeRow.side,
            other.seq == CodeRow.seq,
            other.model_digest.in_(digests),
        ),
    )


def _versions(connection: Connection, ids: Sequence[str], model_digest: str) -> dict[str, ItemVersion]:
    """Items and codes come from one transaction, so that they fit each other."""
    found: dict[str, ItemVersion] = {}
    for chunk in chunks(ids):
        codes = _valid_codes(connection, chunk, model_digest)
        query = select(ItemRow.id, ItemRow.seq, ItemRow.image_digest, ItemRow.text).where(
            ItemRow.id.in_(chunk)
        )
        for row in connection.execute(query):
            found[row.id] = ItemVersion(row.id, row.seq, row.image_digest, row.text, codes.get(row.id, {}))
    return found


def _valid_codes(
    connection: Connection, ids: Sequence[str], model_digest: str
) -> dict[str, dict[Side, bytes]]:
    query = (
        select(CodeRow.item_id, CodeRow.side, CodeRow.code)
        .join(ItemRow, and_(ItemRow.id == CodeRow.item_id, ItemRow.seq == CodeRow.seq))
        .where(CodeRow.model_digest == model_digest, CodeRow.item_id.in_(ids))
    )
    codes: dict[str, dict[Side, bytes]] = {}
    for row in connection.execute(query):
        side: Side = "image" if row.side == "image" else "text"
        codes.setdefault(row.item_id, {})[side] = row.code
    return codes
