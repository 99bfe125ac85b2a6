"""Codes by the hundred thousand go into the catalog, and out of it again, on both databases."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import pytest
from sqlalchemy import event

from service.application.ports import ItemRecord
from service.application.types import Item
from service.catalog.bulk import SqlBulk

NOW = datetime(2026, 11, 24, 1, 2, 3, 456789, tzinfo=UTC)
DIGEST, OTHER = "a" * 64, "b" * 64
BITS = 64


@pytest.fixture
def bulk(catalog):
    return SqlBulk(catalog.database)


def codes_for(count, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, BITS // 8), dtype=np.uint8)


def put_item(catalog, item_id, codes, digest=DIGEST, text="a text", image=None):
    item = Item(item_id, image, "image/png" if image else None, text, {"n": 1}, NOW, NOW)
    catalog.items.put([ItemRecord(item, codes, digest)], lambda: None)


def stored(catalog, side, digest=DIGEST):
    ids, codes = catalog.codes.all(digest, side, BITS)
    return dict(zip(ids, codes.tolist(), strict=True))


def test_unknown_ids_become_bare_items(catalog, bulk):
    ids = [f"item.{number:03}:a_b-C" for number in range(300)]
    image, text = codes_for(300), codes_for(300, 1)
    assert bulk.put(ids, {"image": image, "text": text}, DIGEST, NOW) == (300, 1, 300)
    assert stored(catalog, "image") == dict(zip(ids, image.tolist(), strict=True))
    assert stored(catalog, "text") == dict(zip(ids, text.tolist(), strict=True))
    assert catalog.items.count() == 300
    assert catalog.items.get(ids[7:8])[ids[7]] == Item(ids[7], None, None, None, {}, NOW, NOW)
    assert catalog.codes.changes(0, 1000) == list(enumerate(ids, 1))
    assert catalog.codes.last_seq() == 300


def test_known_items_keep_what_they_have_but_for_these_codes(catalog, bulk):
    put_item(catalog, "b", {"image": bytes(8), "text": b"t" * 8}, image="e" * 64)
    put_item(catalog, "c", {"text": b"o" * 8}, OTHER)
    before = catalog.items.get(["b", "c"])
    image = codes_for(4)
    assert bulk.put(["a", "b", "c", "d"], {"image": image}, DIGEST, NOW) == (2, 3, 6)
    assert {key: catalog.items.get(["b", "c"])[key] for key in "bc"} == before
    assert stored(catalog, "image") == dict(zip("abcd", image.tolist(), strict=True))
    assert stored(catalog, "text") == {"b": [*b"t" * 8]}
    assert stored(catalog, "text", OTHER) == {"c": [*b"o" * 8]}
    assert [key for _, key in catalog.codes.changes(2, 10)] == ["a", "b", "c", "d"]
    assert catalog.items.count() == 4


def test_again_is_the_same(catalog, bulk):
    ids, image = ["x", "y"], codes_for(2)
    bulk.put(ids, {"image": codes_for(2, 9)}, DIGEST, NOW)
    assert bulk.put(ids, {"image": image}, DIGEST, NOW) == (0, 3, 4)
    assert stored(catalog, "image") == dict(zip(ids, image.tolist(), strict=True))
    assert catalog.items.count() == 2


def test_a_bare_item_can_be_written_and_deleted_like_any_other(catalog, bulk):
    bulk.put(["x", "y"], {"image": codes_for(2)}, DIGEST, NOW)
    put_item(catalog, "x", {"text": b"n" * 8})
    assert stored(catalog, "image").keys() == {"y"}
    assert catalog.items.delete("y") is not None
    assert stored(catalog, "image") == {}
    assert catalog.items.count() == 1


def test_bare_items_lack_no_code(catalog, bulk):
    bulk.put(["x"], {"image": codes_for(1)}, DIGEST, NOW)
    assert catalog.codes.count_lacking(OTHER, frozenset({"image", "text"})) == 0


def test_bare_items_and_bare_sides_are_stranded_under_another_model(catalog, bulk):
    """ "h" has a text, and a bare image code; "w" is whole; what has this model's code is not stranded."""
    put_item(catalog, "h", {"text": b"t" * 8})
    put_item(catalog, "w", {"image": b"i" * 8, "text": b"t" * 8}, image="e" * 64)
    bulk.put(["x", "h", "y"], {"image": codes_for(3)}, DIGEST, NOW)
    bulk.put(["y"], {"image": codes_for(1)}, OTHER, NOW)
    assert catalog.codes.stranded(OTHER, 5) == (2, ["h", "x"])
    assert catalog.codes.stranded(OTHER, 1) == (2, ["h"])
    assert catalog.codes.stranded(DIGEST, 5) == (0, [])
    put_item(catalog, "x", {})  # now it has a text that any model can encode
    assert catalog.codes.stranded(OTHER, 5) == (1, ["h"])


def test_trimming_spares_the_only_code_of_what_has_no_content(catalog, bulk):
    put_item(catalog, "h", {"text": b"t" * 8})
    bulk.put(["x", "h", "y"], {"image": codes_for(3)}, DIGEST, NOW)
    bulk.put(["y"], {"image": codes_for(1)}, OTHER, NOW)
    catalog.codes.trim([OTHER], 0)
    assert stored(catalog, "image").keys() == {"h", "x"}  # but "y" is found by its other code
    assert stored(catalog, "text") == {}  # it can be made again
    catalog.codes.trim([], 0)
    assert stored(catalog, "image").keys() == {"h", "x"}
    assert stored(catalog, "image", OTHER).keys() == {"y"}


def test_a_call_that_fails_leaves_nothing(catalog, bulk):
    def fail(_conn, _cursor, statement, *_):
        if "INTO changes" in statement:
            raise RuntimeError("the power went")

    event.listen(catalog.database.engine, "before_cursor_execute", fail)
    with pytest.raises(RuntimeError, match="power"):
        bulk.put(["x"], {"image": codes_for(1)}, DIGEST, NOW)
    event.remove(catalog.database.engine, "before_cursor_execute", fail)
    assert catalog.codes.last_seq() == catalog.items.count() == 0
    assert stored(catalog, "image") == {}


def test_what_is_coded_comes_with_its_content(catalog, bulk):
    put_item(catalog, "b", {"image": b"i" * 8, "text": b"t" * 8}, image="e" * 64)
    put_item(catalog, "z", {}, OTHER)
    bulk.put(["B", "a"], {"image": codes_for(2)}, DIGEST, NOW)
    found = {side: [one for page in bulk.coded(DIGEST, side) for one in page] for side in ("image", "text")}
    assert [(one.id, one.content) for one in found["image"]] == [("B", None), ("a", None), ("b", "e" * 64)]
    assert [tuple(one) for one in found["text"]] == [("b", b"t" * 8, "a text")]
    assert list(bulk.coded("f" * 64, "image")) == []


def test_pages_join(catalog, bulk, monkeypatch):
    monkeypatch.setattr("service.catalog.bulk._PAGE", 7)
    ids = [f"i{number:02}" for number in range(30)]
    bulk.put(ids, {"text": codes_for(30)}, DIGEST, NOW)
    pages = list(bulk.coded(DIGEST, "text"))
    assert len(pages) == 5
    assert [one.id for page in pages for one in page] == ids
