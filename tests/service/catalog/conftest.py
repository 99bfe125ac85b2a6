"""Catalogs on SQLite and on PostgreSQL, with a clock that the tests move."""

from datetime import UTC, datetime, timedelta

import pytest
from real_servers import POSTGRES

from service.catalog.catalog import open_catalog


class HandClock:
    def __init__(self):
        self.now = datetime(2026, 1, 1, tzinfo=UTC)

    def __call__(self):
        return self.now

    def move(self, seconds):
        self.now += timedelta(seconds=seconds)


@pytest.fixture
def clock():
    return HandClock()


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=POSTGRES)])
def url(request, tmp_path):
    """URL of a database without a catalog; every test that asks for one runs on both databases."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/catalog.db"
    return request.getfixturevalue("postgres").shared()


@pytest.fixture
def catalog(url, clock):
    catalog = open_catalog(url, clock)
    yield catalog
    catalog.close()
