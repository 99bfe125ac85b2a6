"""Searches while items are replaced: content and distance of a hit are of one version of the item."""

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace

import pytest
from fake_models import FakeEncoder

from service.application.errors import Unavailable
from service.application.serving import Serving
from service.application.types import Condition, Filter, ItemDraft, Query
from service.application.writing import encode_drafts
from service.catalog_wiring import utc_now

OLD, NEW = "red and green", "blue and grey"


@pytest.fixture
def app(make_app):
    """Three items, one of which is about to be replaced; nothing polls."""
    app = make_app(follower_poll_s=100, canary_interval_s=100)
    app.items.put_batch([ItemDraft("x", text=OLD, metadata={"n": 1})])
    app.items.put_batch([ItemDraft(name, text=f"word {name}") for name in ("y", "z")])
    return app


@contextmanager
def committed(app, draft):
    """A write of another thread between the commit and the index; it goes on when the block ends."""
    done, go = threading.Event(), threading.Event()
    state = app.items.state

    def write():
        batch = encode_drafts(state.current.encoder, [draft], utc_now())
        with state.write_lock:
            written = app.items.repository.put(batch.records, lambda: None)
            done.set()
            go.wait(30)
            state.apply(written.first_seq, written.last_seq, batch.codes_of)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        assert done.wait(30)
        yield go
    finally:
        go.set()
        writer.join()


def search(app, text=NEW, **query):
    return app.retrieval.search(Query(to="text", text=text, **query))


def shown(answer):
    return [(hit.id, hit.distance, hit.text) for hit in answer.hits]


def distance(one, other):
    codes = FakeEncoder("1").encode_texts([one, other])
    return int.from_bytes((codes[0] ^ codes[1]).tobytes()).bit_count()


@pytest.mark.parametrize("how", ["single", "batch"])
def test_a_replaced_item_is_never_shown_at_the_distance_of_its_old_content(app, how):
    assert shown(search(app, k=1000))[-1] == ("x", distance(OLD, NEW), OLD)
    asked = Query(to="text", text=NEW, k=1000)
    with ThreadPoolExecutor(1) as pool, committed(app, ItemDraft("x", text=NEW)) as go:
        if how == "single":
            found = pool.submit(lambda: [app.retrieval.search(asked)])
        else:
            found = pool.submit(app.retrieval.search_batch, [asked])
        with pytest.raises(TimeoutError):  # it waits for the writer
            found.result(0.2)
        go.set()
        assert [shown(answer)[0] for answer in found.result()] == [("x", 0, NEW)]


def test_a_filter_is_asked_of_the_version_that_is_shown(app):
    first = Query(to="text", text=NEW, filter=Filter(must=(Condition("n", "eq", 1),)))
    index = app.items.state.current.indexes["text"]
    replaced = threading.Event()

    def look(code, reach):
        if not replaced.is_set():
            replaced.set()
            app.items.put(ItemDraft("x", text=NEW, metadata={"n": 2}))
        return type(index).search(index, code, reach)

    index.search = look
    assert shown(app.retrieval.search(first)) == []
    assert replaced.is_set()


def test_a_search_that_meets_no_new_item_waits_for_no_writer(app):
    with committed(app, ItemDraft("x", text=NEW)):
        assert shown(search(app, "word y", k=1)) == [("y", 0, "word y")]


def test_a_writer_that_takes_too_long_is_not_waited_for(app, monkeypatch):
    """As while a large import of another process is brought into the index."""
    monkeypatch.setattr("service.application.search._WAIT_S", 0.05)
    with committed(app, ItemDraft("x", text=NEW)):
        assert sorted(hit.id for hit in search(app).hits) == ["x", "y", "z"]


class LeftBehind:
    """An index that is let go for another pair, and an item replaced, while it is searched."""

    def __init__(self, app, index, following):
        self.app, self.index, self.following = app, index, following
        self.exact, self.shared = True, False
        self.add, self.remove = index.add, index.remove

    def search(self, code, reach):
        found = self.index.search(code, reach)
        state = self.app.items.state
        if self.following:
            state.swap(self.following.pop(0), state.applied)
            self.app.items.put(ItemDraft("x", text=NEW))
        return found


def pair(app, name, index):
    """The served pair with another index, under another generation's id."""
    current = app.items.state.current
    indexes = {"text": index, "image": current.indexes["image"]}
    return Serving(current.encoder, indexes, replace(current.generation, id=name))


def test_a_search_on_a_pair_that_was_let_go_is_asked_of_the_next_one(app):
    state, index = app.items.state, app.items.state.current.indexes["text"]
    copy = app.follower._loader.store.new_index(64)
    copy.add(*index.index.codes())
    following = [pair(app, "next", index)]
    state.swap(pair(app, "old", LeftBehind(app, copy, following)), state.applied)
    answer = search(app)
    assert (answer.index_generation, shown(answer)[0]) == ("next", ("x", 0, NEW))


def test_a_search_that_is_left_behind_again_and_again_gives_up(app):
    state, index = app.items.state, app.items.state.current.indexes["text"]

    class Endless(LeftBehind):
        def search(self, code, reach):
            self.following.append(pair(app, "again", self))
            return super().search(code, reach)

    state.swap(pair(app, "old", Endless(app, index, [])), state.applied)
    with pytest.raises(Unavailable, match="again and again"):
        search(app)
