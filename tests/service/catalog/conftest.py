"""Catalogs in a temporary folder, with a clock that the tests move."""

from datetime import UTC, datetime, timedelta

import pytest

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


@pytest.fixture
def url(tmp_path):
    return f"sqlite:///{tmp_path}/catalog.db"


@pytest.fixture
def catalog(url, clock):
    catalog = open_catalog(url, clock)
    yield catalog
    catalog.close()
