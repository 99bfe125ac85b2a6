"""Aliases are moved by what they are when they are moved, on both databases."""

from datetime import UTC, datetime, timedelta

import pytest

from service.application.errors import NotFound
from service.application.types import Generation
from service.catalog.audit import SqlAudit


def generation(number):
    created = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(days=number)
    return Generation(f"g{number}", "m", "1", "d" * 64, "p" * 64, 64, 7, 3, 4, created, False)


@pytest.fixture
def audit(catalog):
    """g2 is live, g1 its predecessor, g0 neither."""
    for number in range(3):
        catalog.generations.add(generation(number))
    for number in (1, 2):
        catalog.generations.set_live(f"g{number}")
    return SqlAudit(catalog.database)


def test_a_generation_takes_the_place_that_another_has_now(audit):
    assert not audit.take_place("g0", "g1")
    assert audit.take_place("g1", "g0")
    assert audit.aliases() == {"live": "g2", "predecessor": "g0"}
    assert audit.take_place("g0", "g2")  # which is live already: nothing is its own predecessor
    assert audit.aliases() == {"live": "g2"}
    with pytest.raises(NotFound, match="gone is not kept any more"):
        audit.take_place("g2", "gone")


def test_an_alias_is_moved_only_from_where_it_was_seen(audit):
    assert not audit.point("live", "g0", "g1")
    assert not audit.point("predecessor", "g0", None)
    assert audit.point("predecessor", None, "g1")
    assert audit.point("predecessor", "g0", None)
    assert audit.aliases() == {"live": "g2", "predecessor": "g0"}


def test_what_an_alias_names_is_not_forgotten(audit, catalog):
    assert [audit.forget(f"g{number}") for number in range(3)] == [True, False, False]
    assert [one.id for one in catalog.generations.all()] == ["g2", "g1"]


def test_a_generation_that_is_known_is_adopted_once(audit, catalog):
    audit.adopt(generation(0))
    audit.adopt(generation(3))
    assert [one.id for one in catalog.generations.all()] == ["g3", "g2", "g1", "g0"]
    assert audit.aliases() == {"live": "g2", "predecessor": "g1"}
