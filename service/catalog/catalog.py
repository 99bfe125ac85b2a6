"""The catalog as one object: the five repositories over one database."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sqlalchemy.engine import make_url

from service.application.ports import Clock
from service.catalog.codes import SqlCodes
from service.catalog.database import Database, open_engine
from service.catalog.generations import SqlGenerations
from service.catalog.items import SqlItems
from service.catalog.jobs import SqlJobs
from service.catalog.keys import SqlKeys
from service.catalog.schema import bring_up_to_date, has_schema


@dataclass(frozen=True)
class SqlCatalog:
    """The repositories of one catalog."""

    database: Database
    items: SqlItems
    codes: SqlCodes
    generations: SqlGenerations
    jobs: SqlJobs
    keys: SqlKeys

    def close(self) -> None:
        """Close the database's connections."""
        self.database.close()


def catalog_exists(url: str) -> bool:
    """Whether there is a catalog at a SQLAlchemy URL, of whatever schema; neither makes nor changes one.

    Raises `Unavailable` when the database cannot be reached, and ValueError as `open_catalog` does.
    """
    database = Database(open_engine(url))
    try:
        return _database_exists(url) and has_schema(database)
    finally:
        database.close()


def catalog_place(url: str) -> str:
    """Where a catalog lies, for people: a file or the name of a database; no host, user or password."""
    parsed = make_url(url)
    return f"the {parsed.get_backend_name()} database {parsed.database or '(default)'}"


def _database_exists(url: str) -> bool:
    """Whether a connection would find a database: SQLite makes a file that is not there."""
    parsed = make_url(url)
    file = parsed.database or ""
    return parsed.get_backend_name() != "sqlite" or file.startswith("file:") or Path(file).is_file()


def open_catalog(url: str, clock: Clock) -> SqlCatalog:
    """Open the catalog at a SQLAlchemy URL and bring its schema up to date.

    Raises `SchemaError` when a newer hashguard wrote it, `Unavailable` when it cannot be reached and
    ValueError for a database that is neither SQLite nor PostgreSQL.
    """
    database = Database(open_engine(url))
    try:
        bring_up_to_date(database)
    except BaseException:
        database.close()
        raise
    return SqlCatalog(
        database=database,
        items=SqlItems(database),
        codes=SqlCodes(database),
        generations=SqlGenerations(database),
        jobs=SqlJobs(database, clock),
        keys=SqlKeys(database),
    )
