"""What is PostgreSQL's own: the order of commits, snapshots, locks, lost connections, and their errors.

Connections here are real and several; SQLite's side of the same questions is in test_catalog_items.py.
"""

from __future__ import annotations

import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import psycopg
import pytest
from catalog_records import put, record
from real_servers import POSTGRES

from service.application.errors import Unavailable
from service.catalog import database
from service.catalog.catalog import open_catalog
from service.catalog.database import open_engine

pytestmark = POSTGRES


@pytest.fixture
def url(postgres):
    return postgres.shared()


@pytest.fixture
def other(url, catalog, clock):
    """The same catalog, opened by another replica."""
    opened = open_catalog(url, clock)
    yield opened
    opened.close()


@pytest.fixture
def direct(url):
    """A connection of our own."""
    with psycopg.connect(url, autocommit=True) as connection:
        yield connection


def test_a_change_that_commits_late_has_no_later_ones_before_it(catalog, other):
    """The gap: somebody has taken number 1 and not committed yet; nobody may show 2 before."""
    taken, leave = threading.Event(), threading.Event()

    def hold():
        taken.set()
        assert leave.wait(20)

    with ThreadPoolExecutor(2) as pool:
        slow = pool.submit(catalog.items.put, [record("slow")], hold)
        assert taken.wait(20)
        quick = pool.submit(put, other, record("quick"))
        time.sleep(0.3)
        assert not quick.done()
        assert (other.codes.changes(0, 9), other.codes.last_seq()) == ([], 0)
        leave.set()
        assert (slow.result(20).last_seq, quick.result(20).last_seq) == (1, 2)
    assert other.codes.changes(0, 9) == [(1, "slow"), (2, "quick")]


def test_a_follower_never_skips_a_change(catalog, other, url, clock):
    """Writers of two replicas in a hurry, some of which fail; a third reads as the follower does."""
    reader = open_catalog(url, clock)
    done, seen, stop = 0, [], threading.Event()

    def write(which, name):
        for n in range(30):
            batch = [record(f"{name}-{n}-{i}") for i in range(1 + n % 3)]
            if n % 7 == 3:
                with pytest.raises(OSError, match="disk"):
                    which.items.put(batch, fail)
            elif n % 5 == 4:
                which.items.delete(f"{name}-{n - 1}-0")
            else:
                which.items.put(batch, lambda: None)

    def fail():
        raise OSError("disk full")

    def follow():
        nonlocal done
        while not stop.is_set() or reader.codes.changes(done, 1):
            last = reader.codes.last_seq()
            changes = reader.codes.changes(done, 4)
            if len(changes) < 4:
                assert not changes or changes[-1][0] >= last
            seen.extend(seq for seq, _ in changes)
            done = changes[-1][0] if changes else done

    with ThreadPoolExecutor(5) as pool:
        following = pool.submit(follow)
        for call in [pool.submit(write, [catalog, other][n % 2], f"w{n}") for n in range(4)]:
            call.result(60)
        stop.set()
        following.result(60)
    assert seen == list(range(1, catalog.codes.last_seq() + 1))
    assert len(seen) > 100
    reader.close()


def test_a_reader_sees_one_state_in_all_its_statements(catalog, other):
    put(catalog, record("a"))
    with catalog.database.read() as connection:
        count = "SELECT count(*) FROM items"
        assert connection.exec_driver_sql(count).scalar_one() == 1
        put(other, record("b"))
        assert connection.exec_driver_sql(count).scalar_one() == 1
    assert catalog.items.count() == 2


def test_a_reader_cannot_write(catalog):
    with pytest.raises(Exception, match="read-only"), catalog.database.read() as connection:
        connection.exec_driver_sql("DELETE FROM items")


def test_a_writer_sees_what_was_committed_while_it_waited(catalog, other):
    """Under a snapshot from before the lock, the second replacement would not know of the first."""
    inside, leave = threading.Event(), threading.Event()

    def hold():
        inside.set()
        assert leave.wait(20)

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(catalog.items.put, [record("a")], hold)
        assert inside.wait(20)
        second = pool.submit(put, other, record("a", text="again"))
        time.sleep(0.2)
        leave.set()
        assert (first.result(20).created, second.result(20).created) == ((True,), (False,))
    assert (catalog.items.count(), catalog.items.get(["a"])["a"].text) == (1, "again")


@pytest.fixture
def impatient(url, catalog, clock, monkeypatch):
    """A replica that waits a fifth of a second for a lock and for a connection."""
    monkeypatch.setattr(database, "_BUSY_TIMEOUT_MS", 200)
    opened = open_catalog(url, clock)
    yield opened
    opened.close()


def test_a_lock_that_does_not_come_free_is_unavailable(impatient, direct):
    with direct.transaction():
        direct.execute("SELECT * FROM counters FOR UPDATE")
        with pytest.raises(Unavailable, match=r"busy \(LockNotAvailable\)"):
            put(impatient, record("a"))
        assert impatient.items.count() == 0
    assert put(impatient, record("a")).last_seq == 1


def test_connections_that_run_out_are_unavailable(impatient):
    with ExitStack() as stack:
        for _ in range(20):
            stack.enter_context(impatient.database.read())
        with pytest.raises(Unavailable, match="no connection came free"):
            impatient.items.count()
    assert impatient.items.count() == 0


def test_a_connection_that_is_cut_in_a_transaction_is_unavailable(catalog, direct):
    cut = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'hashguard'"

    def lose():
        direct.execute(cut)
        time.sleep(0.1)

    with pytest.raises(Unavailable, match="cannot be reached"):
        catalog.items.put([record("a")], lose)
    assert (catalog.items.count(), catalog.codes.last_seq()) == (0, 0)
    direct.execute(cut)
    assert put(catalog, record("a")).last_seq == 1


def test_a_writer_that_died_silently_loses_the_lock(catalog, other, monkeypatch, url, clock):
    monkeypatch.setattr(database, "_IDLE_WRITER_MS", 300)
    hung = open_catalog(url, clock)
    with pytest.raises(Unavailable), hung.database.write() as connection:
        time.sleep(0.8)
        connection.exec_driver_sql("SELECT 1")
    assert put(other, record("a")).last_seq == 1
    hung.close()


def test_a_server_that_is_not_there_is_unavailable_and_no_secret_is_told(clock):
    with pytest.raises(Unavailable) as caught:
        open_catalog("postgresql://someone:s3cr3t@127.0.0.1:1/db", clock)
    assert caught.value.detail == "the catalog cannot be reached or is busy (OperationalError)"


@pytest.mark.parametrize("url", ["nonsense s3cr3t", "postgresql://u:s3cr3t@h:port/db"])
def test_a_url_that_is_none_is_not_quoted(url):
    with pytest.raises(ValueError, match="needs a database URL") as caught:
        open_engine(url)
    assert "s3cr3t" not in str(caught.value)


def test_a_missing_client_names_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(ValueError, match=r"hashguard\[postgresql\]"):
        open_engine("postgresql://h/db")


def test_an_error_of_ours_stays_one(catalog):
    with pytest.raises(Exception, match="no_such_table"), catalog.database.read() as connection:
        connection.exec_driver_sql("SELECT * FROM no_such_table")


def test_a_migration_is_locked(url, clock, direct):
    """While one replica migrates, another waits for it; then there is nothing left to do."""
    direct.execute("SELECT pg_advisory_lock(1751217000)")
    with ThreadPoolExecutor(1) as pool:
        opening = pool.submit(open_catalog, url, clock)
        time.sleep(0.5)
        assert not opening.done()
        direct.execute("SELECT pg_advisory_unlock(1751217000)")
        opened = opening.result(20)
    assert opened.items.count() == 0
    opened.close()
