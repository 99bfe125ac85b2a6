"""Items that came as bare codes, and a model that cannot encode them: refused, or named in the result."""

from __future__ import annotations

import numpy as np
import pytest
from fake_homes import settings_for
from fake_models import FakeEncoder, put_text

from service.application.building import choose_model
from service.application.bulk_ports import ReadyCodes
from service.application.types import JobPhase, LeftOut
from service.bulk_wiring import build_bulk_import
from service.wiring import build_builder, open_parts, rebuild, roll_back

BARE = [f"bare{number}" for number in range(7)]


def take_in(parts, ids=BARE, version="1", side="image"):
    """Ready codes of a model for ids that have nothing else."""
    codes = np.random.default_rng(len(ids)).integers(0, 256, (len(ids), 8), dtype=np.uint8)
    build_bulk_import(parts).run(FakeEncoder(version), ReadyCodes(ids, {side: codes}), lambda *_: None)


def held(parts, side="image"):
    live = parts.catalog.generations.live()
    return live.model_version, list(parts.store.load(live)[side].index.codes()[0])


@pytest.fixture
def tolerant(home, shelf):
    """The same home, told to go on without what cannot be encoded."""
    parts = open_parts(settings_for(home, reindex_skips_broken_items=True, keep_generations=1), shelf)
    yield parts
    parts.close()


def test_another_model_is_refused_with_their_number_and_the_first_of_them(parts, shelf):
    put_text(parts, "whole")
    take_in(parts)
    live = parts.catalog.generations.live().id
    shelf.publish("2")
    job = rebuild(parts, "fake/2")
    assert job.phase is JobPhase.FAILED
    assert job.error.startswith("7 items came as bare codes of another model")
    assert "fake/2 would need" in job.error
    assert "the first are bare0, bare1, bare2, bare3, bare4. Import their codes by fake/2" in job.error
    assert "bare5" not in job.error
    assert parts.catalog.generations.live().id == live
    assert parts.catalog.codes.all(FakeEncoder("2").digest, "text", 64)[0] == []  # nothing was encoded for it


def test_the_same_model_and_one_whose_codes_came_too_are_not_refused(parts, shelf):
    shelf.publish("2")
    take_in(parts)
    assert rebuild(parts, "fake/1").phase is JobPhase.DONE
    take_in(parts, version="2")
    assert rebuild(parts, "fake/1").phase is JobPhase.DONE
    assert rebuild(parts, "fake/2").validation.left_out == ()
    assert held(parts) == ("2", BARE)


def test_when_told_to_go_on_the_job_names_them_and_their_codes_outlive_their_generation(
    parts, tolerant, shelf
):
    put_text(parts, "whole")
    take_in(tolerant)
    put_text(parts, "unsound", "crash")
    shelf.publish("2")
    job = rebuild(tolerant, "fake/2")
    assert job.phase is JobPhase.DONE
    assert job.validation.left_out == (
        LeftOut("bare", 7, tuple(BARE[:5])),
        LeftOut("broken", 1, ("unsound",)),
    )
    assert (held(parts), held(parts, "text")) == (("2", []), ("2", ["whole"]))
    assert [one.model_version for one in parts.catalog.generations.all()] == ["2"]  # that of fake/1 is gone
    assert rebuild(tolerant, "fake/1").validation.left_out == (LeftOut("broken", 1, ("unsound",)),)
    assert held(parts) == ("1", BARE)


def test_a_catch_up_is_refused_or_names_them_just_so(parts, tolerant, shelf):
    shelf.publish("2")
    put_text(parts, "whole")
    rebuild(parts, "fake/1")
    older = build_builder(parts).empty(choose_model(shelf, "fake/2", None))
    take_in(parts, ["bare"], side="text")
    failed = roll_back(parts, older)
    assert (failed.phase, failed.generation_id) == (JobPhase.FAILED, older.id)
    assert failed.error.startswith("1 items came as bare codes of another model")
    assert parts.catalog.generations.live().model_version == "1"
    done = roll_back(tolerant, older)
    assert done.phase is JobPhase.DONE
    assert done.validation.left_out == (LeftOut("bare", 1, ("bare",)),)
    assert parts.catalog.generations.live().id == older.id
