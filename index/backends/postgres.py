"""PostgreSQL as the backend `pgvector` meets it: connections, what the server must have, its errors."""

import atexit
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from index.backends.clients import RemoteOptions, import_client
from index.errors import BadCodes, CorruptIndex, EngineUnavailable, UnknownOption, Unsupported

if TYPE_CHECKING:
    from psycopg import Connection
    from psycopg_pool import ConnectionPool

EXTRA = "pgvector"
"""The extra that brings the client library."""
SCHEMES = ("postgresql", "postgres")
_MIN_EXTENSION = (0, 7)
_CONNECTIONS = 32
_CONNECT_S = 3.0  # nobody waits longer for a connection, also while the server refuses them


def check_server(connection: "Connection[Any]") -> None:
    """Make sure of UTF-8 and of the extension. Raises Unsupported."""
    psycopg = import_client("psycopg", EXTRA)
    encoding = connection.info.parameter_status("server_encoding")
    if encoding != "UTF8":
        raise Unsupported(f"pgvector: wanted a database in UTF8, got {encoding}")
    query = "SELECT extversion FROM pg_extension WHERE extname = 'vector'"
    found = connection.execute(query).fetchone()
    if found is None:
        try:
            connection.execute("CREATE EXTENSION vector")
        except psycopg.Error as error:
            raise Unsupported(f"pgvector: wanted the extension vector, got {_first_line(error)}") from error
        found = connection.execute(query).fetchone()
    version = found[0] if found else "none"
    if tuple(int(part) for part in version.split(".")[:2] if part.isdigit()) < _MIN_EXTENSION:
        raise Unsupported(f"pgvector: wanted the extension vector 0.7 or newer, got {version}")


@lru_cache(maxsize=16)
def pool_of(options: RemoteOptions) -> "ConnectionPool[Connection[Any]]":
    """The connections to one server, shared by all indexes there; they are made when they are needed.

    Raises UnknownOption when the URL cannot be read, without quoting it.
    """
    psycopg, psycopg_pool = import_client("psycopg", EXTRA), import_client("psycopg_pool", EXTRA)
    try:
        psycopg.conninfo.conninfo_to_dict(options.url)
    except psycopg.ProgrammingError:
        raise UnknownOption("pgvector: wanted a url that libpq reads, got another") from None
    timeout_ms = max(1, round(options.timeout_s * 1000))
    wait_s = min(options.timeout_s, _CONNECT_S)

    def configure(connection: "Connection[Any]") -> None:
        connection.autocommit = True
        connection.execute(f"SET statement_timeout = {timeout_ms}")
        connection.execute("SET jit = off")  # compiling takes longer than a scan that ends at k hits
        connection.autocommit = False

    pool: ConnectionPool[Connection[Any]] = psycopg_pool.ConnectionPool(
        options.url,
        kwargs={"connect_timeout": max(2, round(wait_s)), "application_name": "hashguard-index"},
        min_size=0,
        max_size=_CONNECTIONS,
        timeout=wait_s,
        reconnect_timeout=wait_s,  # nobody waits for it longer
        configure=configure,
        check=psycopg_pool.ConnectionPool.check_connection,
        name="hashguard-index",
        open=True,
    )
    close: Callable[[], None] = pool.close
    atexit.register(close)
    return pool


@contextmanager
def translated(options: RemoteOptions) -> Iterator[None]:
    """Turn the client's errors into the index's own; no message holds the URL."""
    psycopg = import_client("psycopg", EXTRA)
    pool_timeout = import_client("psycopg_pool", EXTRA).PoolTimeout
    try:
        yield
    except pool_timeout as error:
        raise EngineUnavailable(
            f"pgvector: wanted a connection within {min(options.timeout_s, _CONNECT_S):g} s, got none"
        ) from error
    except psycopg.errors.UndefinedTable as error:
        raise CorruptIndex(f"pgvector: wanted the index's table, got {_first_line(error)}") from error
    except psycopg.errors.DataError as error:
        raise BadCodes(f"pgvector: wanted codes of the table's width, got {_first_line(error)}") from error
    except psycopg.Error as error:
        raise EngineUnavailable(f"pgvector: wanted an answer, got {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    """What a server says of an error, without the statement and its values."""
    return (str(error) or type(error).__name__).splitlines()[0][:300]
