"""What is PostgreSQL's own: locks, time limits, restarts, and what the server must have."""

from __future__ import annotations

import numpy as np
import psycopg
import pytest
from real_servers import POSTGRES

from index import registry
from index.core import Hit, SearchOptions
from index.errors import BadCodes, EngineUnavailable, Unsupported

pytestmark = POSTGRES
ZERO = np.zeros((1, 2), dtype=np.uint8)


@pytest.fixture(scope="module")
def url(postgres):
    return postgres.database()


@pytest.fixture
def direct(url):
    """A connection of our own."""
    with psycopg.connect(url, autocommit=True) as connection:
        yield connection


@pytest.fixture
def index(url):
    made = registry.create("pgvector", 16, url=url, timeout_s=1)
    made.add(["a"], ZERO)
    return made


def test_a_lock_that_does_not_come_free_is_an_error_in_time(index, direct):
    with direct.transaction():
        direct.execute("SELECT * FROM hashguard_indexes FOR UPDATE")
        with pytest.raises(EngineUnavailable, match="timeout"):
            index.add(["b"], ZERO)
        assert index.search(ZERO, SearchOptions(9)) == [[Hit("a", 0)]]
    index.add(["b"], ZERO)
    assert len(index) == 2


def test_a_statement_that_takes_too_long_is_stopped(index, direct):
    with direct.transaction():
        direct.execute(f'LOCK TABLE "{index._name}" IN ACCESS EXCLUSIVE MODE')
        with pytest.raises(EngineUnavailable, match="timeout"):
            index.search(ZERO, SearchOptions(9))
    assert index.search(ZERO, SearchOptions(9)) == [[Hit("a", 0)]]


def test_connections_that_were_cut_are_replaced(index, direct):
    direct.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE pid <> pg_backend_pid() AND datname = current_database()"
    )
    assert index.search(ZERO, SearchOptions(9)) == [[Hit("a", 0)]]


def test_half_an_add_is_never_kept(index, direct):
    """The second thousand cannot be stored: the table refuses it after the first was sent."""
    direct.execute(f"ALTER TABLE \"{index._name}\" ADD CHECK (id <> 'poison')")
    ids = [f"n{n}" for n in range(12_000)] + ["poison"]
    with pytest.raises(EngineUnavailable, match="check constraint"):
        index.add(ids, np.zeros((len(ids), 2), dtype=np.uint8))
    assert len(index) == 1
    assert list(index.codes()[0]) == ["a"]


def test_a_table_of_another_width_is_told(index, direct):
    direct.execute(f'ALTER TABLE "{index._name}" ALTER COLUMN code TYPE bit(8) USING code::bit(8)')
    with pytest.raises(BadCodes, match="width"):
        index.search(ZERO, SearchOptions(1))


def test_a_database_that_is_not_utf8_is_refused(url, direct):
    direct.execute("CREATE DATABASE latin ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0")
    with pytest.raises(Unsupported, match="wanted a database in UTF8, got LATIN1"):
        registry.create("pgvector", 16, url=url.replace(direct.info.dbname, "latin"))
    direct.execute("DROP DATABASE latin WITH (FORCE)")


def test_the_extension_must_be_there_or_allowed(postgres):
    url = postgres.database()
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CREATE ROLE plain LOGIN")
        connection.execute("GRANT CREATE ON SCHEMA public TO plain")
    with pytest.raises(Unsupported, match="wanted the extension vector, got permission denied"):
        registry.create(
            "pgvector", 16, url=url.replace("postgres:", "plain:", 1).replace("//postgres", "//plain")
        )


def test_an_old_extension_is_refused(postgres):
    url = postgres.database()
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CREATE EXTENSION vector")
        connection.execute("UPDATE pg_extension SET extversion = '0.6.2' WHERE extname = 'vector'")
    with pytest.raises(Unsupported, match=r"0\.7 or newer, got 0\.6\.2"):
        registry.create("pgvector", 16, url=url)
