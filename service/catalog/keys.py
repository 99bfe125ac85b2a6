"""API keys, in SQL."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Row, func, insert, select, update

from service.application.errors import Conflict
from service.application.types import ApiKey, Scope
from service.catalog.database import Database
from service.catalog.tables import ApiKeyRow

_TABLE = ApiKeyRow.__table__
_IN_FORCE = ApiKeyRow.revoked.is_(None)


class SqlKeys:
    """`KeyRepository` on a database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, key: ApiKey, most: int) -> None:
        """Store a key. Raises `Conflict` when `most` keys that are not revoked are there already."""
        values = {column.name: getattr(key, column.name) for column in _TABLE.columns}
        values["scopes"] = " ".join(sorted(key.scopes))
        with self._database.write() as connection:
            query = select(func.count()).select_from(ApiKeyRow).where(_IN_FORCE)
            count = connection.execute(query).scalar_one()
            if count >= most:
                raise Conflict(f"there are {count} keys, and {most} are the most: revoke some first")
            connection.execute(insert(ApiKeyRow).values(**values))

    def all(self) -> list[ApiKey]:
        """All keys, oldest first."""
        return self._select()

    def in_force(self) -> list[ApiKey]:
        """The keys that are not revoked; expired ones are among them."""
        return self._select(_IN_FORCE)

    def revoke(self, key_id: str, at: datetime) -> ApiKey | None:
        """Revoke a key, unless it is; the key as it is now, None when there is none of this id."""
        this = ApiKeyRow.id == key_id
        with self._database.write() as connection:
            connection.execute(update(ApiKeyRow).where(this, _IN_FORCE).values(revoked=at))
            row = connection.execute(select(_TABLE).where(this)).one_or_none()
        return None if row is None else _key(row)

    def touch(self, used: Mapping[str, datetime]) -> None:
        """Record when keys were last used; an earlier time than the recorded one changes nothing."""
        with self._database.exclusive() as connection:
            for key_id, at in sorted(used.items()):  # in one order everywhere: no deadlock between replicas
                older = ApiKeyRow.last_used.is_(None) | (ApiKeyRow.last_used < at)
                connection.execute(
                    update(ApiKeyRow).where(ApiKeyRow.id == key_id, older).values(last_used=at)
                )

    def _select(self, *conditions: ColumnElement[bool]) -> list[ApiKey]:
        query = select(_TABLE).where(*conditions).order_by(_TABLE.c.created, _TABLE.c.id)
        with self._database.read() as connection:
            return [_key(row) for row in connection.execute(query)]


def _key(row: Row[Any]) -> ApiKey:
    scopes = frozenset(Scope(word) for word in row.scopes.split())
    return ApiKey(**dict(row._mapping) | {"scopes": scopes})
