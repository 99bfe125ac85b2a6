"""Jobs, idempotency keys, generations and the alias in the real database."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from service.application.errors import Conflict, NotFound
from service.application.types import (
    FINAL_PHASES,
    Generation,
    JobKind,
    JobPhase,
    LeftOut,
    Quality,
    TaskQuality,
    Validation,
)

HOUR = timedelta(hours=1)


def generation(generation_id="g1", hour=0):
    created = datetime(2026, 1, 1, hour, tzinfo=UTC)
    return Generation(generation_id, "m", "1", "d" * 64, "p" * 64, 64, 7, 3, 4, created, False)


def start(catalog, key=None, model="latest", activate=True):
    return catalog.jobs.create(JobKind.REINDEX, model, activate, key, HOUR)


def test_a_job_is_queued_then_moves_then_ends(catalog, clock):
    job, new = start(catalog)
    assert new
    assert (job.phase, job.done, job.total, job.created, job.started) == (
        JobPhase.QUEUED,
        0,
        0,
        clock(),
        None,
    )
    clock.move(1)
    assert catalog.jobs.advance(job.id, phase=JobPhase.ENCODING, done=1, total=2, rate=1.5, eta_s=0.5)
    clock.move(1)
    assert catalog.jobs.advance(job.id, phase=JobPhase.DONE)
    ended = catalog.jobs.get(job.id)
    assert (ended.done, ended.total, ended.rate) == (1, 2, 1.5)
    assert (ended.finished - ended.started, ended.started - ended.created) == (timedelta(seconds=1),) * 2


@pytest.mark.parametrize("phase", sorted(FINAL_PHASES))
def test_a_final_job_never_changes_again(catalog, phase):
    job, _ = start(catalog)
    catalog.jobs.advance(job.id, phase=phase)
    assert not catalog.jobs.advance(job.id, phase=JobPhase.ENCODING)
    assert catalog.jobs.beat(job.id)
    assert catalog.jobs.request_cancel(job.id).phase is phase
    catalog.generations.add(generation())
    assert not catalog.jobs.swap(job.id, "g1")
    assert catalog.generations.live() is None


def test_one_active_job_of_a_kind(catalog):
    job, _ = start(catalog)
    with pytest.raises(Conflict, match=job.id):
        start(catalog)
    other, _ = catalog.jobs.create(JobKind.IMPORT, "", True, None, HOUR)
    catalog.jobs.advance(job.id, phase=JobPhase.FAILED, error="x")
    assert start(catalog)[1]
    assert {one.id for one in catalog.jobs.recent(10)} >= {job.id, other.id}
    assert len(catalog.jobs.recent(2)) == 2


def test_keys_give_the_same_job_until_they_expire(catalog, clock):
    job, _ = start(catalog, "key")
    catalog.jobs.advance(job.id, phase=JobPhase.DONE)
    again, new = start(catalog, "key")
    assert (again.id, again.phase, new) == (job.id, JobPhase.DONE, False)
    for other in ({"model": "m/1"}, {"activate": False}):
        with pytest.raises(Conflict) as caught:
            start(catalog, "key", **other)
        assert caught.value.code == "idempotency_key_reused"
    clock.move(3600)
    assert start(catalog, "key")[1]


def test_a_heartbeat_tells_whether_to_stop(catalog):
    job, _ = start(catalog)
    assert not catalog.jobs.beat(job.id)
    assert catalog.jobs.request_cancel(job.id).phase is JobPhase.QUEUED
    assert catalog.jobs.beat(job.id)
    assert catalog.jobs.beat("unknown")
    assert catalog.jobs.request_cancel("unknown") is None
    assert catalog.jobs.get("unknown") is None


def test_silence_fails_a_job_and_a_heartbeat_saves_it(catalog, clock):
    job, _ = start(catalog)
    clock.move(20)
    assert catalog.jobs.fail_silent(timedelta(seconds=30), "silent") == []
    catalog.jobs.beat(job.id)
    clock.move(20)
    assert catalog.jobs.fail_silent(timedelta(seconds=30), "silent") == []
    clock.move(11)
    assert catalog.jobs.fail_silent(timedelta(seconds=30), "silent") == [job.id]
    failed = catalog.jobs.get(job.id)
    assert (failed.phase, failed.error, failed.finished) == (JobPhase.FAILED, "silent", clock())


def test_a_swap_moves_the_alias_with_the_job(catalog):
    job, _ = start(catalog)
    catalog.generations.add(generation("g1"))
    catalog.generations.add(generation("g2", hour=1))
    assert catalog.jobs.swap(job.id, "g2")
    assert catalog.jobs.get(job.id).phase is JobPhase.SWAPPING
    assert catalog.generations.live() == replace(generation("g2", hour=1), live=True)
    with pytest.raises(NotFound):
        catalog.jobs.swap(job.id, "g3")
    assert catalog.generations.live().id == "g2"


def test_generations_come_newest_first_and_know_which_is_live(catalog):
    assert (catalog.generations.live(), catalog.generations.get("g1"), catalog.generations.all()) == (
        None,
        None,
        [],
    )
    for name, hour in (("g1", 0), ("g3", 2), ("g2", 1)):
        catalog.generations.add(generation(name, hour))
    catalog.generations.set_live("g1")
    catalog.generations.set_live("g3")
    assert [(one.id, one.live) for one in catalog.generations.all()] == [
        ("g3", True),
        ("g2", False),
        ("g1", False),
    ]
    assert catalog.generations.get("g2") == generation("g2", 1)
    with pytest.raises(NotFound, match="g9"):
        catalog.generations.set_live("g9")
    with pytest.raises(Conflict, match="is live"):
        catalog.generations.remove("g3")
    catalog.generations.remove("g1")
    assert [one.id for one in catalog.generations.all()] == ["g3", "g2"]


def test_what_was_live_becomes_the_predecessor_in_the_same_step(catalog):
    for name, hour in (("g1", 0), ("g2", 1), ("g3", 2)):
        catalog.generations.add(generation(name, hour))
    catalog.generations.set_live("g1")
    assert catalog.generations.predecessor() is None
    for live, former in (("g2", "g1"), ("g1", "g2"), ("g1", "g2"), ("g3", "g1")):
        catalog.generations.set_live(live)
        assert (catalog.generations.live().id, catalog.generations.predecessor().id) == (live, former)
        assert [one.id for one in catalog.generations.all() if one.predecessor] == [former]
    with pytest.raises(NotFound):
        catalog.generations.set_live("g9")
    assert catalog.generations.predecessor() == replace(generation("g1", 0), predecessor=True)
    job, _ = start(catalog)
    assert catalog.jobs.swap(job.id, "g2")
    assert catalog.generations.get("g3").predecessor
    catalog.generations.remove("g3")
    assert catalog.generations.predecessor() is None


@pytest.mark.parametrize("by", ["name", "silence"])
def test_a_job_whose_alias_has_moved_ends_as_done_whatever_became_of_its_worker(catalog, clock, by):
    catalog.generations.add(generation("g1"))
    job, _ = start(catalog)
    assert catalog.jobs.active() == [job.id]
    catalog.jobs.swap(job.id, "g1")
    clock.move(60)
    if by == "name":
        assert catalog.jobs.end(job.id, JobPhase.FAILED, "killed") is JobPhase.DONE
    else:
        assert catalog.jobs.fail_silent(timedelta(seconds=30), "silent") == []
    ended = catalog.jobs.get(job.id)
    assert (ended.phase, ended.error, ended.finished) == (JobPhase.DONE, None, clock())
    assert catalog.jobs.active() == []


def test_a_job_ends_once(catalog):
    job, _ = start(catalog)
    assert catalog.jobs.end(job.id, JobPhase.FAILED, "killed") is JobPhase.FAILED
    assert catalog.jobs.end(job.id, JobPhase.CANCELLED) is None
    assert catalog.jobs.end("unknown", JobPhase.FAILED) is None
    assert (catalog.jobs.get(job.id).phase, catalog.jobs.get(job.id).error) == (JobPhase.FAILED, "killed")


@pytest.mark.parametrize("first", [JobKind.REINDEX, JobKind.CATCH_UP])
def test_a_reindex_and_a_catch_up_exclude_each_other(catalog, first):
    second = JobKind.CATCH_UP if first is JobKind.REINDEX else JobKind.REINDEX
    job, _ = catalog.jobs.create(first, "m/1", True, None, HOUR, "g1", 0.25)
    assert (job.generation_id, job.quality_floor) == ("g1", 0.25)
    with pytest.raises(Conflict, match=f"a {first} job is running already: {job.id}"):
        catalog.jobs.create(second, "m/1", True, None, HOUR)


def test_a_key_stands_for_the_floor_too(catalog):
    catalog.jobs.create(JobKind.REINDEX, "latest", True, "key", HOUR, None, 0.1)
    with pytest.raises(Conflict, match="another request"):
        catalog.jobs.create(JobKind.REINDEX, "latest", True, "key", HOUR, None, 0.2)


@pytest.mark.parametrize("measured", [True, False])
def test_what_was_validated_comes_back_as_it_was(catalog, measured):
    tasks = (TaskQuality("image-to-text", 0.1, 0.2), TaskQuality("text-to-image", 0.3, 0.4))
    quality = Quality("m/2", "m/1", "labels", 10, 30, tasks, 0.05)
    found = Validation(3, 4, 7, quality) if measured else Validation(3, 4, 7, note="too few")
    found = replace(found, left_out=(LeftOut("bare", 2, ("a", "b")),) if measured else ())
    job, _ = start(catalog)
    assert job.validation is None
    catalog.jobs.advance(job.id, phase=JobPhase.VALIDATING, validation=found)
    assert catalog.jobs.get(job.id).validation == catalog.jobs.recent(1)[0].validation == found
