"""The catalog's schema: brought up to date when the catalog is opened, refused when it is newer than us."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text

from service.application.errors import ServiceError
from service.catalog.database import Database

_MIGRATIONS = Path(__file__).parent / "migrations"
_LOCK_KEY = 0x68617368  # any number that all of our processes agree on


class SchemaError(ServiceError):
    """The catalog was written by a newer hashguard, whose schema this one does not know."""

    code = "unknown_schema"


def bring_up_to_date(database: Database) -> None:
    """Run the migrations that are missing. Raises `SchemaError`.

    The whole of it is one transaction that holds a lock (SQLite: its write lock, PostgreSQL: an advisory
    lock), so processes that start together do it once, and a kill leaves the schema as it was.
    """
    config = Config()
    config.set_main_option("script_location", _MIGRATIONS.as_posix())
    scripts = ScriptDirectory.from_config(config)
    with database.exclusive() as connection:
        _take_lock(connection)
        _check_known(connection, scripts)
        config.attributes["connection"] = connection
        command.upgrade(config, "head")


def has_schema(database: Database) -> bool:
    """Whether the database holds a catalog, of whatever revision; makes none. Raises `Unavailable`."""
    with database.read() as connection:
        return bool(MigrationContext.configure(connection).get_current_heads())


def _take_lock(connection: Connection) -> None:
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK_KEY})


def _check_known(connection: Connection, scripts: ScriptDirectory) -> None:
    known = {script.revision for script in scripts.walk_revisions()}
    unknown = set(MigrationContext.configure(connection).get_current_heads()) - known
    if unknown:
        raise SchemaError(
            f"the catalog has schema revision {', '.join(sorted(unknown))}, "
            f"this hashguard knows up to {scripts.get_current_head()}: use a newer hashguard"
        )
