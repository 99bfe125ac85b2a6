"""Strict JSON: what a careful reader takes, and what only Python takes."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.api.errors import InvalidFields
from service.api.strict_json import MAX_DEPTH, loads
from service.application.errors import BadRequest

TEXTS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20)
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXTS
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=12,
)


@given(VALUES)
def test_everything_ordinary_is_read_as_pythons_reader_does(value: object) -> None:
    document = json.dumps(value)
    assert loads(document) == json.loads(document)
    assert loads(json.dumps(value, ensure_ascii=False).encode()) == json.loads(document)


@pytest.mark.parametrize(
    ("document", "words"),
    [
        (b"", "Expecting value"),
        (b"{", "Expecting property name"),
        (b"\xff\xfe{}", "not valid UTF-8"),
        (b"[NaN]", "NaN is no JSON number"),
        (b'{"k": Infinity}', "Infinity is no JSON number"),
        (b'{"k": -Infinity}', "-Infinity is no JSON number"),
        (b'{"k": 1, "k": 2}', "the same name twice"),
        (b"[" * 100_000, "nested too deeply"),
        (b"1" * 5000, "cannot be read"),
    ],
)
def test_what_is_no_json_is_a_bad_request(document: bytes, words: str) -> None:
    with pytest.raises(BadRequest, match=words) as caught:
        loads(document)
    assert caught.value.code == "invalid_json"


@pytest.mark.parametrize(
    ("document", "pointer", "code"),
    [
        ('{"text": "a\\u0000b"}', "#/text", "invalid_text"),
        ('{"text": "\\ud800"}', "#/text", "invalid_text"),
        ('{"a": ["x", {"b~/c": "\\udfff"}]}', "#/a/1/b~0~1c", "invalid_text"),
        ('{"\\u0000": 1}', "#", "invalid_text"),
        ('{"k": 9223372036854775808}', "#/k", "integer_range"),
        ('{"k": 1e999}', "#/k", "number_range"),
        ("[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1), "#" + "/0" * MAX_DEPTH, "too_deep"),
    ],
)
def test_what_json_allows_but_no_field_may_hold_is_named_with_its_place(
    document: str, pointer: str, code: str
) -> None:
    with pytest.raises(InvalidFields) as caught:
        loads(document)
    assert [(error.pointer, error.code) for error in caught.value.errors] == [(pointer, code)]


def test_the_deepest_nesting_allowed_is_read() -> None:
    assert loads("[" * MAX_DEPTH + "]" * MAX_DEPTH) is not None


def test_errors_of_a_form_field_name_the_field() -> None:
    with pytest.raises(BadRequest, match=r"form #/filter"):
        loads("{", "form", ("filter",))
    with pytest.raises(InvalidFields) as caught:
        loads('{"must": "\\ud800"}', "form", ("filter",))
    assert caught.value.errors[0].as_json()["pointer"] == "#/filter/must"
    assert caught.value.errors[0].place == "form"


def test_large_but_finite_numbers_are_kept() -> None:
    assert loads("1e308") == pytest.approx(1e308)
    assert not math.isinf(float(str(loads("-1e308"))))
