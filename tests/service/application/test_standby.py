"""The predecessor stands by: every write is encoded for both models, and a roll-back is instant."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from fake_homes import settings_for
from fake_models import FakeEncoder, picture

from service.application.errors import Conflict, Unavailable
from service.application.serving import ServingState
from service.application.types import FINAL_PHASES, Generation, ItemDraft, JobKind, JobPhase, Query
from service.wiring import build_importer, open_parts, rebuild, roll_back


@pytest.fixture
def two(make_app, shelf, home):
    """An application that was on fake/1, is on fake/2, and has fake/1 standing by; nothing polls."""

    def make(**changes):
        app = make_app(**({"follower_poll_s": 100, "canary_interval_s": 100} | changes))
        app.items.put_batch([ItemDraft(f"i{n}", picture("red"), f"word{n}") for n in range(5)])
        shelf.publish("2")
        swap(app, shelf, home, "2", **changes)
        return app

    return make


def swap(app, shelf, home, version, **changes):
    worker = open_parts(settings_for(home, **changes), shelf)
    assert rebuild(worker, f"fake/{version}").phase is JobPhase.DONE
    worker.close()
    app.follower.tick()
    assert app.items.state.current.model_label == f"fake/{version}"


def found(app, text, to="text"):
    answer = app.retrieval.search(Query(to=to, text=text, k=1000))
    return {hit.id: hit.distance for hit in answer.hits}


def lacking(app, version):
    """Number of items without a code of a model."""
    encoder = FakeEncoder(version)
    return app.retrieval.codes.count_lacking(encoder.digest, encoder.modalities)


def check_agreement(app, *servings):
    """Each index holds exactly the codes of the catalog, and the catalog those of exactly its items."""
    items = app.items.page(None, 1000).items
    for serving in servings:
        for side in ("image", "text"):
            kept, codes = app.retrieval.codes.all(serving.encoder.digest, side, 64)
            names, indexed = serving.indexes[side].index.codes()
            assert (list(names), indexed.tobytes()) == (kept, codes.tobytes())
            content = "image_digest" if side == "image" else "text"
            assert kept == [item.id for item in items if getattr(item, content) is not None]


def finished(app, job_id, seconds=60):
    deadline = time.monotonic() + seconds
    while (job := app.reindexing.job(job_id)).phase not in FINAL_PHASES:
        assert time.monotonic() < deadline, job
        app.follower.tick()
        time.sleep(0.02)
    return job


def test_every_write_is_encoded_by_both_models_and_is_in_both_indexes(two):
    app = two()
    state = app.items.state
    assert (state.current.model_label, state.standby.model_label) == ("fake/2", "fake/1")
    app.items.put(ItemDraft("new", picture("blue"), "something new"))
    app.items.put_batch([ItemDraft("i0", text="changed"), ItemDraft("other", picture("green"))])
    app.items.delete("i3")
    assert [lacking(app, version) for version in "12"] == [0, 0]
    check_agreement(app, state.current, state.standby)
    assert state.applied == state.standby_applied == app.retrieval.codes.last_seq()
    live = [(one.model_version, one.live, one.predecessor) for one in app.reindexing.generations()]
    assert live == [("2", True, False), ("1", False, True)]


def test_both_codes_go_into_one_transaction(two, monkeypatch):
    app = two()
    database = app.catalog.database
    writes = []
    original = type(database).write

    def counted(self):
        writes.append(1)
        return original(self)

    monkeypatch.setattr(type(database), "write", counted)
    app.items.put(ItemDraft("new", picture("blue"), "something new"))
    assert len(writes) == 1
    assert [lacking(app, version) for version in "12"] == [0, 0]


def test_going_back_and_forth_loads_and_encodes_nothing_and_loses_nothing(two, monkeypatch):
    app = two()
    first, second = (one.id for one in reversed(app.reindexing.generations()))
    for what in (type(app.models.shelf), type(app.follower._loader.store)):
        monkeypatch.setattr(what, "load", lambda *arguments: pytest.fail("a roll-back loads nothing"))
    for turn, generation in enumerate([first, second, first, second]):
        app.items.put(ItemDraft(f"turn{turn}", picture("blue"), f"written before turn {turn}"))
        app.items.put(ItemDraft("i1", text=f"version {turn}"))
        app.items.delete("i2")
        app.items.put(ItemDraft("i2", text="back again"))
        batches = [
            len(one.encoder._encoder.batches) for one in (app.items.state.current, app.items.state.standby)
        ]
        back = app.reindexing.activate(generation)
        assert (back.id, back.live, back.predecessor) == (generation, True, False)
        assert batches == [
            len(one.encoder._encoder.batches) for one in (app.items.state.standby, app.items.state.current)
        ]
        check_agreement(app, app.items.state.current, app.items.state.standby)
        assert found(app, f"written before turn {turn}")[f"turn{turn}"] == 0
        assert found(app, f"version {turn}")["i1"] == 0
        assert app.reindexing.activate(generation) == back
    assert [(one.live, one.predecessor) for one in app.reindexing.generations()] == [
        (True, False),
        (False, True),
    ]


def test_a_replica_and_a_restart_have_the_predecessor_too(two, make_app):
    app = two(follower_poll_s=0.05)
    replica = make_app()
    wait_until(lambda: replica.items.state.standby is not None)
    replica.items.put(ItemDraft("theirs", picture("blue"), "written by the replica"))
    app.items.delete("i4")
    for one in (app, replica):
        state = one.items.state
        wait_until(lambda state=state: state.standby_applied == state.applied == 7)
        check_agreement(one, state.current, state.standby)
    old = app.items.state.standby.generation.id
    app.close()
    replica.reindexing.activate(old)
    assert found(replica, "written by the replica")["theirs"] == 0


def wait_until(condition, seconds=30.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)


def test_a_predecessor_that_is_not_loaded_yet_is_loaded_when_it_is_wanted(two, make_app):
    app = two()
    app.items.put(ItemDraft("new", text="something new"))
    old = app.items.state.standby.generation.id
    app.close()
    again = make_app(follower_poll_s=100)
    assert again.items.state.standby is None
    assert again.reindexing.activate(old).live
    assert found(again, "something new")["new"] == 0
    assert again.items.state.standby.model_label == "fake/2"  # what was live stands by at once


@pytest.mark.parametrize("trouble", [Unavailable("the model is overloaded"), None])
def test_a_predecessor_that_cannot_encode_now_costs_the_writer_nothing(two, monkeypatch, trouble):
    """It refuses for a moment, or its index fails: what it lacks comes in later."""
    app = two(follower_poll_s=100)
    state = app.items.state
    if trouble is None:
        broken = state.standby.indexes["text"]
        monkeypatch.setattr(broken, "add", lambda *arguments: 1 / 0)
    else:
        monkeypatch.setattr(state.standby.encoder, "encode_texts", raiser(trouble))
    app.items.put(ItemDraft("new", text="something new"))
    app.items.put(ItemDraft("newer", text="something newer"))
    assert found(app, "something new")["new"] == 0
    assert state.standby_applied == 5
    assert lacking(app, "1") == (0 if trouble is None else 2)
    monkeypatch.undo()
    keeper_of(app).tick()
    assert (state.standby_applied, lacking(app, "1")) == (7, 0)
    check_agreement(app, state.current, state.standby)


def raiser(error):
    def call(*arguments):
        raise error

    return call


def keeper_of(app):
    """The keeper behind the application's ticker of that name."""
    return next(ticker for ticker in app.tickers if ticker._name == "standby")._action.__self__


def test_what_the_predecessor_cannot_encode_is_not_in_its_index_but_in_the_live_one(two, make_app, shelf):
    app = two()
    encoder = app.items.state.standby.encoder
    app.items.state.standby.encoder._encoder.encode_texts = raiser(ValueError("odd"))
    assert app.items.put(ItemDraft("new", text="something new"))[1]
    assert encoder.digest == FakeEncoder("1").digest
    assert found(app, "something new")["new"] == 0
    assert "new" not in app.items.state.standby.indexes["text"].index.codes()[0]


def test_keeping_one_generation_means_no_predecessor_and_no_second_encoding(two, shelf):
    app = two(keep_generations=1)
    keeper_of(app).tick()
    assert app.items.state.standby is None
    assert len(app.reindexing.generations()) == 1
    app.items.put(ItemDraft("new", text="something new"))
    assert lacking(app, "1") == 6  # its codes went with it


def test_two_generations_of_one_model_are_encoded_once(two, shelf, home):
    app = two()
    swap(app, shelf, home, "2")
    state = app.items.state
    assert [one.model_version for one in (state.current.generation, state.standby.generation)] == ["2", "2"]
    assert state.current.encoder is state.standby.encoder
    before = len(state.current.encoder._encoder.batches)
    app.items.put(ItemDraft("new", text="something new"))
    assert len(state.current.encoder._encoder.batches) == before + 1
    check_agreement(app, state.current, state.standby)


def test_what_another_process_imports_comes_to_the_predecessor_too(two, parts, tmp_path):
    app = two()
    (tmp_path / "pairs.jsonl").write_text('{"id": "theirs", "image": null, "texts": ["imported"]}\n')
    build_importer(parts, FakeEncoder("2")).run(tmp_path)
    assert lacking(app, "1") == 1
    app.follower.tick()
    keeper_of(app).tick()
    assert lacking(app, "1") == 0
    check_agreement(app, app.items.state.current, app.items.state.standby)


def test_a_damaged_predecessor_is_tried_again_and_does_not_disturb(two, make_app, home):
    app = two()
    old = app.items.state.standby.generation.id
    meta = home / "generations" / old / "META.json"
    sound = meta.read_text()
    app.close()
    meta.write_text("{}")
    again = make_app(follower_poll_s=100)
    keeper = keeper_of(again)
    keeper.tick()
    keeper.tick()
    assert again.items.state.standby is None
    assert again.health.ready().ok
    with pytest.raises(Unavailable, match="cannot be loaded"):
        again.reindexing.activate(old)
    meta.write_text(sound)
    keeper._failed = None
    keeper.tick()
    assert again.items.state.standby.generation.id == old


def test_after_a_start_with_a_damaged_live_one_the_predecessor_answers(two, make_app, home):
    app = two()
    app.items.put(ItemDraft("new", text="something new"))
    live = app.items.state.current.generation.id
    meta = home / "generations" / live / "META.json"
    sound = meta.read_text()
    app.close()
    meta.write_text("{}")
    again = make_app(follower_poll_s=100, canary_interval_s=100)
    state = again.health.ready()
    assert (state.ok, state.model_version, f"{live} cannot be served" in state.reasons[0]) == (
        True, "fake/1", True
    )  # fmt: skip
    assert found(again, "something new")["new"] == 0
    again.items.put(ItemDraft("newer", text="something newer"))
    keeper_of(again).tick()
    assert again.reindexing.generations()[0].live  # the alias is the operator's to move
    meta.write_text(sound)
    again.follower._failed = None
    again.follower.tick()
    state = again.items.state
    assert (state.current.generation.id, state.standby.model_label) == (live, "fake/1")
    assert found(again, "something newer")["newer"] == 0
    check_agreement(again, state.current, state.standby)


def test_a_start_where_neither_can_be_loaded_is_not_ready(two, make_app, home):
    app = two()
    app.close()
    for folder in (home / "generations").iterdir():
        (folder / "META.json").write_text("{}")
    again = make_app(follower_poll_s=100)
    state = again.health.ready()
    assert (state.ok, state.model_version) == (False, None)
    assert "cannot be served" in state.reasons[0]


def test_writers_and_roll_backs_at_once_end_with_both_indexes_whole(two):
    app = two(follower_poll_s=0.02, model_queue_size=1000)
    generations = [one.id for one in app.reindexing.generations()]
    stop, trouble, versions = threading.Event(), [], set()

    def write(worker):
        n = 0
        while not stop.is_set():
            item_id, text = f"w{worker}-{n % 9}", f"word{worker} number{n}"
            app.items.put(ItemDraft(item_id, text=text))
            answer = app.retrieval.search(Query(to="text", text=text, k=100))
            versions.add(answer.model_version)
            if (item_id, 0) not in [(hit.id, hit.distance) for hit in answer.hits]:
                trouble.append(f"{item_id} was not found when put returned")
            if n % 4 == 3:
                app.items.delete(item_id)
                if item_id in found(app, text):
                    trouble.append(f"{item_id} was found after delete returned")
            n += 1

    with ThreadPoolExecutor(3) as pool:
        calls = [pool.submit(write, worker) for worker in range(3)]
        try:
            for turn in range(12):
                time.sleep(0.1)
                app.reindexing.activate(generations[(turn + 1) % 2])
        finally:
            stop.set()
        for call in calls:
            call.result()
    assert trouble == []
    assert versions == {"fake/1", "fake/2"}
    app.follower.tick()
    keeper_of(app).tick()
    check_agreement(app, app.items.state.current, app.items.state.standby)


def three(two, shelf, home):
    """An application on fake/3 whose fake/1 is the oldest kept, and that one's id."""
    app = two()
    oldest = app.items.state.standby.generation.id
    shelf.publish("3")
    swap(app, shelf, home, "3")
    assert app.items.state.standby.model_label == "fake/2"
    return app, oldest


def test_an_older_generation_is_brought_up_to_date_by_a_job_first(two, shelf, home):
    app, oldest = three(two, shelf, home)
    app.items.put(ItemDraft("new", picture("blue"), "something new"))
    app.items.put(ItemDraft("i0", text="changed"))
    app.items.delete("i3")
    assert lacking(app, "1") == 2  # older generations cost a writer nothing
    job = app.reindexing.activate(oldest)
    assert (job.kind, job.model, job.activate, job.generation_id) == (
        JobKind.CATCH_UP, "fake/1", True, oldest
    )  # fmt: skip
    done = finished(app, job.id)
    assert (done.phase, done.error, done.done, done.total) == (JobPhase.DONE, None, 2, 2)
    state = app.items.state
    assert (state.current.generation.id, state.standby.model_label) == (oldest, "fake/3")
    check_agreement(app, state.current, state.standby)
    assert found(app, "something new")["new"] == 0
    assert "i3" not in found(app, "word3")


def test_a_catch_up_and_a_reindex_exclude_each_other(two, shelf, home, parts):
    app, oldest = three(two, shelf, home)
    running, _ = parts.catalog.jobs.create(JobKind.REINDEX, "latest", True, None, timedelta(0))
    with pytest.raises(Conflict, match="a reindex job is running"):
        app.reindexing.activate(oldest)
    parts.catalog.jobs.end(running.id, JobPhase.CANCELLED)
    parts.catalog.jobs.create(JobKind.CATCH_UP, "fake/1", True, None, timedelta(0), oldest)
    with pytest.raises(Conflict, match="a catch-up job is running"):
        app.reindexing.start("latest", True, None)
    second = app.items.state.standby.generation.id
    assert app.reindexing.activate(second).live  # the predecessor waits for nobody


@pytest.mark.parametrize("trouble", ["index", "model", "other model", "gone"])
def test_an_older_generation_that_is_damaged_leaves_what_is_served(two, shelf, home, parts, trouble):
    app, oldest = three(two, shelf, home)
    if trouble == "index":
        (home / "generations" / oldest / "META.json").write_text("{}")
    elif trouble == "model":
        shelf.publish("1", damaged=True)
    elif trouble == "other model":
        shelf.publish("1", bits=32)
    job, _ = parts.catalog.jobs.create(JobKind.CATCH_UP, "fake/1", True, None, timedelta(0), oldest)
    if trouble == "gone":
        parts.catalog.generations.remove(oldest)
    worker = app.reindexing._launch(job.id)
    worker.join()
    done = app.reindexing.job(job.id)
    words = {
        "index": "cannot be loaded",
        "model": "is damaged",
        "other model": "was built with",
        "gone": "not kept any more",
    }
    assert (done.phase, words[trouble] in done.error) == (JobPhase.FAILED, True), done.error
    app.follower.tick()
    assert app.items.state.current.model_label == "fake/3"


def test_a_catch_up_that_is_cancelled_does_not_move_the_alias(two, shelf, home, parts):
    app, oldest = three(two, shelf, home)
    job, _ = parts.catalog.jobs.create(JobKind.CATCH_UP, "fake/1", True, None, timedelta(0), oldest)
    app.reindexing.cancel(job.id)
    app.reindexing._launch(job.id).join()
    assert app.reindexing.job(job.id).phase is JobPhase.CANCELLED
    assert parts.catalog.generations.live().model_version == "3"


def test_without_a_service_the_way_back_is_the_same(two, shelf, home, parts):
    app, oldest = three(two, shelf, home)
    app.items.put(ItemDraft("new", text="something new"))
    app.close()
    assert roll_back(parts, parts.catalog.generations.predecessor()) is None
    assert parts.catalog.generations.live().model_version == "2"
    job = roll_back(parts, parts.catalog.generations.get(oldest))
    assert (job.kind, job.phase, job.done) == (JobKind.CATCH_UP, JobPhase.DONE, 1)
    assert parts.catalog.generations.live().id == oldest


def test_a_predecessor_is_spared_when_newer_ones_were_built_but_not_served(two, shelf, home, parts):
    app = two(keep_generations=2)
    first = app.items.state.standby.generation.id
    for version in ("3", "4"):
        shelf.publish(version)
        job = app.reindexing.start(f"fake/{version}", False, None)
        assert finished(app, job.id).phase is JobPhase.DONE
    kept = [(one.model_version, one.live, one.predecessor) for one in app.reindexing.generations()]
    assert kept == [("4", False, False), ("3", False, False), ("2", True, False), ("1", False, True)]
    assert app.reindexing.activate(first).live


def test_a_predecessor_that_is_removed_is_forgotten(two, parts):
    app = two()
    old = parts.catalog.generations.predecessor()
    parts.catalog.generations.remove(old.id)
    assert parts.catalog.generations.predecessor() is None
    keeper_of(app).tick()
    assert app.items.state.standby is None


def test_nothing_stands_by_where_nothing_is_served(make_app, shelf):
    shelf.path.unlink()
    app = make_app(follower_poll_s=100)
    keeper_of(app).tick()
    state = ServingState()
    state.apply(1, 1, lambda digest: {"a": {}})
    state.advance_standby(5)
    assert (state.applied, state.standby_applied, state.standby, app.items.state.standby) == (
        0,
        0,
        None,
        None,
    )


def test_a_swap_whose_catalog_falls_silent_is_done_and_the_predecessor_comes_later(two, monkeypatch):
    app = two()
    old: Generation = app.items.state.standby.generation
    monkeypatch.setattr(type(app.follower._generations), "predecessor", raiser(Unavailable("busy")))
    assert app.reindexing.activate(old.id).live
    assert (app.items.state.current.generation.id, app.items.state.standby) == (old.id, None)
    monkeypatch.undo()
    keeper_of(app).tick()
    assert app.items.state.standby.model_label == "fake/2"
