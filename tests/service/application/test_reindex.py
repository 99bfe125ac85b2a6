"""Reindexing with real worker processes: progress, swap, cancel, death, idempotency, roll-back, pruning."""

import os
import signal
import threading
import time
from datetime import timedelta

import pytest
from fake_homes import process_launcher, settings_for, thread_launcher
from fake_models import picture, put_text

from service.application.acceptance import BuildFailed
from service.application.building import Progress, choose_model
from service.application.errors import Conflict, InvalidInput, NotFound, Unavailable
from service.application.jobs import _Reporter, _StoppedError
from service.application.types import FINAL_PHASES, ItemDraft, JobKind, JobPhase, Query
from service.wiring import build_builder, build_runner, ensure_generation, open_parts, rebuild
from service.worker import main


def fill(app, count=20):
    app.items.put_batch(
        [ItemDraft(f"i{n:03}", picture("red") if n % 2 else None, f"word{n}") for n in range(count)]
    )


def finished(app, job_id, seconds=120):
    deadline = time.monotonic() + seconds
    while (job := app.reindexing.job(job_id)).phase not in FINAL_PHASES:
        assert time.monotonic() < deadline, job
        time.sleep(0.02)
    return job


def search(app, text="word3"):
    return app.retrieval.search(Query(to="text", text=text, k=1))


def test_a_second_model_is_served_when_the_job_is_done(make_app, shelf):
    app = make_app()
    fill(app)
    before = search(app)
    shelf.publish("2")
    job = app.reindexing.start("latest", True, None)
    assert (job.kind, job.activate) == (JobKind.REINDEX, True)
    done = finished(app, job.id)
    assert (done.phase, done.error, done.done, done.total) == (JobPhase.DONE, None, 20, 20)
    assert done.model == "fake/2"
    assert done.rate > 0
    assert done.created <= done.started <= done.finished
    after = search(app)
    assert (before.model_version, after.model_version) == ("fake/1", "fake/2")
    assert after.index_generation == done.generation_id
    assert (after.hits[0].id, after.hits[0].distance) == ("i003", 0)
    live = [one for one in app.reindexing.generations() if one.live]
    assert [(one.id, one.image_count, one.text_count) for one in live] == [(done.generation_id, 10, 20)]
    assert [one.id for one in app.reindexing.jobs(10)] == [job.id]


def test_the_active_model_builds_a_new_generation_too(make_app):
    app = make_app()
    fill(app, 3)
    before = search(app).index_generation
    done = finished(app, app.reindexing.start("fake/1", True, None).id)
    assert done.phase is JobPhase.DONE
    assert search(app).index_generation == done.generation_id != before
    assert done.total == 0  # every code was there already


def test_without_activate_it_is_built_but_not_served(make_app, shelf):
    app = make_app()
    fill(app, 5)
    shelf.publish("2")
    done = finished(app, app.reindexing.start("fake/2", False, None).id)
    assert done.phase is JobPhase.DONE
    assert search(app).model_version == "fake/1"
    job = app.reindexing.activate(done.generation_id)
    assert (job.kind, job.model, job.generation_id) == (JobKind.CATCH_UP, "fake/2", done.generation_id)
    assert finished(app, job.id).phase is JobPhase.DONE
    assert search(app).model_version == "fake/2"


class Slow:
    """A launcher whose workers are `started` but do nothing until the test runs them."""

    def __init__(self):
        self.started, self.status = [], None

    def __call__(self, job_id):
        self.started.append(job_id)
        return self

    def poll(self):
        return self.status

    def terminate(self):
        self.status = -15


def test_one_at_a_time_and_idempotency_keys(make_app, shelf):
    launch = Slow()
    app = make_app(launch=launch)
    first = app.reindexing.start("latest", True, "key-1")
    with pytest.raises(Conflict) as caught:
        app.reindexing.start("latest", True, None)
    assert caught.value.code == "job_running"
    with pytest.raises(Conflict):
        app.reindexing.start("latest", True, "key-2")
    assert app.reindexing.start("latest", True, "key-1").id == first.id
    with pytest.raises(Conflict) as caught:
        app.reindexing.start("latest", False, "key-1")
    assert caught.value.code == "idempotency_key_reused"
    assert launch.started == [first.id]
    for key in ("", "x" * 201):
        with pytest.raises(InvalidInput):
            app.reindexing.start("latest", True, key)


def test_two_starts_at_once_make_one_job(make_app):
    app = make_app(launch=Slow())
    results = []

    def start():
        try:
            results.append(app.reindexing.start("latest", True, None).id)
        except Conflict as error:
            results.append(error.code)

    threads = [threading.Thread(target=start) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results)[1:].count("job_running") + sorted(results)[:1].count("job_running") == 5


def test_an_expired_key_starts_again(make_app):
    app = make_app(launch=Slow(), idempotency_hours=1e-9)
    first = app.reindexing.start("latest", True, "key")
    app.reindexing._jobs.advance(first.id, phase=JobPhase.DONE)
    assert app.reindexing.start("latest", True, "key").id != first.id


def test_cancel_stops_between_batches_and_leaves_no_trace(make_app, shelf, home):
    app = make_app()
    fill(app, 40)
    shelf.publish("2", slow_s=0.2)
    job = app.reindexing.start("latest", True, None)
    while app.reindexing.job(job.id).phase is JobPhase.QUEUED:
        time.sleep(0.02)
    app.reindexing.cancel(job.id)
    done = finished(app, job.id)
    assert (done.phase, done.error) == (JobPhase.CANCELLED, None)
    assert done.done < 40
    assert app.reindexing.cancel(job.id).phase is JobPhase.CANCELLED
    assert len(app.reindexing.generations()) == 1
    assert len(list((home / "generations").iterdir())) == 1
    assert search(app).model_version == "fake/1"
    shelf.publish("2")
    assert finished(app, app.reindexing.start("latest", True, None).id).phase is JobPhase.DONE


def test_a_killed_worker_fails_its_job_and_the_next_one_goes_on(make_app, shelf, home):
    pids = []

    def launch(job_id):
        if pids:
            return thread_launcher(settings_for(home))(job_id)
        worker = process_launcher(settings_for(home))(job_id)
        pids.append(worker.process.pid)
        return worker

    app = make_app(launch=launch)
    fill(app, 40)
    shelf.publish("2", slow_s=0.2)
    job = app.reindexing.start("latest", True, None)
    while not app.reindexing.job(job.id).done:
        time.sleep(0.02)
    os.kill(pids[0], signal.SIGKILL)
    done = finished(app, job.id)
    assert done.phase is JobPhase.FAILED
    assert "ended with status -9" in done.error
    shelf.publish("2")
    again = finished(app, app.reindexing.start("latest", True, None).id)
    assert again.phase is JobPhase.DONE
    assert again.total < 40  # the codes of the first attempt were kept
    assert search(app).model_version == "fake/2"


def test_closing_the_service_stops_its_worker(make_app, shelf, parts, home):
    app = make_app(launch=process_launcher(settings_for(home)))
    fill(app, 40)
    shelf.publish("2", slow_s=0.2)
    job = app.reindexing.start("latest", True, None)
    while not app.reindexing.job(job.id).done:
        time.sleep(0.02)
    app.close()
    assert parts.catalog.jobs.get(job.id).phase is JobPhase.CANCELLED


def test_a_job_whose_worker_died_with_the_service_fails_after_a_restart(make_app):
    first = make_app(launch=Slow())
    job = first.reindexing.start("latest", True, None)
    first.close()
    second = make_app(launch=Slow(), worker_timeout_s=0.5)
    deadline = time.monotonic() + 10
    while second.reindexing.job(job.id).phase is not JobPhase.FAILED:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert "not been heard of for 0.5 s" in second.reindexing.job(job.id).error
    assert second.reindexing.start("latest", True, None).phase is JobPhase.QUEUED


def test_a_worker_that_cannot_start_fails_the_job(make_app):
    def launch(job_id):
        raise OSError("no more processes")

    app = make_app(launch=launch)
    job = app.reindexing.start("latest", True, None)
    assert (job.phase, job.error) == (JobPhase.FAILED, "no worker could start: no more processes")


def test_a_worker_that_lost_its_job_does_not_move_the_alias(make_app, shelf, parts):
    app = make_app(launch=Slow())
    fill(app, 3)
    shelf.publish("2")
    job = app.reindexing.start("latest", True, None)
    parts.catalog.jobs.advance(job.id, phase=JobPhase.FAILED, error="given up")
    after = build_runner(parts).run(job.id, threading.Event())
    assert (after.phase, after.error) == (JobPhase.FAILED, "given up")
    assert len(app.reindexing.generations()) == 1
    assert search(app).model_version == "fake/1"


@pytest.mark.parametrize("moment", ["advance", "swap"])
def test_a_generation_of_a_job_that_ended_meanwhile_is_discarded(parts, shelf, monkeypatch, moment):
    ensure_generation(parts)
    job, _ = parts.catalog.jobs.create(JobKind.REINDEX, "latest", True, None, timedelta(0))
    original = getattr(type(parts.catalog.jobs), moment)

    def ended(self, job_id, *arguments, **changes):
        if moment == "swap" or "generation_id" in changes:
            original_advance(self, job_id, phase=JobPhase.CANCELLED)
        return original(self, job_id, *arguments, **changes)

    original_advance = type(parts.catalog.jobs).advance
    monkeypatch.setattr(type(parts.catalog.jobs), moment, ended)
    done = build_runner(parts).run(job.id, threading.Event())
    assert done.phase is JobPhase.CANCELLED
    assert len(parts.catalog.generations.all()) == 1


def test_done_waits_until_this_process_serves_it(make_app, shelf, parts):
    app = make_app(launch=Slow(), follower_poll_s=100)
    fill(app, 3)
    shelf.publish("2")
    job = app.reindexing.start("latest", True, None)
    build_runner(parts).run(job.id, threading.Event())
    assert parts.catalog.jobs.get(job.id).phase is JobPhase.DONE
    assert app.reindexing.job(job.id).phase is JobPhase.SWAPPING
    app.follower.tick()
    assert app.reindexing.job(job.id).phase is JobPhase.DONE
    assert search(app).model_version == "fake/2"


def test_a_generation_that_cannot_be_served_here_shows_as_failed(make_app, shelf, parts):
    app = make_app(launch=Slow(), follower_poll_s=100)
    shelf.publish("2")
    job = app.reindexing.start("latest", True, None)
    build_runner(parts).run(job.id, threading.Event())
    shelf.publish("2", damaged=True)
    app.follower.tick()
    app.follower.tick()
    shown = app.reindexing.job(job.id)
    assert (shown.phase, shown.error) == (JobPhase.FAILED, "the model is damaged")
    assert search(app).model_version == "fake/1"


def test_roll_back_catches_up_with_what_was_written_since(make_app, shelf):
    app = make_app()
    fill(app, 6)
    old = search(app).index_generation
    shelf.publish("2")
    finished(app, app.reindexing.start("latest", True, None).id)
    app.items.put(ItemDraft("new", picture("blue"), "something new"))
    app.items.put(ItemDraft("i000", text="changed"))
    app.items.delete("i003")
    back = app.reindexing.activate(old)
    assert back.live
    answer = app.retrieval.search(Query(to="text", text="something new", k=1000))
    assert answer.model_version == "fake/1"
    assert (answer.hits[0].id, answer.hits[0].distance) == ("new", 0)
    assert "i003" not in [hit.id for hit in answer.hits]
    assert search(app, "changed").hits[0].id == "i000"
    assert app.reindexing.activate(old) == back
    with pytest.raises(NotFound):
        app.reindexing.activate("no-such")


def test_roll_back_to_a_damaged_generation_leaves_everything(make_app, shelf, home):
    app = make_app()
    fill(app, 3)
    old = search(app).index_generation
    finished(app, app.reindexing.start("latest", True, None).id)
    live = search(app).index_generation
    (home / "generations" / old / "META.json").write_text("{}")
    with pytest.raises(Unavailable, match="cannot be loaded"):
        app.reindexing.activate(old)
    assert search(app).index_generation == live
    assert [one.id for one in app.reindexing.generations() if one.live] == [live]


def test_old_generations_go_with_what_only_they_needed(make_app, shelf, home, parts):
    app = make_app(keep_generations=2)
    fill(app, 4)
    for version in ("2", "3", "4"):
        shelf.publish(version)
        assert finished(app, app.reindexing.start("latest", True, None).id).phase is JobPhase.DONE
    kept = app.reindexing.generations()
    assert [one.model_version for one in kept] == ["4", "3"]
    assert {path.name for path in (home / "generations").iterdir()} == {one.id for one in kept}
    for version, wanted in (("1", 0), ("2", 0), ("3", 4), ("4", 4)):
        digest = next(ref.digest for ref in shelf.refs() if ref.version == version)
        assert len(parts.catalog.codes.all(digest, "text", 64)[0]) == wanted
    assert parts.catalog.codes.changes(0, 10) == []
    app.items.put(ItemDraft("late", text="late"))
    app.close()
    assert (
        make_app(keep_generations=2).retrieval.search(Query(to="text", text="late", k=1)).hits[0].id == "late"
    )


def test_the_live_generation_is_never_pruned(make_app, shelf, parts):
    app = make_app()
    old = search(app).index_generation
    for version in ("2", "3"):
        shelf.publish(version)
        finished(app, app.reindexing.start("latest", False, None).id)
    assert build_builder(parts).prune(1)
    assert {one.id for one in app.reindexing.generations()} >= {old}
    assert len(app.reindexing.generations()) == 2


def test_an_item_that_cannot_be_encoded_fails_the_job_unless_told_otherwise(make_app, shelf, home):
    app = make_app()
    fill(app, 10)
    app.items.put(ItemDraft("broken", picture("blue"), "blue"))
    digest = app.items.get("broken").image_digest
    app.items.blobs.remove(digest)
    shelf.publish("2")
    failed = finished(app, app.reindexing.start("latest", True, None).id)
    assert failed.phase is JobPhase.FAILED
    assert failed.error.startswith(f"1 items cannot be encoded: broken: blob {digest} is missing")
    assert search(app).model_version == "fake/1"
    tolerant = open_parts(settings_for(home, reindex_skips_broken_items=True), shelf)
    job = rebuild(tolerant, "latest")
    tolerant.close()
    assert job.phase is JobPhase.DONE
    app.follower.tick()
    assert search(app).model_version == "fake/2"
    assert [hit.id for hit in app.retrieval.search(Query(to="image", text="blue", k=100)).hits].count(
        "broken"
    ) == 0


def test_what_is_written_while_it_encodes_is_in_the_result(make_app, shelf):
    app = make_app()
    fill(app, 30)
    shelf.publish("2", slow_s=0.1)
    job = app.reindexing.start("latest", True, None)
    n = 0
    while app.reindexing.job(job.id).phase in {JobPhase.QUEUED, JobPhase.ENCODING}:
        app.items.put(ItemDraft(f"during{n}", text=f"during {n}"))
        app.items.put(ItemDraft("i005", text=f"version {n}"))
        n += 1
        time.sleep(0.05)
    assert finished(app, job.id).phase is JobPhase.DONE
    assert n > 2
    for number in range(n):
        assert search(app, f"during {number}").hits[0].id == f"during{number}"
    assert (search(app, f"version {n - 1}").hits[0].id, search(app).model_version) == ("i005", "fake/2")


def test_models_are_chosen_by_name_and_version_or_as_the_latest(shelf):
    shelf.publish("10")
    shelf.publish("9")
    shelf.publish("99", name="other")
    assert choose_model(shelf, "latest", "fake").label == "fake/10"
    assert choose_model(shelf, "latest", None).label == "other/99"
    assert choose_model(shelf, "latest", "gone").label == "other/99"
    assert choose_model(shelf, "fake/9", "other").label == "fake/9"
    for wanted in ("fake", "fake/8", "", "../etc/passwd", "x" * 10_000):
        with pytest.raises(NotFound, match="there is no model"):
            choose_model(shelf, wanted, "fake")
    shelf.path.unlink()
    with pytest.raises(NotFound, match="no model yet"):
        choose_model(shelf, "latest", None)


def test_unknown_models_and_jobs_are_not_found(make_app):
    app = make_app(launch=Slow())
    with pytest.raises(NotFound):
        app.reindexing.start("fake/77", True, None)
    for call in (app.reindexing.job, app.reindexing.cancel):
        with pytest.raises(NotFound):
            call("no-such")
    for limit in (0, 1001):
        with pytest.raises(InvalidInput):
            app.reindexing.jobs(limit)
    assert app.reindexing.jobs(1) == []
    assert app.models.cards() == [{"name": "fake", "version": "1"}]
    with pytest.raises(NotFound):
        app.models.card("fake", "2")


def test_a_worker_runs_one_job_and_says_how_it_went(parts, shelf, home, monkeypatch):
    ensure_generation(parts)
    for key, value in settings_for(home).child_environment().items():
        monkeypatch.setenv(key, value)
    monkeypatch.setattr(os, "nice", lambda by: by)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        job, _ = parts.catalog.jobs.create(JobKind.REINDEX, "latest", True, None, timedelta(0))
        assert main([job.id], make_shelf=lambda settings: shelf) == 0
        assert parts.catalog.jobs.get(job.id).phase is JobPhase.DONE
        job, _ = parts.catalog.jobs.create(JobKind.REINDEX, "no/1", True, None, timedelta(0))
        assert main([job.id, "--home", str(home)], make_shelf=lambda settings: shelf) == 1
        assert "there is no model 'no/1'" in parts.catalog.jobs.get(job.id).error
        with pytest.raises(NotFound):
            main(["no-such"], make_shelf=lambda settings: shelf)
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def test_ctrl_c_in_an_offline_rebuild_cancels_the_job(parts, shelf, monkeypatch):
    ensure_generation(parts)

    def interrupted(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(type(parts.catalog.codes), "last_seq", interrupted)
    with pytest.raises(KeyboardInterrupt):
        rebuild(parts, "latest")
    monkeypatch.undo()
    assert parts.catalog.jobs.recent(1)[0].phase is JobPhase.CANCELLED


def test_an_offline_rebuild_shows_its_job(parts, shelf):
    ensure_generation(parts)
    shelf.publish("2", slow_s=0.7)
    put_text(parts, "a")
    seen = []
    assert rebuild(parts, "latest", seen.append).phase is JobPhase.DONE
    assert seen


def test_an_index_that_lost_codes_is_not_made_live(parts, shelf, monkeypatch):
    ensure_generation(parts)
    builder = build_builder(parts)
    loaded = type(parts.store).load
    put_text(parts, "a")

    def losing(self, generation):
        indexes = loaded(self, generation)
        indexes["text"].remove(["a"])
        return indexes

    def turning(self, generation):
        indexes = loaded(self, generation)
        _, codes = indexes["text"].index.codes()
        indexes["text"].add(["a"], codes ^ 1)
        return indexes

    for damage, message in ((losing, "should hold 1 codes, it holds 0"), (turning, "does not find a code")):
        monkeypatch.setattr(type(parts.store), "load", damage)
        with pytest.raises(BuildFailed, match=message):
            builder.build("fake", "1", lambda progress: None)
        monkeypatch.undo()
    assert len(parts.catalog.generations.all()) == 1
    assert len(list((parts.settings.generations_folder).iterdir())) == 1


def test_progress_tells_rate_and_eta(parts, shelf):
    ensure_generation(parts)
    seen = []
    build_builder(parts).build("fake", "1", seen.append)
    assert [one.phase for one in seen] == [
        JobPhase.ENCODING,
        JobPhase.BUILDING,
        JobPhase.VALIDATING,
        JobPhase.VALIDATING,
    ]
    assert seen[0] == Progress(JobPhase.ENCODING, 0, 0)
    assert [one.validation is not None for one in seen] == [False, False, False, True]


def test_pruning_that_fails_does_not_undo_the_job(parts, shelf, monkeypatch):
    ensure_generation(parts)

    def busy(*arguments):
        raise Unavailable("busy")

    monkeypatch.setattr(type(parts.catalog.codes), "trim", busy)
    assert rebuild(parts, "latest").phase is JobPhase.DONE


def test_a_job_that_ends_while_it_encodes_stops_the_worker(parts, shelf):
    ensure_generation(parts)
    shelf.publish("2")
    for n in range(40):
        put_text(parts, f"i{n}")
    job, _ = parts.catalog.jobs.create(JobKind.REINDEX, "latest", True, None, timedelta(0))
    runner = build_runner(parts)
    parts.catalog.jobs.advance(job.id, phase=JobPhase.FAILED, error="given up")
    reporter = _Reporter(parts.catalog.jobs, job.id, threading.Event())
    with pytest.raises(_StoppedError):
        runner.builder.build("fake", "2", reporter)
    assert len(parts.catalog.codes.all(shelf.load("fake", "2").digest, "text", 64)[0]) == 0


def test_items_that_keep_coming_do_not_keep_it_encoding(parts, shelf, monkeypatch):
    """Each pass finds another batch; after a few passes the rest is left to the log of changes."""
    ensure_generation(parts)
    counter = iter(range(10_000))
    count = type(parts.catalog.codes).count_lacking

    def more(self, *arguments):
        for _ in range(10):
            put_text(parts, f"i{next(counter)}")
        return count(self, *arguments)

    monkeypatch.setattr(type(parts.catalog.codes), "count_lacking", more)
    generation = build_builder(parts).build("fake", "1", lambda progress: None)
    assert generation.text_count == 50
    assert generation.snapshot_seq == 40


def test_pruning_an_empty_home_does_nothing(parts):
    assert build_builder(parts).prune(3) == []
