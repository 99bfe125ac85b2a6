"""Tables of the catalog (SQLAlchemy 2); portable between SQLite and PostgreSQL.

Ids are ASCII and compare by bytes: SQLite's default collation BINARY does that, PostgreSQL is told
`COLLATE "C"`. Times are UTC. `counters` holds the last sequence number (`seq`) and the number of items
(`items`): a counter row, unlike a database sequence, is taken in the order of commits, so a reader that
has seen change n has seen every change before it; its row lock is also the catalog's write lock.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    DateTime,
    Dialect,
    Float,
    ForeignKey,
    Index,
    LargeBinary,
    String,
    Text,
    text,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.types import TypeDecorator

SEQ_COUNTER = "seq"
ITEM_COUNTER = "items"
PREFIX = 100
"""Characters of a metadata string that are indexed; filters compare them first, then the whole."""


class UtcDateTime(TypeDecorator[datetime]):
    """Timezone-aware UTC datetimes, also where the database (SQLite) keeps none."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Store UTC; a naive datetime is a mistake of ours and raises ValueError."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"a time of the catalog needs a time zone, got {value!r}")
        return value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Read UTC."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


def by_bytes(length: int | None = None) -> String:
    """String type whose order is that of its UTF-8 bytes on every database."""
    return String(length).with_variant(String(length, collation="C"), "postgresql")


class Base(DeclarativeBase):
    """Base of all tables."""


class CounterRow(Base):
    """Counters that are moved inside the transactions that they count."""

    __tablename__ = "counters"

    name: Mapped[str] = mapped_column(String(20), primary_key=True)
    value: Mapped[int] = mapped_column(BigInteger)


class ItemRow(Base):
    """Items of the corpus; `seq` is the sequence number of the last change."""

    __tablename__ = "items"

    id: Mapped[str] = mapped_column(by_bytes(200), primary_key=True)
    seq: Mapped[int] = mapped_column(BigInteger)
    image_digest: Mapped[str | None] = mapped_column(String(64), index=True)
    image_type: Mapped[str | None] = mapped_column(String(40))
    text: Mapped[str | None] = mapped_column(Text)
    meta: Mapped[dict[str, Any]] = mapped_column(JSON)
    created: Mapped[datetime] = mapped_column(UtcDateTime)
    updated: Mapped[datetime] = mapped_column(UtcDateTime)


class MetadataRow(Base):
    """One row per scalar of an item's metadata (a list has several), so that filters are index look-ups.

    `kind` is "s" (string), "n" (number) or "b" (boolean): values of different kinds never match.
    """

    __tablename__ = "item_metadata"
    __table_args__ = (
        # A prefix, because PostgreSQL refuses index rows beyond 2,704 bytes, which a long value would make.
        Index("ix_item_metadata_text", "key", "kind", text(f"substr(text_value, 1, {PREFIX})"), "item_id"),
        Index("ix_item_metadata_number", "key", "kind", "number_value", "item_id"),
    )

    item_id: Mapped[str] = mapped_column(
        by_bytes(200), ForeignKey("items.id", ondelete="CASCADE"), primary_key=True
    )
    key: Mapped[str] = mapped_column(by_bytes(200), primary_key=True)
    position: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[str] = mapped_column(String(1))
    text_value: Mapped[str | None] = mapped_column(by_bytes())
    number_value: Mapped[float | None] = mapped_column(Float(53))


class CodeRow(Base):
    """The code of one side of an item by one model; valid while `seq` equals the item's."""

    __tablename__ = "codes"
    __table_args__ = (Index("ix_codes_model", "model_digest", "side", "item_id"),)

    item_id: Mapped[str] = mapped_column(
        by_bytes(200), ForeignKey("items.id", ondelete="CASCADE"), primary_key=True
    )
    model_digest: Mapped[str] = mapped_column(String(64), primary_key=True)
    side: Mapped[str] = mapped_column(String(5), primary_key=True)
    seq: Mapped[int] = mapped_column(BigInteger)
    code: Mapped[bytes] = mapped_column(LargeBinary(32))


class ChangeRow(Base):
    """The log of changes: which item changed at which sequence number."""

    __tablename__ = "changes"

    seq: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    item_id: Mapped[str] = mapped_column(by_bytes(200))


class OrphanRow(Base):
    """Blobs that lost an item and await the check whether another one still has them."""

    __tablename__ = "orphans"

    digest: Mapped[str] = mapped_column(String(64), primary_key=True)


class GenerationRow(Base):
    """Index generations."""

    __tablename__ = "generations"

    id: Mapped[str] = mapped_column(by_bytes(80), primary_key=True)
    model_name: Mapped[str] = mapped_column(String(200))
    model_version: Mapped[str] = mapped_column(String(40))
    model_digest: Mapped[str] = mapped_column(String(64))
    preprocessing_digest: Mapped[str] = mapped_column(String(64))
    bits: Mapped[int]
    snapshot_seq: Mapped[int] = mapped_column(BigInteger)
    image_count: Mapped[int] = mapped_column(BigInteger)
    text_count: Mapped[int] = mapped_column(BigInteger)
    created: Mapped[datetime] = mapped_column(UtcDateTime)


class AliasRow(Base):
    """Names that point at a generation: `live`, and `predecessor` for what was live before it."""

    __tablename__ = "aliases"

    name: Mapped[str] = mapped_column(String(40), primary_key=True)
    generation_id: Mapped[str] = mapped_column(by_bytes(80), ForeignKey("generations.id"))


class JobRow(Base):
    """Jobs; `heartbeat` is when the worker was last heard of, `cancel` that somebody asked it to stop."""

    __tablename__ = "jobs"

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    kind: Mapped[str] = mapped_column(String(20))
    phase: Mapped[str] = mapped_column(String(20), index=True)
    done: Mapped[int] = mapped_column(BigInteger)
    total: Mapped[int] = mapped_column(BigInteger)
    rate: Mapped[float | None]
    eta_s: Mapped[float | None]
    error: Mapped[str | None] = mapped_column(Text)
    model: Mapped[str | None] = mapped_column(String(300))
    activate: Mapped[bool]
    cancel: Mapped[bool]
    generation_id: Mapped[str | None] = mapped_column(by_bytes(80))
    quality_floor: Mapped[float | None] = mapped_column(Float(53))
    validation: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    created: Mapped[datetime] = mapped_column(UtcDateTime, index=True)
    started: Mapped[datetime | None] = mapped_column(UtcDateTime)
    finished: Mapped[datetime | None] = mapped_column(UtcDateTime)
    heartbeat: Mapped[datetime] = mapped_column(UtcDateTime)


class IdempotencyRow(Base):
    """Idempotency keys: the request that used one, the job it made, and until when it counts."""

    __tablename__ = "idempotency_keys"

    key: Mapped[str] = mapped_column(String(200), primary_key=True)
    request: Mapped[str] = mapped_column(Text)
    job_id: Mapped[str] = mapped_column(String(40), ForeignKey("jobs.id", ondelete="CASCADE"))
    expires: Mapped[datetime] = mapped_column(UtcDateTime)


class ApiKeyRow(Base):
    """API keys: the SHA-256 of each, never the key; `scopes` are words with a space between them."""

    __tablename__ = "api_keys"

    id: Mapped[str] = mapped_column(by_bytes(12), primary_key=True)
    name: Mapped[str] = mapped_column(String(200))
    digest: Mapped[str] = mapped_column(String(64))
    scopes: Mapped[str] = mapped_column(String(100))
    created: Mapped[datetime] = mapped_column(UtcDateTime)
    expires: Mapped[datetime | None] = mapped_column(UtcDateTime)
    last_used: Mapped[datetime | None] = mapped_column(UtcDateTime)
    revoked: Mapped[datetime | None] = mapped_column(UtcDateTime)
