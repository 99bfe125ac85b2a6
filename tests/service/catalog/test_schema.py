"""The schema: made at first start, by one of many, the same as the tables say, refused when newer."""

import sqlite3
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from catalog_records import put, record
from sqlalchemy import create_mock_engine, inspect
from sqlalchemy.dialects import sqlite
from sqlalchemy.exc import DatabaseError, OperationalError

from service.application.errors import Unavailable
from service.catalog import database, schema
from service.catalog.catalog import catalog_exists, catalog_place, open_catalog
from service.catalog.database import Database, open_engine
from service.catalog.schema import SchemaError, bring_up_to_date
from service.catalog.tables import Base, UtcDateTime


# SQLite cannot tell of the index on prefixes; that it is there, a filter's plan shows (test_catalog_items).
@pytest.mark.filterwarnings("ignore:Skipped unsupported reflection of expression-based index")
@pytest.mark.filterwarnings("ignore:autogenerate skipping metadata-specified expression-based index")
def test_the_migrations_make_exactly_the_tables_of_the_code(catalog):
    with catalog.database.read() as connection:
        assert compare_metadata(MigrationContext.configure(connection), Base.metadata) == []


def test_opening_again_changes_nothing(catalog, url, clock):
    put(catalog, record("a"))
    again = open_catalog(url, clock)
    assert again.items.count() == 1
    again.close()


def test_whether_there_is_a_catalog_is_told_without_making_one(url, clock, tmp_path):
    assert not catalog_exists(url)
    assert not catalog_exists(url)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "empty.db").touch()
    assert not catalog_exists(f"sqlite:///{tmp_path}/empty.db")
    open_catalog(url, clock).close()
    assert catalog_exists(url)


def test_a_catalog_that_cannot_be_looked_at_is_not_said_to_be_missing(tmp_path):
    with pytest.raises(Unavailable, match="cannot be reached"):
        catalog_exists("postgresql://nobody@127.0.0.1:1/none")
    (tmp_path / "other.db").write_bytes(b"this is no database" * 100)
    with pytest.raises(DatabaseError, match="not a database"):
        catalog_exists(f"sqlite:///{tmp_path}/other.db")


def test_the_place_of_a_catalog_holds_no_secret():
    assert catalog_place("sqlite:////srv/home/catalog.db") == "the sqlite database /srv/home/catalog.db"
    told = catalog_place("postgresql://me:secret@db.example:5432/hashes?password=secret")
    assert told == "the postgresql database hashes"
    assert catalog_place("postgresql://db.example") == "the postgresql database (default)"


def test_processes_that_start_together_migrate_once(url, clock):
    with ThreadPoolExecutor(4) as pool:
        catalogs = [call.result() for call in [pool.submit(open_catalog, url, clock) for _ in range(4)]]
    for one in catalogs:
        assert one.items.count() == 0
        one.close()


def test_the_switch_to_wal_waits_where_sqlite_does_not(tmp_path):
    """SQLite sometimes answers "locked" at once, whatever its timeout: stood in for by a timeout of 0."""
    with closing(connect(tmp_path)) as holder, closing(connect(tmp_path)) as other:
        holder.execute("BEGIN EXCLUSIVE")
        with ThreadPoolExecutor(1) as pool:
            switch = pool.submit(database._into_wal, other)
            time.sleep(0.2)
            assert not switch.done()
            holder.execute("ROLLBACK")
            switch.result(timeout=10)
        assert other.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_a_lock_that_stays_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(database, "_BUSY_TIMEOUT_MS", 100)
    with closing(connect(tmp_path)) as holder, closing(connect(tmp_path)) as other:
        holder.execute("BEGIN EXCLUSIVE")
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            database._into_wal(other)


def connect(folder):
    return sqlite3.connect(folder / "new.db", timeout=0, isolation_level=None, check_same_thread=False)


def test_a_file_that_is_no_database_is_not_waited_for(tmp_path):
    (tmp_path / "text.db").write_text("no database " * 100)
    started = time.monotonic()
    with pytest.raises(DatabaseError, match="not a database"):
        open_engine(f"sqlite:///{tmp_path / 'text.db'}").connect()
    assert time.monotonic() - started < 10


def test_a_newer_schema_is_refused_and_left_alone(catalog, url, clock):
    with catalog.database.write() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(SchemaError, match=r"has schema revision 9999, .* use a newer hashguard"):
        open_catalog(url, clock)


def test_the_way_back_drops_everything(catalog):
    config = Config()
    config.set_main_option("script_location", schema._MIGRATIONS.as_posix())
    with catalog.database.exclusive() as connection:
        config.attributes["connection"] = connection
        command.downgrade(config, "base")
        assert inspect(connection).get_table_names() == ["alembic_version"]
    bring_up_to_date(catalog.database)
    assert put(catalog, record("a")).last_seq == 1


def test_a_migration_that_fails_leaves_nothing(url, clock, monkeypatch):
    def fail(*arguments):
        raise RuntimeError("power cut")

    monkeypatch.setattr("alembic.operations.Operations.bulk_insert", fail, raising=False)
    with pytest.raises(RuntimeError, match="power cut"):
        open_catalog(url, clock)
    monkeypatch.undo()
    catalog = open_catalog(url, clock)
    assert catalog.items.count() == 0
    catalog.close()


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
def test_sqlite_is_set_up_as_promised(catalog):
    with catalog.database.read() as connection:
        wanted = {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1, "busy_timeout": 20_000}
        for pragma, value in wanted.items():
            assert connection.exec_driver_sql(f"PRAGMA {pragma}").scalar_one() == value


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///:memory:"])
def test_a_database_in_memory_is_refused(url):
    with pytest.raises(ValueError, match="needs a file"):
        open_engine(url)


def test_other_databases_are_refused():
    with pytest.raises(ValueError, match="sqlite or postgresql, got 'mysql'"):
        open_engine("mysql://localhost/x")


def test_a_busy_or_missing_database_is_unavailable(tmp_path, clock, url):
    with pytest.raises(Unavailable, match="cannot be reached"):
        open_catalog(f"sqlite:///{tmp_path}/no/such/folder/catalog.db", clock)
    database = Database(open_engine(url))
    with pytest.raises(Unavailable), database.read():
        raise OperationalError("SELECT", None, Exception("locked"))
    database.close()


def test_no_time_is_no_time():
    dialect = sqlite.dialect()
    assert UtcDateTime().process_bind_param(None, dialect) is None
    assert UtcDateTime().process_result_value(None, dialect) is None


def test_ids_sort_by_bytes_on_postgresql():
    statements = []
    engine = create_mock_engine("postgresql://", lambda statement, *_: statements.append(statement))
    Base.metadata.create_all(engine, checkfirst=False)
    made = {
        one.element.name: str(one.compile(dialect=engine.dialect))
        for one in statements
        if hasattr(one, "element")
    }
    assert 'id VARCHAR(200) COLLATE "C"' in made["items"]
    assert 'text_value VARCHAR COLLATE "C"' in made["item_metadata"]
    assert "TIMESTAMP WITH TIME ZONE" in made["items"]
