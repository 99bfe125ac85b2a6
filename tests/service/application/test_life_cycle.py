"""Start, follow, swap, crash, drain: what is served is what the catalog says, under load too."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from fake_homes import settings_for
from fake_models import FakeEncoder, picture, put_text

from service.application.building import choose_model
from service.application.errors import Conflict, InvalidInput, NotFound, Unavailable
from service.application.serving import ServingState
from service.application.ticker import Ticker
from service.application.types import ItemDraft, Query
from service.wiring import build_builder, build_importer, ensure_generation, open_parts, rebuild


def ids(app, text="same", to="text", k=1000):
    return [hit.id for hit in app.retrieval.search(Query(to=to, text=text, k=k)).hits]


def wait_until(condition, seconds=30.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)


def test_an_empty_corpus_is_ready(app):
    state = app.health.ready()
    assert (state.ok, state.reasons, state.model_version, state.item_count) == (True, (), "fake/1", 0)
    assert ids(app) == []


def test_without_a_model_it_starts_but_is_not_ready(make_app, shelf):
    shelf.path.unlink()
    app = make_app()
    state = app.health.ready()
    assert not state.ok
    assert "build an index first" in state.reasons[0]
    with pytest.raises(Unavailable):
        ids(app)


def test_a_model_that_comes_later_is_picked_up(make_app, shelf, parts):
    shelf.path.unlink()
    app = make_app()
    shelf.publish("1")
    assert ensure_generation(parts) is not None
    wait_until(lambda: app.health.ready().ok)
    assert app.items.put(ItemDraft("a", text="same"))[1]


def test_ensure_generation_makes_one_and_then_leaves_it(parts, shelf):
    first = ensure_generation(parts)
    assert first.live
    assert ensure_generation(parts) == first
    with pytest.raises(NotFound):
        ensure_generation(open_parts(settings_for(parts.settings.home / "other"), shelf), "no/1")


def test_a_restart_serves_the_same(make_app):
    first = make_app()
    first.items.put_batch([ItemDraft(f"i{n}", picture("red"), "same") for n in range(20)])
    first.items.delete("i3")
    before = first.retrieval.search(Query(to="image", text="red", k=7))
    first.close()
    second = make_app()
    after = second.retrieval.search(Query(to="image", text="red", k=7))
    assert (after.hits, after.next_cursor) == (before.hits, before.next_cursor)


def test_a_write_that_died_before_the_index_is_replayed_at_start(make_app):
    app = make_app(follower_poll_s=100)
    app.items.put(ItemDraft("a", text="same"))
    app.items.put(ItemDraft("b", text="same"))
    serving = app.items.state.current
    serving.apply({"a": {}, "b": {}})  # as if the process had died between commit and index
    assert ids(app) == []
    app.close()
    assert ids(make_app()) == ["a", "b"]


def test_an_index_that_failed_is_repaired_by_the_follower(make_app, monkeypatch):
    app = make_app(follower_poll_s=0.05)
    index = app.items.state.current.indexes["text"]
    original = index.add
    monkeypatch.setattr(index, "add", lambda ids, codes: (_ for _ in ()).throw(MemoryError()))
    with pytest.raises(MemoryError):
        app.items.put(ItemDraft("a", text="same"))
    monkeypatch.setattr(index, "add", original)
    wait_until(lambda: ids(app) == ["a"])


def test_what_another_process_writes_is_found_soon(make_app, parts, tmp_path):
    app = make_app()
    app.items.put(ItemDraft("mine", text="same"))
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "pairs.jsonl").write_text('{"id": "theirs", "image": null, "texts": ["same"]}\n')
    build_importer(parts, FakeEncoder("1")).run(folder)
    wait_until(lambda: ids(app) == ["mine", "theirs"])
    app.items.put(ItemDraft("later", text="same"))
    parts.catalog.items.delete("theirs")
    wait_until(lambda: ids(app) == ["later", "mine"])


def test_a_generation_of_another_model_is_refused(make_app, shelf, parts):
    generation = ensure_generation(parts)
    with parts.catalog.database.write() as connection:
        connection.exec_driver_sql(f"UPDATE generations SET model_digest = '{'0' * 64}'")
    app = make_app()
    state = app.health.ready()
    assert not state.ok
    assert f"generation {generation.id} was built with fake/1" in state.reasons[0]
    with pytest.raises(Unavailable, match="reindex"):
        ids(app)


@pytest.mark.parametrize("trouble", ["folder", "model"])
def test_a_generation_that_cannot_be_loaded_leaves_the_old_one_served(make_app, shelf, parts, home, trouble):
    app = make_app()
    app.items.put(ItemDraft("a", text="same"))
    shelf.publish("2")
    generation = build_builder(parts).empty(choose_model(shelf, "fake/2", None))
    if trouble == "folder":
        (home / "generations" / generation.id / "META.json").write_text("{}")
    else:
        shelf.publish("2", damaged=True)
    parts.catalog.generations.set_live(generation.id)
    wait_until(lambda: app.health.ready().reasons)
    state = app.health.ready()
    assert state.ok
    assert generation.id in state.reasons[0]
    assert state.model_version == "fake/1"
    assert ids(app) == ["a"]


def test_a_replica_follows_the_alias(make_app, shelf, home):
    first, second = make_app(), make_app()
    first.items.put_batch([ItemDraft(f"i{n}", text="same") for n in range(5)])
    wait_until(lambda: len(ids(second)) == 5)
    shelf.publish("2")
    worker = open_parts(settings_for(home), shelf)
    rebuild(worker, "latest")
    worker.close()
    for app in (first, second):
        wait_until(lambda app=app: app.health.ready().model_version == "fake/2")
        assert len(ids(app)) == 5
    first.items.put(ItemDraft("new", text="same"))
    wait_until(lambda: "new" in ids(second))


def test_a_request_finishes_on_the_pair_that_it_started_with(make_app, shelf, home):
    app = make_app()
    app.items.put(ItemDraft("a", text="same"))
    old = app.items.state.hold()
    shelf.publish("2")
    worker = open_parts(settings_for(home), shelf)
    rebuild(worker, "latest")
    worker.close()
    wait_until(lambda: app.health.ready().model_version == "fake/2")
    encoded = app.retrieval._encode(old.serving, Query(to="text", text="same"))
    answer = app.retrieval._answer(old, Query(to="text", text="same"), encoded, time.perf_counter())
    assert (answer.model_version, [hit.id for hit in answer.hits]) == ("fake/1", ["a"])


def test_a_cursor_survives_a_rebuild_of_the_same_model_and_a_restart(make_app, home, shelf):
    app = make_app()
    app.items.put_batch([ItemDraft(f"i{n:02}", text="same") for n in range(10)])
    first = app.retrieval.search(Query(to="text", text="same", k=4))
    worker = open_parts(settings_for(home), shelf)
    rebuild(worker, "fake/1")
    worker.close()
    wait_until(lambda: app.health.ready().generation_id != first.index_generation)
    app.close()
    again = make_app()
    second = again.retrieval.search(Query(to="text", text="same", k=4, cursor=first.next_cursor))
    assert [hit.id for hit in second.hits] == ["i04", "i05", "i06", "i07"]


def test_puts_and_searches_go_on_while_the_model_is_swapped(make_app, shelf, home):
    """Writers, readers and deleters run through two swaps; afterwards index and catalog agree exactly."""
    app = make_app(model_queue_size=1000)
    stop, trouble, versions = threading.Event(), [], set()

    def write(worker):
        n = 0
        while not stop.is_set():
            item_id = f"w{worker}-{n % 12}"
            app.items.put(ItemDraft(item_id, text=f"word{n} same"))
            if item_id not in [hit.id for hit in search(f"word{n} same").hits if hit.distance == 0]:
                trouble.append(f"{item_id} was not found when put returned")
            if n % 5 == 4:
                app.items.delete(item_id)
                if item_id in [hit.id for hit in search(f"word{n} same").hits]:
                    trouble.append(f"{item_id} was found after delete returned")
            n += 1

    def search(text):
        answer = app.retrieval.search(Query(to="text", text=text, k=100))
        versions.add(answer.model_version)
        return answer

    def guarded(work, *arguments):
        try:
            work(*arguments)
        except Exception as error:
            trouble.append(repr(error))
            raise

    with ThreadPoolExecutor(4) as pool:
        calls = [pool.submit(guarded, write, worker) for worker in range(3)]
        try:
            worker = open_parts(settings_for(home), shelf)
            for version in ("2", "3"):
                time.sleep(0.3)
                shelf.publish(version)
                rebuild(worker, f"fake/{version}")
                wait_until(lambda v=version: app.health.ready().model_version == f"fake/{v}")
            time.sleep(0.3)
            worker.close()
        finally:
            stop.set()
        for call in calls:
            call.result()
    assert trouble == []
    assert {"fake/1", "fake/2", "fake/3"} <= versions
    serving = app.items.state.current
    kept, codes = app.retrieval.codes.all(serving.encoder.digest, "text", 64)
    names, indexed = serving.indexes["text"].index.codes()
    assert (list(names), indexed.tobytes()) == (kept, codes.tobytes())
    assert kept == [item.id for item in app.items.page(None, 1000).items]


def test_concurrent_puts_and_deletes_of_the_same_bytes_never_lose_a_blob(app):
    """The classic race: one thread removes the last user of a blob while another puts the same bytes."""
    data = picture("blue")
    trouble = []

    def churn(worker):
        for _ in range(15):
            app.items.put(ItemDraft(worker, data))
            if app.items.image(worker)[0] != data:
                trouble.append(worker)
            app.items.delete(worker)

    with ThreadPoolExecutor(4) as pool:
        for call in [pool.submit(churn, f"w{n}") for n in range(4)]:
            call.result()
    assert trouble == []
    assert app.items.collect_blobs() == 0
    assert not [
        path
        for path in app.items.thumbnails.folder.parent.parent.joinpath("blobs").rglob("*")
        if path.is_file()
    ]


def test_draining_refuses_model_work_and_is_not_ready(app):
    app.items.put(ItemDraft("a", text="same"))
    app.drain()
    assert app.health.ready().reasons[0] == "the service is shutting down"
    with pytest.raises(Unavailable):
        app.items.put(ItemDraft("b", text="same"))
    assert app.items.get("a").text == "same"
    app.close()
    app.close()


def test_a_canary_that_fails_makes_it_not_ready(make_app, monkeypatch):
    app = make_app(canary_max_age_s=1, canary_interval_s=0.05)
    assert app.health.ready().ok
    encoder = app.items.state.current.encoder._encoder
    monkeypatch.setattr(encoder, "encode_texts", lambda texts: 1 / 0)
    wait_until(lambda: not app.health.ready().ok)
    assert "no canary query was answered in the last 1 s (InvalidInput" in app.health.ready().reasons[0]
    monkeypatch.undo()
    wait_until(lambda: app.health.ready().ok)


def test_a_catalog_that_is_gone_is_a_reason_not_a_crash(make_app, monkeypatch):
    app = make_app()

    def fail():
        raise Unavailable("the catalog is busy")

    monkeypatch.setattr(app.items.repository, "count", fail)
    state = app.health.ready()
    assert (state.ok, state.reasons, state.item_count) == (False, ("the catalog is busy",), 0)


def test_an_alias_that_vanishes_leaves_what_is_served(make_app, parts):
    app = make_app(follower_poll_s=100)
    app.items.put(ItemDraft("a", text="same"))
    with parts.catalog.database.write() as connection:
        connection.exec_driver_sql("DELETE FROM aliases")
    app.follower.tick()
    assert ids(app) == ["a"]


def test_an_item_that_cannot_be_encoded_does_not_keep_the_others_out(make_app, parts):
    app = make_app(follower_poll_s=100)
    app.items.put(ItemDraft("broken", picture("red"), "same"))
    app.items.put(ItemDraft("good", text="same"))
    app.items.blobs.remove(app.items.get("broken").image_digest)
    parts.catalog.codes.trim([], 0)  # as if both had been written under another model
    app.close()
    again = make_app(follower_poll_s=100)
    assert ids(again) == ["good"]
    assert again.health.ready().ok


def test_a_text_only_model_serves_texts(make_app, shelf):
    shelf.publish("1", modalities=["text"])
    app = make_app()
    assert app.health.ready().ok
    app.items.put(ItemDraft("a", picture("red"), "same"))
    assert ids(app) == ["a"]
    with pytest.raises(InvalidInput, match="JPEG, PNG or WebP"):
        app.items.put(ItemDraft("b", b"not an image", "same"))


def test_deleting_works_without_a_model(make_app, shelf, parts):
    put_text(parts, "a")
    shelf.path.unlink()
    app = make_app()
    app.items.delete("a")
    with pytest.raises(NotFound):
        app.items.get("a")


def test_a_model_that_is_swapped_again_and_again_is_unavailable(make_app, monkeypatch):
    app = make_app()
    state, real = app.items.state, app.items.state.current
    others = [replace(real, encoder=FakeEncoder(str(n))) for n in range(20)]
    monkeypatch.setattr(state, "require", lambda: others.pop())
    with pytest.raises(Unavailable, match="changed again and again"):
        app.items.put(ItemDraft("a", text="same"))


def test_a_ticker_outlives_a_failing_tick():
    calls = []

    def action():
        calls.append(1)
        raise RuntimeError("a bad tick")

    ticker = Ticker("test", 0.001, action)
    ticker.stop()
    ticker = Ticker("test", 0.001, action)
    ticker.start()
    wait_until(lambda: len(calls) > 2)
    ticker.stop()
    ticker.stop()
    seen = len(calls)
    time.sleep(0.02)
    assert len(calls) == seen


def test_a_live_generation_cannot_be_removed(app, parts):
    with pytest.raises(Conflict, match="is live"):
        parts.catalog.generations.remove(app.health.ready().generation_id)


def test_a_gap_in_the_numbers_stays_to_be_replayed(quiet_app):
    state = ServingState()
    state.swap(quiet_app[0].items.state.current, 5)
    state.note(7, 8)  # another process wrote 6
    assert state.applied == 5
    state.note(6, 6)
    assert state.applied == 6
    state.advance(4)
    assert state.applied == 6
