"""API keys in the real database, and the migration that makes their table."""

from datetime import timedelta

import pytest
from alembic import command
from alembic.config import Config
from catalog_records import put, record
from sqlalchemy import inspect

from service.application.errors import Conflict
from service.application.types import ApiKey, Scope
from service.catalog import schema
from service.catalog.catalog import open_catalog


def key(clock, key_id="0" * 12, name="n", scopes=frozenset({Scope.SEARCH}), **times):
    return ApiKey(key_id, name, "d" * 64, scopes, clock(), **times)


def test_a_key_comes_back_as_it_went_in(catalog, clock):
    whole = key(clock, scopes=frozenset(Scope), expires=clock() + timedelta(days=1), name="näme [x]")
    catalog.keys.add(whole, 10)
    assert catalog.keys.all() == [whole]
    assert catalog.keys.in_force() == [whole]
    assert "d" * 64 not in repr(whole)


def test_keys_are_listed_oldest_first_then_by_id(catalog, clock):
    for name in ("b" * 12, "a" * 12):
        catalog.keys.add(key(clock, name), 10)
    clock.move(-1)
    catalog.keys.add(key(clock, "c" * 12), 10)
    assert [one.id[0] for one in catalog.keys.all()] == ["c", "a", "b"]


def test_a_revoked_key_stays_listed_and_keeps_its_time(catalog, clock):
    catalog.keys.add(key(clock), 10)
    clock.move(5)
    revoked = catalog.keys.revoke("0" * 12, clock())
    assert revoked.revoked == clock()
    first = clock()
    clock.move(5)
    assert catalog.keys.revoke("0" * 12, clock()).revoked == first
    assert catalog.keys.in_force() == []
    assert catalog.keys.all() == [revoked]
    assert catalog.keys.revoke("f" * 12, clock()) is None


def test_no_more_keys_than_the_most_and_revoked_ones_do_not_count(catalog, clock):
    for number in range(2):
        catalog.keys.add(key(clock, f"{number:012x}"), 2)
    with pytest.raises(Conflict, match="there are 2 keys, and 2 are the most"):
        catalog.keys.add(key(clock, "2" * 12), 2)
    catalog.keys.revoke(f"{0:012x}", clock())
    catalog.keys.add(key(clock, "2" * 12), 2)
    assert len(catalog.keys.all()) == 3


def test_the_last_use_only_moves_forward(catalog, clock):
    catalog.keys.add(key(clock), 10)
    late = clock() + timedelta(minutes=2)
    for used in (clock() + timedelta(minutes=1), late, clock()):
        catalog.keys.touch({"0" * 12: used, "f" * 12: used})
    assert catalog.keys.all()[0].last_used == late


def migrate(catalog, revision, down=False):
    config = Config()
    config.set_main_option("script_location", schema._MIGRATIONS.as_posix())
    with catalog.database.exclusive() as connection:
        config.attributes["connection"] = connection
        (command.downgrade if down else command.upgrade)(config, revision)


def tables(catalog):
    with catalog.database.read() as connection:
        return set(inspect(connection).get_table_names())


def test_an_older_catalog_gets_the_table_and_keeps_the_rest_on_both_ways(catalog, clock, url):
    put(catalog, record("a"))
    catalog.keys.add(key(clock), 10)
    migrate(catalog, "0001", down=True)
    assert "api_keys" not in tables(catalog)
    assert catalog.items.count() == 1
    again = open_catalog(url, clock)
    assert "api_keys" in tables(again)
    assert (again.items.count(), again.keys.all()) == (1, [])
    again.close()
