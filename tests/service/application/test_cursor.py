"""Cursors: what we write we read, and nothing else."""

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.application.cursor import (
    query_digest,
    read_page_cursor,
    read_search_cursor,
    write_page_cursor,
    write_search_cursor,
)
from service.application.errors import InvalidInput
from service.application.ports import Neighbour
from service.application.types import Condition, Filter

IDS = st.from_regex(r"[A-Za-z0-9._:-]{1,200}", fullmatch=True).filter(lambda text: text not in {".", ".."})


@given(IDS, st.integers(0, 256), st.text(), st.text())
def test_a_search_cursor_comes_back(item_id, distance, model, query):
    cursor = write_search_cursor(model, query, Neighbour(item_id, distance))
    assert read_search_cursor(cursor, model, query, 256) == Neighbour(item_id, distance)


@given(IDS)
def test_a_page_cursor_comes_back(item_id):
    assert read_page_cursor(write_page_cursor(item_id)) == item_id


@given(st.text())
def test_any_text_is_refused_or_one_of_ours(text):
    try:
        item_id = read_page_cursor(text)
    except InvalidInput:
        return
    assert write_page_cursor(item_id) == text


def forged(fields):
    text = json.dumps(fields, sort_keys=True, separators=(",", ":"))
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


@pytest.mark.parametrize(
    "changes",
    [
        {"d": -1}, {"d": 65}, {"d": 10**30}, {"d": True}, {"d": 1.0}, {"d": "1"}, {"i": "a/b"}, {"i": ""},
        {"i": "x" * 201}, {"i": 1}, {"extra": 1}, {"m": None},
    ],
)  # fmt: skip
def test_forged_cursors_are_refused(changes):
    good = write_search_cursor("model", "query", Neighbour("a", 3))
    fields = json.loads(base64.urlsafe_b64decode(good + "=="))
    assert forged(fields) == good
    with pytest.raises(InvalidInput) as caught:
        read_search_cursor(forged(fields | changes), "model", "query", 64)
    assert caught.value.code in {"bad_cursor", "bad_id"}


def test_only_the_text_that_we_would_write_is_taken():
    spaced = base64.urlsafe_b64encode(b'{"a": "x"}').decode().rstrip("=")
    with pytest.raises(InvalidInput):
        read_page_cursor(spaced)
    assert read_page_cursor(forged({"a": "x"})) == "x"


@pytest.mark.parametrize("cursor", ["", "A", "AA=", "bnVsbA", "W10", "e30", "-" * 1001, "[" * 900, "e30 "])
def test_rubbish_is_refused(cursor):
    with pytest.raises(InvalidInput):
        read_search_cursor(cursor, "model", "query", 64)


def test_a_cursor_of_another_model_is_stale():
    cursor = write_search_cursor("model", "query", Neighbour("a", 3))
    with pytest.raises(InvalidInput) as caught:
        read_search_cursor(cursor, "other", "query", 64)
    assert caught.value.code == "stale_cursor"


def test_queries_that_differ_anywhere_have_different_digests():
    some = Filter(must=(Condition("k", "eq", 1),))
    digests = {
        query_digest(code, direction, scope, where)
        for code in (b"a", b"b")
        for direction in (("image", "text"), ("text", "image"))
        for scope in ((None, None), (3, None), (None, "a"))
        for where in (Filter(), some, Filter(should=some.must), Filter(must=(Condition("k", "eq", True),)))
    }
    assert len(digests) == 2 * 2 * 3 * 4
