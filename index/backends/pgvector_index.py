"""Codes in PostgreSQL with pgvector: a table of `bit(n)` for each index, searched by `<~>`.

PostgreSQL itself gives the contract's order: by distance, then by id under `COLLATE "C"`, which is the
order of UTF-8 bytes; the filter, the limits and the page's start are part of the statement. So searches are
exact scans of the table. Values travel as parameters, names are made here and quoted by the client.

The table `hashguard_indexes` holds width and size of each index; its row is locked by whoever changes the
index, so that calls of several processes follow one another.
"""

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from index.backends.clients import (
    RemoteOptions,
    import_client,
    is_name,
    new_name,
    read_reference,
    take_announce,
    write_reference,
)
from index.backends.postgres import EXTRA, SCHEMES, check_server, pool_of, translated
from index.codes import CodeArray, check_bits, check_codes, pack, unpack
from index.core import Hit, SearchOptions
from index.errors import CorruptIndex, HashIndexError
from index.ids import IdTable, check_items, key_bytes, keys_of, known_keys
from index.saved import SavedIndex

if TYPE_CHECKING:
    from psycopg import Connection
    from psycopg.sql import Composed

_BACKEND = "pgvector"
_ROWS = 10_000  # rows that travel at once
_RESULTS = 1 << 18  # hits (queries x k) of one statement
_LOCK_KEY = 0x68677678  # any number that all of our processes agree on

_CREATE = """
CREATE TABLE {table} (id text COLLATE "C" PRIMARY KEY, code bit({bits}) NOT NULL)
"""
_CREATE_LIST = """
CREATE TABLE IF NOT EXISTS hashguard_indexes (
    name text PRIMARY KEY, bits int NOT NULL, items bigint NOT NULL,
    created timestamptz NOT NULL DEFAULT now()
)
"""
_ADD = """
INSERT INTO {table} (id, code)
SELECT id, code::bit({bits}) FROM unnest(%(ids)s::text[], %(codes)s::text[]) AS new (id, code)
ON CONFLICT (id) DO UPDATE SET code = EXCLUDED.code
"""
# The fence keeps the planner from reading the query's text anew for each row.
_SEARCH = """
WITH queries AS MATERIALIZED (
    SELECT number, query::bit({bits}) FROM unnest(%(queries)s::text[]) WITH ORDINALITY AS q (query, number)
)
SELECT number, id, distance FROM queries CROSS JOIN LATERAL (
    SELECT id, distance FROM (SELECT id, (code <~> query)::int AS distance FROM {table}) AS item
    WHERE {conditions} ORDER BY distance, id LIMIT %(k)s
) AS hit ORDER BY number, distance, id
"""
_WITHIN = "distance <= %(limit)s"
_ALLOWED = "id = ANY(%(allow)s)"
_BEHIND = """
(distance > %(distance)s OR (distance = %(distance)s AND convert_to(id, 'UTF8') > %(after)s))
"""


class PgvectorIndex:
    """A `BinaryIndex` in a PostgreSQL table; the options are those of RemoteOptions.

    A change is one transaction, so a search sees all of a call or nothing of it, in every process.
    """

    exact = True

    def __init__(self, bits: int, **options: object) -> None:
        """Make an empty table. Raises BadCodes, UnknownOption, Unsupported, EngineUnavailable."""
        announce = take_announce(options)
        self._open(bits, new_name(), options)
        announce(self._name)
        with self._transaction() as connection:
            connection.execute("SELECT pg_advisory_xact_lock(%s)", [_LOCK_KEY])
            check_server(connection)
            connection.execute(_CREATE_LIST)
            connection.execute(self._sql(_CREATE))
            connection.execute("INSERT INTO hashguard_indexes VALUES (%s, %s, 0)", [self._name, bits])

    def _open(self, bits: int, name: str, options: dict[str, object]) -> None:
        """Set the fields; no table is touched."""
        self.bits = check_bits(bits)
        self.options = RemoteOptions.of(_BACKEND, SCHEMES, options)
        self._name = name
        self._pool = pool_of(self.options)

    def __len__(self) -> int:
        """Number of items."""
        with self._transaction() as connection:
            return self._size(connection)

    def __contains__(self, key: object) -> bool:
        """True when an item of this id is there."""
        if key_bytes(key) is None:
            return False
        with self._transaction() as connection:
            return bool(self._count(connection, [key]))

    def add(self, ids: Sequence[str], codes: CodeArray) -> None:
        """Insert or replace items; see BinaryIndex.add."""
        _, codes = check_items(ids, codes, self.bits)
        if not len(ids):
            return
        with self._transaction() as connection:
            size = self._size(connection, lock=True)
            for start in range(0, len(ids), _ROWS):
                part = list(ids[start : start + _ROWS])
                size += len(part) - self._count(connection, part)
                values = {"ids": part, "codes": _texts(codes[start : start + _ROWS])}
                connection.execute(self._sql(_ADD), values)
            self._set_size(connection, size)

    def remove(self, ids: Sequence[str]) -> int:
        """Remove items and count them; see BinaryIndex.remove."""
        keys = _storable(ids)
        if not keys:
            return 0
        with self._transaction() as connection:
            size = self._size(connection, lock=True)
            gone = connection.execute(self._sql("DELETE FROM {table} WHERE id = ANY(%s)"), [keys]).rowcount
            self._set_size(connection, size - gone)
        return gone

    def search(
        self, queries: CodeArray, options: SearchOptions, *, allow: Collection[str] | None = None
    ) -> list[list[Hit]]:
        """Return the nearest items; see BinaryIndex.search."""
        queries = check_codes(queries, self.bits)
        answers: list[list[Hit]] = [[] for _ in queries]
        conditions, values = self._conditions(options, allow)
        statement = self._sql(_SEARCH, conditions)
        step = max(1, _RESULTS // options.k)
        with self._transaction(snapshot=True) as connection:
            for start in range(0, len(queries), step):
                values["queries"] = _texts(queries[start : start + step])
                for number, key, distance in connection.execute(statement, values):
                    answers[start + number - 1].append(Hit(key, distance))
        return answers

    def codes(self) -> tuple[Sequence[str], CodeArray]:
        """Return all ids in order and their codes."""
        blocks = [np.zeros((0, self.bits // 8), dtype=np.uint8)]
        keys = []
        statement = self._sql("SELECT id, code::text FROM {table} ORDER BY id")
        with self._transaction() as connection, connection.cursor("codes") as cursor:
            cursor.execute(statement)
            while rows := cursor.fetchmany(_ROWS):
                keys.append(keys_of([row[0] for row in rows]))
                blocks.append(_codes([row[1] for row in rows], self.bits))
        return IdTable.from_keys(keys), np.concatenate(blocks)

    def save(self, folder: Path) -> None:
        """Write a reference to the table, which stays where it is and goes on changing with this index."""
        write_reference(folder, _BACKEND, self.bits, len(self), self._name)

    @classmethod
    def load(cls, folder: Path, bits: int, **options: object) -> Self:
        """Connect to the table of a reference, or put what an embedded backend saved into a new one.

        Raises CorruptIndex when the table is gone or has another width, and what making an index raises.
        """
        name = read_reference(folder, _BACKEND, check_bits(bits))
        if name is None:
            return cls._filled(folder, bits, options)
        index = cls.__new__(cls)
        index._open(bits, name, options)
        with index._transaction() as connection:
            index._size(connection)
        return index

    @classmethod
    def _filled(cls, folder: Path, bits: int, options: dict[str, object]) -> Self:
        """Fill a new table from saved codes; it is dropped when they turn out to be damaged."""
        index = cls(bits, **options)
        try:
            for table, codes in SavedIndex(folder, bits).chunks(_ROWS):
                index.add(list(table), codes)
        except HashIndexError:
            index._drop()
            raise
        return index

    @classmethod
    def discard(cls, folder: Path, **options: object) -> None:
        """Drop the table of a saved reference; nothing happens when it is gone. Raises EngineUnavailable."""
        name = read_reference(folder, _BACKEND)
        if name is not None:
            index = cls.__new__(cls)
            index._open(64, name, options)
            index._drop()

    @classmethod
    def names(cls, **options: object) -> set[str]:
        """The tables of all indexes there, referred to or not. Raises EngineUnavailable."""
        given = RemoteOptions.of(_BACKEND, SCHEMES, options)
        with translated(given), pool_of(given).connection() as connection:
            found = connection.execute(
                "SELECT tablename FROM pg_tables WHERE schemaname = ANY(current_schemas(false))"
            )
            return {row[0] for row in found if is_name(row[0])}

    def _drop(self) -> None:
        with self._transaction() as connection:
            connection.execute(self._sql("DROP TABLE IF EXISTS {table}"))
            connection.execute("DELETE FROM hashguard_indexes WHERE name = %s", [self._name])

    def _conditions(
        self, options: SearchOptions, allow: Collection[str] | None
    ) -> tuple[str, dict[str, object]]:
        """Conditions of a search as SQL, and the values of their parameters."""
        limit = self.bits if options.max_distance is None else min(self.bits, options.max_distance)
        values: dict[str, object] = {"k": options.k, "limit": limit}
        conditions = [_WITHIN]
        if options.after is not None:
            conditions.append(_BEHIND)
            values["distance"] = min(options.after.distance, self.bits + 1)
            values["after"] = options.after.id.encode(errors="surrogatepass")
        if allow is not None:
            conditions.append(_ALLOWED)
            values["allow"] = _storable(allow)
        return " AND ".join(conditions), values

    def _size(self, connection: "Connection[Any]", *, lock: bool = False) -> int:
        """Number of items; `lock` lets nobody else change the index until the transaction ends."""
        query = "SELECT items, bits FROM hashguard_indexes WHERE name = %s"
        row = connection.execute(query + (" FOR UPDATE" if lock else ""), [self._name]).fetchone()
        if row is None:
            raise CorruptIndex(f"pgvector: wanted the table {self._name}, got none: it was dropped")
        if row[1] != self.bits:
            raise CorruptIndex(f"pgvector: wanted a table of {self.bits} bits, got {row[1]}")
        return int(row[0])

    def _set_size(self, connection: "Connection[Any]", size: int) -> None:
        connection.execute("UPDATE hashguard_indexes SET items = %s WHERE name = %s", [size, self._name])

    def _count(self, connection: "Connection[Any]", ids: Sequence[object]) -> int:
        """Number of items among some ids."""
        query = self._sql("SELECT count(*) FROM {table} WHERE id = ANY(%s)")
        row = connection.execute(query, [ids]).fetchone()
        return int(row[0]) if row else 0

    def _sql(self, statement: str, conditions: str = "") -> "Composed":
        """Put the quoted name of the table, the width and our own conditions into a statement."""
        sql = import_client("psycopg.sql", EXTRA)
        composed: Composed = sql.SQL(statement).format(
            table=sql.Identifier(self._name), bits=sql.SQL(str(self.bits)), conditions=sql.SQL(conditions)
        )
        return composed

    @contextmanager
    def _transaction(self, *, snapshot: bool = False) -> "Iterator[Connection[Any]]":
        """A transaction; with `snapshot` all its statements see one state. Errors become the index's own."""
        with translated(self.options), self._pool.connection() as connection:
            if snapshot:
                connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            yield connection


def _storable(ids: Collection[str]) -> list[str]:
    """The distinct ids that can be in a table, sorted."""
    return [key.decode() for key in known_keys(ids).tolist()]


def _texts(codes: CodeArray) -> list[str]:
    """Codes as PostgreSQL writes `bit(n)`: text of 0 and 1, bit 0 first."""
    digits = unpack(codes, codes.shape[1] * 8).view(np.uint8) + ord("0")
    return [row.tobytes().decode() for row in digits]


def _codes(texts: Sequence[str], bits: int) -> CodeArray:
    """The inverse of `_texts`, uint8 (n, bits/8)."""
    digits = np.frombuffer("".join(texts).encode(), dtype=np.uint8).reshape(len(texts), bits)
    return pack(digits == ord("1"))
