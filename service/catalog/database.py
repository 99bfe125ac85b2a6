"""The connection to the catalog's database, and everything that differs between SQLite and PostgreSQL.

SQLite runs in WAL mode, so readers never wait for the writer, with `synchronous=FULL`: a PUT that was
answered is on the disk. (NORMAL would keep the file consistent but forget the last answered writes when
the power fails; measured, FULL costs a write about one fsync, which the encoder's time hides.) A write
transaction starts with BEGIN IMMEDIATE, which waits for its turn (`busy_timeout`) instead of failing when
a read turns into a write.

On PostgreSQL (psycopg 3) a reader's transaction is REPEATABLE READ, so that all its statements see one
state. A writer's is READ COMMITTED and first locks the row of the counter: what it reads after that is
newer than all that was committed, and sequence numbers become visible in their order (see `tables`).
Nobody waits for a lock longer than SQLite would, and a writer that has died silently loses its
transaction, and so the lock, after two minutes.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from sqlalchemy import URL, Connection, Engine, create_engine, event, select, update
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from service.application.errors import Unavailable
from service.catalog.tables import SEQ_COUNTER, CounterRow

_BUSY_TIMEOUT_MS = 20_000
_WAL_PAUSE_S = 0.01
_IDLE_WRITER_MS = 120_000
_CONNECT_TIMEOUT_S = 5
_IN_LIST = 500
_WRITES = "hashguard_writes"

Value = TypeVar("Value")


def open_engine(url: str) -> Engine:
    """Engine for a SQLAlchemy URL; raises ValueError for a database that cannot hold a catalog.

    The URL, which may hold a password, is in no message.
    """
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        raise ValueError("the catalog needs a database URL, got something that is none") from None
    backend = parsed.get_backend_name()
    if backend == "sqlite":
        if parsed.database in {None, "", ":memory:"}:
            raise ValueError("the catalog needs a file, an SQLite database in memory has one connection")
        return _open_sqlite(url)
    if backend == "postgresql":
        return _open_postgresql(parsed)
    raise ValueError(f"the catalog runs on sqlite or postgresql, got {backend!r}")


def _open_postgresql(url: URL) -> Engine:
    try:
        engine = create_engine(
            url.set(drivername="postgresql+psycopg"),
            connect_args={
                "connect_timeout": _CONNECT_TIMEOUT_S,
                "keepalives_idle": 30,
                "keepalives_interval": 10,
                "keepalives_count": 3,
                "application_name": "hashguard",
            },
            pool_size=5,
            max_overflow=15,  # several replicas share what the server allows, by default 100
            pool_timeout=_BUSY_TIMEOUT_MS / 1000,
            pool_pre_ping=True,
        )
    except ImportError as error:
        raise ValueError(
            f"a catalog on PostgreSQL needs psycopg, got {error}: pip install 'hashguard[postgresql]'"
        ) from error
    event.listen(engine, "connect", _prepare_postgresql)
    return engine


def _prepare_postgresql(connection: Any, _record: object) -> None:  # noqa: ANN401 - psycopg may be missing
    with connection.cursor() as cursor:
        cursor.execute(f"SET lock_timeout = {_BUSY_TIMEOUT_MS}")
        cursor.execute(f"SET idle_in_transaction_session_timeout = {_IDLE_WRITER_MS}")
        cursor.execute("SET timezone = 'UTC'")
    connection.commit()


def _open_sqlite(url: str) -> Engine:
    engine = create_engine(
        url,
        connect_args={"check_same_thread": False, "timeout": _BUSY_TIMEOUT_MS / 1000},
        pool_size=10,
        max_overflow=90,
    )
    event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _prepare_sqlite(connection: sqlite3.Connection, _record: object) -> None:
    connection.isolation_level = None  # the driver must not open transactions of its own
    for pragma in (
        f"busy_timeout={_BUSY_TIMEOUT_MS}",
        "synchronous=FULL",
        "foreign_keys=ON",
        "cache_size=-65536",  # KiB
        "temp_store=MEMORY",
    ):
        connection.execute(f"PRAGMA {pragma}").close()
    _into_wal(connection)


def _into_wal(connection: sqlite3.Connection) -> None:
    """Switch a database to WAL; waits for others, as `busy_timeout` does not when two switch a new one."""
    until = time.monotonic() + _BUSY_TIMEOUT_MS / 1000
    while True:
        try:
            return connection.execute("PRAGMA journal_mode=WAL").close()
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > until:
                raise
            time.sleep(_WAL_PAUSE_S)


def _begin_sqlite(connection: Connection) -> None:
    writes = connection.get_execution_options().get(_WRITES, False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


class Database:
    """Transactions on the catalog; safe to share between threads."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._writer = engine.execution_options(**{_WRITES: True})
        self._reader = engine
        if engine.dialect.name == "postgresql":
            self._reader = engine.execution_options(
                isolation_level="REPEATABLE READ", postgresql_readonly=True
            )

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A transaction that sees one state of the catalog. Raises `Unavailable` when it cannot begin."""
        with _translated(), self._reader.connect() as connection:
            yield connection

    @contextmanager
    def exclusive(self) -> Iterator[Connection]:
        """A write transaction that needs no table yet: on SQLite it holds the write lock, else nothing."""
        with _translated(), self._writer.begin() as connection:
            yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """A transaction that holds the catalog's write lock: on SQLite the database's, else the counter's.

        Writers follow one another, also those of other processes. Raises `Unavailable` when the lock does
        not come free in time.
        """
        with self.exclusive() as connection:
            if self.engine.dialect.name != "sqlite":
                connection.execute(
                    select(CounterRow.value).where(CounterRow.name == SEQ_COUNTER).with_for_update()
                )
            yield connection

    def close(self) -> None:
        """Close all connections."""
        self.engine.dispose()


@contextmanager
def _translated() -> Iterator[None]:
    """What the database cannot do now is a 503; the reason names no host, user or statement."""
    try:
        yield
    except PoolTimeout as error:
        raise Unavailable("the catalog is busy: no connection came free in time") from error
    except DBAPIError as error:
        if not isinstance(error, OperationalError | InterfaceError) and not error.connection_invalidated:
            raise
        reason = type(error.orig).__name__
        raise Unavailable(f"the catalog cannot be reached or is busy ({reason})") from error


def move_counter(connection: Connection, name: str, by: int) -> int:
    """Move a counter inside a write transaction; its new value."""
    connection.execute(update(CounterRow).where(CounterRow.name == name).values(value=CounterRow.value + by))
    return read_counter(connection, name)


def read_counter(connection: Connection, name: str) -> int:
    """The value of a counter."""
    return connection.execute(select(CounterRow.value).where(CounterRow.name == name)).scalar_one()


def chunks(values: Sequence[Value]) -> Iterator[Sequence[Value]]:
    """Slices that fit an IN list: SQLite may be built with room for no more than 999 parameters."""
    for start in range(0, len(values), _IN_LIST):
        yield values[start : start + _IN_LIST]
