"""The corpus: put, replace, delete, list, images and thumbnails, over the real catalog and blobs."""

import io
from datetime import timedelta

import pytest
from fake_homes import settings_for
from fake_models import picture
from PIL import Image

from service.application.errors import (
    Damaged,
    InvalidInput,
    NotFound,
    TooLarge,
    Unavailable,
    UnsupportedMedia,
)
from service.application.types import ItemDraft, Query
from service.wiring import build_application


def found(app, **query):
    return [hit.id for hit in app.retrieval.search(Query(**query)).hits]


def blobs(home):
    return sorted(path.name for path in (home / "blobs").rglob("*") if path.is_file())


def test_an_item_is_searchable_when_put_returns(app):
    item, created = app.items.put(ItemDraft("a", picture("red"), "a red square", {"n": 1}))
    assert created
    assert (item.id, item.image_type, item.text, item.metadata) == (
        "a",
        "image/png",
        "a red square",
        {"n": 1},
    )
    assert item == app.items.get("a")
    assert found(app, to="image", text="red") == ["a"]
    assert found(app, to="text", image=picture("red")) == ["a"]


def test_replacing_keeps_created_and_forgets_the_old_content(app, home):
    first, _ = app.items.put(ItemDraft("a", picture("red"), "red", {"n": 1}))
    second, created = app.items.put(ItemDraft("a", picture("blue"), "blue", {"n": 2}))
    assert not created
    assert second.created == first.created
    assert second.updated > first.updated
    assert len(blobs(home)) == 1
    hit = app.retrieval.search(Query(to="image", image=picture("blue"))).hits[0]
    assert (hit.id, hit.distance, hit.metadata) == ("a", 0, {"n": 2})


def test_replacing_by_text_alone_takes_the_image_out_of_the_index(app, home):
    app.items.put(ItemDraft("a", picture("red"), "red"))
    app.items.put(ItemDraft("a", text="red"))
    assert found(app, to="image", text="red") == []
    assert found(app, to="text", text="red") == ["a"]
    assert blobs(home) == []
    with pytest.raises(NotFound, match="no image"):
        app.items.image("a")


def test_a_deleted_item_is_gone_everywhere(app, home):
    app.items.put(ItemDraft("a", picture("red"), "red"))
    app.items.thumbnail("a", 64)
    app.items.delete("a")
    assert found(app, to="image", text="red") == []
    assert blobs(home) == []
    assert not [path for path in (home / "cache").rglob("*") if path.is_file()]
    for call in (app.items.get, app.items.delete, app.items.image):
        with pytest.raises(NotFound):
            call("a")


def test_a_blob_stays_while_another_item_has_it(app, home):
    app.items.put(ItemDraft("a", picture("red")))
    app.items.put(ItemDraft("b", picture("red")))
    app.items.delete("a")
    assert len(blobs(home)) == 1
    assert app.items.image("b") == (picture("red"), "image/png")
    app.items.delete("b")
    assert blobs(home) == []


@pytest.mark.parametrize(
    "draft",
    [
        ItemDraft("a/b", text="x"),
        ItemDraft("..", text="x"),
        ItemDraft(".", text="x"),
        ItemDraft("", text="x"),
        ItemDraft("a\0", text="x"),
        ItemDraft("a\n", text="x"),
        ItemDraft("ä", text="x"),
        ItemDraft("x" * 201, text="x"),
        ItemDraft("a"),
        ItemDraft("a", text=""),
        ItemDraft("a", text=" \n\t"),
        ItemDraft("a", text="nul \0"),
        ItemDraft("a", text="surrogate \ud800"),
        ItemDraft("a", text="x" * 10_001),
        ItemDraft("a", text="x", metadata={"k": None}),
        ItemDraft("a", text="x", metadata={"k": {"deep": 1}}),
        ItemDraft("a", text="x", metadata={"k": [1]}),
        ItemDraft("a", text="x", metadata={"": 1}),
        ItemDraft("a", text="x", metadata={"k\0": 1}),
        ItemDraft("a", text="x", metadata={"k": "v\0"}),
        ItemDraft("a", text="x", metadata={"k" * 101: 1}),
        ItemDraft("a", text="x", metadata={"k": "v" * 1001}),
        ItemDraft("a", text="x", metadata={"k": ["v"] * 65}),
        ItemDraft("a", text="x", metadata={"k": float("nan")}),
        ItemDraft("a", text="x", metadata={"k": float("inf")}),
        ItemDraft("a", text="x", metadata={"k": 2**53 + 1}),
        ItemDraft("a", text="x", metadata={str(n): n for n in range(65)}),
        ItemDraft("a", text="x", metadata=[1]),
        ItemDraft("a", image="text"),
        ItemDraft("a", image=b""),
        ItemDraft("a", image=picture("red", 64, "JPEG")[:200]),
    ],
)
def test_bad_items_are_refused_and_leave_nothing(quiet_app, draft):
    app, home = quiet_app
    with pytest.raises(InvalidInput):
        app.items.put(draft)
    assert app.items.page(None, 10).items == ()
    assert blobs(home) == []


def test_what_is_too_large_or_no_image_says_so(make_app):
    app = make_app(max_image_bytes=2000)
    with pytest.raises(TooLarge, match="2000 bytes, got 2001"):
        app.items.put(ItemDraft("a", b"x" * 2001))
    with pytest.raises(UnsupportedMedia):
        app.items.put(ItemDraft("a", b"GIF89a...."))
    with pytest.raises(InvalidInput) as caught:
        app.items.put(ItemDraft("a", text="crash"))
    assert caught.value.code == "not_encodable"


def test_a_batch_has_a_status_for_each_item(app):
    outcomes = app.items.put_batch(
        [
            ItemDraft("a", picture("red"), "red"),
            ItemDraft("b", b"no image"),
            ItemDraft("c", text=" "),
            ItemDraft("d", text="crash"),
            ItemDraft("a", text="blue"),
            ItemDraft("e", b"x" * (20 * 1024 * 1024 + 1)),
            ItemDraft("f", text="green"),
        ]
    )
    assert [(one.id, one.status) for one in outcomes] == [
        ("a", 201), ("b", 415), ("c", 422), ("d", 422), ("a", 200), ("e", 413), ("f", 201),
    ]  # fmt: skip
    assert app.items.get("a").text == "blue"
    assert [item.id for item in app.items.page(None, 10).items] == ["a", "f"]
    assert found(app, to="text", text="blue")[0] == "a"


def test_a_long_batch_of_mixed_items_comes_in_whole(make_app):
    app = make_app(max_batch_items=500, model_queue_size=64)
    outcomes = app.items.put_batch([ItemDraft(f"i{n % 150}", text=f"word{n}") for n in range(200)])
    assert [one.status for one in outcomes] == [201] * 150 + [200] * 50
    assert app.health.ready().item_count == 150


def test_a_batch_of_nothing_but_bad_items_writes_nothing(app):
    outcomes = app.items.put_batch([ItemDraft("a/b", text="x"), ItemDraft("c", text="")])
    assert [one.status for one in outcomes] == [422, 422]
    assert app.health.ready().item_count == 0


@pytest.mark.parametrize("count", [0, 257])
def test_empty_and_endless_batches_are_refused(app, count):
    with pytest.raises(InvalidInput, match="1 to 256 items"):
        app.items.put_batch([ItemDraft("a", text="x")] * count)


def test_pages_go_through_all_items_in_the_order_of_their_ids(app):
    ids = sorted(["B", "a", "b", "_", "10", "9", "z:1", "z.1", "z-1"], key=str.encode)
    app.items.put_batch([ItemDraft(item_id, text="x") for item_id in reversed(ids)])
    seen, cursor = [], None
    while True:
        page = app.items.page(cursor, 2)
        seen += [item.id for item in page.items]
        if page.next_cursor is None:
            break
        cursor = page.next_cursor
    assert seen == ids


@pytest.mark.parametrize("limit", [0, -1, 1001])
def test_page_limits_are_checked(app, limit):
    with pytest.raises(InvalidInput, match="limit"):
        app.items.page(None, limit)


def test_thumbnails_are_small_cached_and_made_in_a_few_sizes(app, home):
    app.items.put(ItemDraft("a", picture("red", size=300, kind="JPEG")))
    data, kind = app.items.thumbnail("a", 100)
    assert max(Image.open(io.BytesIO(data)).size) == 96
    assert kind == "image/jpeg"
    cached = [path for path in (home / "cache").rglob("*") if path.is_file()]
    assert len(cached) == 1
    cached[0].write_bytes(b"from the cache")
    assert app.items.thumbnail("a", 127) == (b"from the cache", "image/jpeg")


@pytest.mark.parametrize("size", [0, 31, 1025, 10**9])
def test_thumbnail_sizes_are_bounded(app, size):
    app.items.put(ItemDraft("a", picture("red")))
    with pytest.raises(InvalidInput, match="size is 32 to 1024"):
        app.items.thumbnail("a", size)


def test_a_damaged_or_missing_blob_is_a_clear_error(app, home):
    app.items.put(ItemDraft("a", picture("red")))
    path = next(path for path in (home / "blobs").rglob("*") if path.is_file())
    path.write_bytes(b"other bytes")
    with pytest.raises(Damaged, match="is damaged"):
        app.items.image("a")
    path.unlink()
    with pytest.raises(Damaged, match="is missing"):
        app.items.image("a")
    app.items.put(ItemDraft("a", picture("red")))
    assert app.items.image("a")[0] == picture("red")


def test_webp_jpeg_and_png_keep_their_types(app):
    for kind, media in (("JPEG", "image/jpeg"), ("PNG", "image/png"), ("WEBP", "image/webp")):
        app.items.put(ItemDraft(kind, picture("red", kind=kind)))
        assert app.items.image(kind) == (picture("red", kind=kind), media)


def test_an_image_only_model_keeps_texts_for_the_next_model(make_app, shelf):
    shelf.publish("1", modalities=["image"])
    app = make_app()
    app.items.put(ItemDraft("a", picture("red"), "red"))
    app.items.put(ItemDraft("b", text="blue"))
    assert app.items.get("b").text == "blue"
    assert found(app, to="image", image=picture("red")) == ["a"]
    assert found(app, to="text", image=picture("red")) == []


def test_without_a_model_nothing_can_be_put(home, shelf):
    shelf.path.unlink()
    app = build_application(settings_for(home), shelf)
    app.start()
    try:
        with pytest.raises(Unavailable, match="no index generation"):
            app.items.put(ItemDraft("a", text="x"))
        assert app.items.page(None, 1).items == ()
    finally:
        app.close()


def test_new_ids_are_valid_and_different(app):
    first, second = app.items.new_id(), app.items.new_id()
    assert first != second
    assert app.items.put(ItemDraft(first, text="x"))[1]


def test_times_are_utc(app):
    item, _ = app.items.put(ItemDraft("a", text="x"))
    assert item.created.utcoffset() == timedelta(0)
    assert app.items.get("a").updated == item.updated
