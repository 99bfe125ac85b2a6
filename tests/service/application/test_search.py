"""Retrieval: directions, paging, filters, refilling, batches, and what is refused."""

import numpy as np
import pytest
from fake_homes import settings_for
from fake_models import FakeEncoder, FakeShelf, picture

from service.application.encoding import Content, encode_contents
from service.application.errors import InvalidInput, NotFound, TooLarge, Unavailable, UnsupportedMedia
from service.application.types import Condition, Filter, ItemDraft, Query
from service.wiring import build_application

COLOURS = ("red", "green", "blue", "grey")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """An application with one item per colour and forty texts; the tests of this module only read."""
    home = tmp_path_factory.mktemp("corpus")
    shelf = FakeShelf(home / "models")
    shelf.publish("1")
    app = build_application(settings_for(home), shelf)
    app.start()
    app.items.put_batch(
        [
            ItemDraft(c, picture(c), f"a {c} square", {"colour": c, "rank": n, "tags": [c, "all"]})
            for n, c in enumerate(COLOURS)
        ]
        + [ItemDraft(f"t{n:02}", text=f"word{n % 20}", metadata={"n": n}) for n in range(40)]
    )
    yield app
    app.close()


def ids(answer):
    return [hit.id for hit in answer.hits]


def expected(app, side, code):
    """The oracle: all ids of a side by (distance, id), from the codes in the catalog."""
    encoder = app.follower._state.current.encoder
    names, codes = app.retrieval.codes.all(encoder.digest, side, 64)
    distances = np.unpackbits(codes ^ np.frombuffer(code, np.uint8), axis=1).sum(axis=1)
    return sorted(zip(distances.tolist(), names, strict=True))


def walk(app, **query):
    """All hits of a query, page by page."""
    hits, cursor = [], None
    while True:
        answer = app.retrieval.search(Query(**query, cursor=cursor))
        hits += [(hit.distance, hit.id) for hit in answer.hits]
        cursor = answer.next_cursor
        if cursor is None:
            return hits


@pytest.mark.parametrize("colour", COLOURS)
@pytest.mark.parametrize("to", ["image", "text"])
def test_each_direction_finds_the_colour(corpus, colour, to):
    assert ids(corpus.retrieval.search(Query(to=to, text=colour)))[0] == colour
    assert ids(corpus.retrieval.search(Query(to=to, image=picture(colour))))[0] == colour


def test_a_hit_and_an_answer_hold_what_the_contract_says(corpus):
    answer = corpus.retrieval.search(Query(to="image", image=picture("red"), k=1))
    hit = answer.hits[0]
    assert (hit.id, hit.distance, hit.similarity, hit.text) == ("red", 0, 1.0, "a red square")
    assert hit.image_url == "/v1/items/red/image"
    assert hit.metadata == {"colour": "red", "rank": 0, "tags": ["red", "all"]}
    assert hit.match is None
    assert (answer.exact, answer.model_version, answer.attack_score) == (True, "fake/1", None)
    assert answer.index_generation == corpus.health.ready().generation_id
    timing = answer.timing
    assert min(timing.decode_ms, timing.encode_ms, timing.search_ms) >= 0
    assert timing.total_ms >= timing.decode_ms + timing.encode_ms + timing.search_ms


def test_match_is_the_calibrated_probability_of_the_direction(corpus):
    for hit in corpus.retrieval.search(Query(to="image", text="red")).hits:
        assert hit.match == pytest.approx(1 - hit.distance / 64)
        assert hit.similarity == pytest.approx(1 - hit.distance / 64)


def test_an_item_without_an_image_has_no_image_url(corpus):
    assert corpus.retrieval.search(Query(to="text", text="word3", k=1)).hits[0].image_url is None


@pytest.mark.parametrize("k", [1, 3, 7, 1000])
def test_pages_of_any_size_are_the_total_order(corpus, k):
    code = bytes.fromhex(corpus.retrieval.encode_text("word5").code)
    assert walk(corpus, to="text", text="word5", k=k) == expected(corpus, "text", code)


def test_the_same_query_gives_the_same_page(corpus):
    first = corpus.retrieval.search(Query(to="text", text="word1", k=5))
    again = corpus.retrieval.search(Query(to="text", text="word1", k=5))
    assert (first.hits, first.next_cursor) == (again.hits, again.next_cursor)


def test_the_page_size_may_change_between_pages(corpus):
    first = corpus.retrieval.search(Query(to="text", text="word1", k=5))
    second = corpus.retrieval.search(Query(to="text", text="word1", k=9, cursor=first.next_cursor))
    together = corpus.retrieval.search(Query(to="text", text="word1", k=14))
    assert ids(first) + ids(second) == ids(together)


@pytest.mark.parametrize("max_distance", [0, 1, 20, 64])
def test_max_distance_bounds_the_hits(corpus, max_distance):
    code = bytes.fromhex(corpus.retrieval.encode_text("red").code)
    wanted = [pair for pair in expected(corpus, "text", code) if pair[0] <= max_distance]
    assert walk(corpus, to="text", text="red", max_distance=max_distance, k=4) == wanted


def test_a_filter_restricts_every_page(corpus):
    condition = Filter(must=(Condition("n", "gte", 10),), must_not=(Condition("n", "in", [12, 39]),))
    found = walk(corpus, to="text", text="word5", k=4, filter=condition)
    assert sorted(item_id for _, item_id in found) == [f"t{n}" for n in range(10, 39) if n != 12]
    assert found == sorted(found)


def test_a_filter_that_nothing_satisfies_gives_an_empty_exact_page(corpus):
    answer = corpus.retrieval.search(
        Query(to="text", text="x", filter=Filter(must=(Condition("n", "eq", "1"),)))
    )
    assert (answer.hits, answer.next_cursor, answer.exact) == ((), None, True)


@pytest.mark.parametrize(
    ("side", "to"), [("image", "image"), ("text", "text"), ("image", "text"), ("text", "image")]
)
def test_more_like_this_leaves_the_item_out(corpus, side, to):
    found = walk(corpus, to=to, item=("red", side), k=2)
    everything = {"red", "green", "blue", "grey"} | (
        {f"t{n:02}" for n in range(40)} if to == "text" else set()
    )
    assert {item_id for _, item_id in found} == everything - {"red"}
    assert found == sorted(found)


def test_more_like_this_needs_the_item_and_the_side(corpus):
    with pytest.raises(NotFound, match="no item 'nobody'"):
        corpus.retrieval.search(Query(to="image", item=("nobody", "image")))
    with pytest.raises(NotFound, match="has no image"):
        corpus.retrieval.search(Query(to="image", item=("t01", "image")))


@pytest.mark.parametrize(
    "query",
    [
        Query(to="image"),
        Query(to="image", text="x", image=b"y"),
        Query(to="sound", text="x"),
        Query(to="image", item=("a", "sound")),
        Query(to="image", item=("a/b", "image")),
        Query(to="image", text="x", k=0),
        Query(to="image", text="x", k=-1),
        Query(to="image", text="x", k=1001),
        Query(to="image", text="x", k=10**9),
        Query(to="image", text="x", k=True),
        Query(to="image", text="x", k=1.5),
        Query(to="image", text="x", max_distance=-1),
        Query(to="image", text="x", max_distance=65),
        Query(to="image", text="x", max_distance=True),
        Query(to="image", text=""),
        Query(to="image", text="  "),
        Query(to="image", text="x" * 10_001),
        Query(to="image", text="nul\0"),
        Query(to="image", text="crash"),
        Query(to="image", image=b""),
        Query(to="image", image=7),
        Query(to="image", image=picture("red", 64, "JPEG")[:200]),
        Query(to="image", text="x", cursor=""),
        Query(to="image", text="x", cursor="not a cursor"),
        Query(to="image", text="x", cursor="é"),
        Query(to="image", text="x", cursor="e30"),
        Query(to="image", text="x", cursor="A" * 2000),
        Query(to="image", text="x", filter=Filter(must=(Condition("", "eq", 1),))),
        Query(to="image", text="x", filter=Filter(must=(Condition("k\0", "eq", 1),))),
        Query(to="image", text="x", filter=Filter(must=(Condition("k", "like", 1),))),
        Query(to="image", text="x", filter=Filter(must=(Condition("k", "eq", [1]),))),
        Query(to="image", text="x", filter=Filter(must=(Condition("k", "eq", None),))),
        Query(to="image", text="x", filter=Filter(must=(Condition("k", "in", "ab"),))),
        Query(to="image", text="x", filter=Filter(must=(Condition("k", "in", 1),))),
        Query(to="image", text="x", filter=Filter(must=(Condition("k", "in", [None]),))),
        Query(to="image", text="x", filter=Filter(must=(Condition("k", "in", [1] * 257),))),
        Query(to="image", text="x", filter=Filter(must=(Condition("k", "gt", True),))),
        Query(to="image", text="x", filter=Filter(must=(Condition("k", "gt", float("nan")),))),
        Query(to="image", text="x", filter=Filter(should=(Condition("k", "eq", 1),) * 33)),
    ],
)
def test_what_does_not_fit_is_refused(corpus, query):
    with pytest.raises(InvalidInput):
        corpus.retrieval.search(query)
    answered = corpus.retrieval.search_batch([query, Query(to="image", text="red")])
    assert isinstance(answered[0], InvalidInput)
    assert ids(answered[1])[0] == "red"


def test_bytes_that_are_no_image_or_too_many_say_so(corpus):
    with pytest.raises(UnsupportedMedia):
        corpus.retrieval.search(Query(to="text", image=b"<svg/>"))
    with pytest.raises(TooLarge):
        corpus.retrieval.encode_image(b"x" * (20 * 1024 * 1024 + 1))


def test_a_cursor_of_another_query_is_refused(corpus):
    cursor = corpus.retrieval.search(Query(to="text", text="word1", k=5)).next_cursor
    others = [
        Query(to="image", text="word1", cursor=cursor),
        Query(to="text", text="word2", cursor=cursor),
        Query(to="text", text="word1", max_distance=60, cursor=cursor),
        Query(to="text", text="word1", filter=Filter(must=(Condition("n", "gt", 1),)), cursor=cursor),
    ]
    for other in others:
        with pytest.raises(InvalidInput) as caught:
            corpus.retrieval.search(other)
        assert caught.value.code == "foreign_cursor"


def test_a_batch_answers_what_single_queries_answer(corpus):
    queries = [
        Query(to="image", text="red"),
        Query(to="text", image=picture("blue"), k=3),
        Query(to="image", item=("green", "text"), k=2),
        Query(to="text", item=("nobody", "text")),
        Query(to="text", text="word3", filter=Filter(must=(Condition("n", "lt", 9),))),
        Query(to="text", image=b"no image"),
    ]
    answers = corpus.retrieval.search_batch(queries)
    for query, answer in zip(queries[:3] + queries[4:5], answers[:3] + answers[4:5], strict=True):
        single = corpus.retrieval.search(query)
        assert (answer.hits, answer.next_cursor) == (single.hits, single.next_cursor)
    assert isinstance(answers[3], NotFound)
    assert isinstance(answers[5], UnsupportedMedia)


def test_batches_are_bounded(corpus):
    for count in (0, 101):
        with pytest.raises(InvalidInput, match="1 to 100 queries"):
            corpus.retrieval.search_batch([Query(to="text", text="x")] * count)


def test_encoding_gives_the_code_of_the_model(corpus):
    encoder = FakeEncoder("1")
    answer = corpus.retrieval.encode_text("red")
    assert answer.code == encoder.encode_texts(["red"])[0].tobytes().hex()
    assert (answer.bits, answer.model_version) == (64, "fake/1")
    image = corpus.retrieval.encode_image(picture("red"))
    assert image.code == encoder.encode_images([encoder.decode(picture("red"))])[0].tobytes().hex()


def test_a_model_without_a_side_says_so(make_app, shelf):
    shelf.publish("1", modalities=["image"])
    app = make_app()
    app.items.put(ItemDraft("a", picture("red"), "red"))
    for call in (
        lambda: app.retrieval.search(Query(to="image", text="red")),
        lambda: app.retrieval.search(Query(to="image", item=("a", "text"))),
        lambda: app.retrieval.encode_text("red"),
    ):
        with pytest.raises(InvalidInput) as caught:
            call()
        assert caught.value.code == "unsupported_modality"
    answers = app.retrieval.search_batch(
        [Query(to="image", text="red"), Query(to="image", image=picture("red"))]
    )
    assert answers[0].code == "unsupported_modality"
    assert ids(answers[1]) == ["a"]


def test_ids_that_the_catalog_no_longer_has_do_not_shorten_a_page(make_app):
    app = make_app(follower_poll_s=100)
    app.items.put_batch([ItemDraft(f"i{n:02}", text="same") for n in range(30)])
    for n in [*range(10), *range(12, 20), 29]:
        app.items.repository.delete(f"i{n:02}")  # as another process would: the index still has them
    answer = app.retrieval.search(Query(to="text", text="same", k=5))
    assert ids(answer) == ["i10", "i11", "i20", "i21", "i22"]
    assert walk(app, to="text", text="same", k=5) == [(0, f"i{n}") for n in (10, 11, *range(20, 29))]


def test_a_page_goes_on_behind_a_hit_that_was_deleted(make_app):
    app = make_app()
    app.items.put_batch([ItemDraft(f"i{n:02}", text="same") for n in range(10)])
    first = app.retrieval.search(Query(to="text", text="same", k=4))
    app.items.delete("i03")
    second = app.retrieval.search(Query(to="text", text="same", k=4, cursor=first.next_cursor))
    assert ids(second) == ["i04", "i05", "i06", "i07"]


def test_more_like_this_encodes_what_has_no_code_yet(make_app):
    app = make_app(follower_poll_s=100)
    app.items.put(ItemDraft("a", picture("red"), "red"))
    app.items.put(ItemDraft("b", picture("red"), "red"))
    app.retrieval.codes.trim([], 0)  # as if both had been written under another model
    for side in ("image", "text"):
        assert ids(app.retrieval.search(Query(to="image", item=("a", side)))) == ["b"]
    digest = app.items.get("a").image_digest
    app.items.blobs.remove(digest)
    with pytest.raises(Exception, match="is missing"):
        app.retrieval.search(Query(to="image", item=("a", "image")))


def test_nothing_to_search_before_a_start(make_app):
    app = make_app(started=False)
    with pytest.raises(Unavailable, match="has not started"):
        app.retrieval.search(Query(to="text", text="x"))


def test_an_image_that_fails_does_not_cost_the_others():
    results = encode_contents(
        FakeEncoder("1"), [Content("a", lambda: b"broken", "red"), Content("b", None, "blue"), Content("c")]
    )
    assert isinstance(results[0], UnsupportedMedia)
    assert set(results[1]) == {"text"}
    assert results[2] == {}
