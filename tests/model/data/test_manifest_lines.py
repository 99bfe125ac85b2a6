"""One line of pairs.jsonl: what is taken, what is refused and by which words, what never crashes."""

import json
import math

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from model.data.lines import (
    MAX_LABEL_CHARS,
    MAX_TEXT_CHARS,
    SPLITS,
    Fields,
    check_fields,
    load_object,
    path_fault,
    valid_id,
    write_line,
)

GOOD = {"id": "a", "image": "images/a.jpg", "texts": ["t"], "labels": ["l"], "split": "train"}

ids = st.from_regex(r"[A-Za-z0-9._:\-]{1,200}", fullmatch=True)
texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1).filter(
    str.strip
)
scalars = (
    st.booleans() | st.integers(-(2**63) + 1, 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False)
)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)
fields = st.builds(
    Fields,
    id=ids,
    image=st.just("images/x.jpg") | st.none(),
    texts=st.lists(texts, min_size=1, max_size=3).map(tuple),
    labels=st.lists(texts.filter(lambda text: len(text) <= MAX_LABEL_CHARS), unique=True, max_size=3).map(
        tuple
    ),
    split=st.sampled_from(SPLITS) | st.none(),
    metadata=st.dictionaries(texts, scalars | texts | st.lists(texts, max_size=2), max_size=3),
)


def faults(value: dict[str, object]) -> list[str]:
    found, sentences = check_fields(value)
    assert (found is None) == bool(sentences)
    return sentences


@given(fields)
def test_what_is_written_is_read_back(item: Fields) -> None:
    line = write_line(item)
    assert line.endswith("\n")
    assert line.count("\n") == 1
    assert check_fields(load_object(line.encode())) == (item, [])


@given(
    st.dictionaries(
        st.sampled_from(["id", "image", "texts", "labels", "split", "metadata"]) | st.text(), json_values
    )
)
@example({"id": float("nan"), "image": math.inf, "metadata": {"x": [[]]}})
@example({"id": "a", "texts": [None], "labels": {"a": 1}, "split": ["train"]})
def test_no_json_object_crashes_the_check(value: dict[str, object]) -> None:
    found, sentences = check_fields(value)
    assert (found is None) == bool(sentences)
    assert all(len(sentence) < 400 for sentence in sentences)


@given(st.binary(max_size=200))
@example(b"[" * 100_000)
@example(b'{"a":' * 50_000)
@example(b'{"id": NaN}')
@example(b'{"id": ' + b"9" * 5000 + b"}")
@example(b"\xff\xfe{}")
def test_no_bytes_crash_the_reader(raw: bytes) -> None:
    try:
        found = load_object(raw)
    except ValueError:
        return
    assert isinstance(found, dict)


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b"nonsense", "not JSON"),
        (b"", "not JSON"),
        (b'{"id": "a"', "not JSON"),
        (b'{"id": NaN}', "NaN is no JSON number"),
        (b'{"id": -Infinity}', "-Infinity is no JSON number"),
        (b'["id"]', "wanted a JSON object, got a list"),
        (b"null", "wanted a JSON object, got null"),
        (b"true", "wanted a JSON object, got a boolean"),
        (b"1.5", "wanted a JSON object, got a number"),
        (b'"id"', "wanted a JSON object, got a string"),
        (b'{"id": "\xff"}', "not UTF-8 (byte 8)"),
        (b'{"id": "a", "id": "b"}', "key 'id' is given twice"),
        (b'{"x": ' * 100_000, "nested too deeply"),
    ],
)
def test_bytes_that_are_no_object_are_named(raw: bytes, words: str) -> None:
    with pytest.raises(ValueError) as caught:
        load_object(raw)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"id": 7}, "id: wanted a string, got a number"),
        ({"id": ""}, "id: wanted 1 to 200 characters"),
        ({"id": "a/b"}, "id: wanted 1 to 200 characters"),
        ({"id": "a\n"}, "id: wanted 1 to 200 characters"),
        ({"id": "ä"}, "id: wanted 1 to 200 characters"),
        ({"id": "x" * 201}, "id: wanted 1 to 200 characters"),
        ({"image": 3}, "image: wanted a path or null, got a number"),
        ({"image": ""}, "image: a path has 1 to 1000 characters, got 0"),
        ({"image": "x" * 1001}, "image: a path has 1 to 1000 characters"),
        ({"image": "/etc/x.jpg"}, "image: an absolute path leaves the folder"),
        ({"image": "C:/x.jpg"}, "image: an absolute path leaves the folder"),
        ({"image": "images/../../x.jpg"}, "image: a path with '..' may leave the folder"),
        ({"image": "images\\x.jpg"}, "no backslash"),
        ({"image": "images/\0.jpg"}, "no NUL"),
        ({"image": "images/\ud800.jpg"}, "only characters that UTF-8 knows"),
        ({"texts": "t"}, "texts: wanted a list of strings, got a string"),
        ({"texts": None}, "texts: wanted a list of strings, got null"),
        ({"texts": ["a", 1]}, "texts[1]: wanted a string, got a number"),
        ({"texts": [" \n"]}, "texts[0]: wanted a text, got nothing but blanks"),
        ({"texts": ["x" * (MAX_TEXT_CHARS + 1)]}, "texts[0]: wanted at most 100000 characters"),
        ({"texts": ["a\0"]}, "texts[0]: holds a NUL"),
        ({"texts": ["\ud800"]}, "texts[0]: holds a NUL or half of a surrogate pair"),
        ({"labels": {"dog": 1}}, "labels: wanted a list of strings, got an object"),
        ({"labels": [True]}, "labels[0]: wanted a string, got a boolean"),
        ({"labels": ["x" * 201]}, "labels[0]: wanted at most 200 characters"),
        ({"split": "test"}, "split: wanted one of train, query, database, got 'test'"),
        ({"split": ["train"]}, "split: wanted one of"),
        ({"metadata": []}, "metadata: wanted a flat object, got a list"),
        (
            {"metadata": {"a": None}},
            "metadata['a']: wanted a string, number, boolean or list of strings, got null",
        ),
        ({"metadata": {"a": {"b": 1}}}, "metadata['a']: wanted a string"),
        ({"metadata": {"a": [1]}}, "metadata['a']: wanted a string"),
        ({"metadata": {"a": ["\ud800"]}}, "metadata['a']: not a UTF-8 text"),
        ({"metadata": {"a": "\0"}}, "metadata['a']: not a UTF-8 text"),
        ({"metadata": {"a": 1e999}}, "metadata['a']: a number beyond a double's range"),
        ({"metadata": {"a": 2**63}}, "metadata['a']: a whole number beyond 64 bits"),
        ({"metadata": {"\ud800": 1}}, "a key with a NUL or half of a surrogate pair"),
        ({"caption": "t"}, "unknown field 'caption'"),
        ({"x" * 500: 1}, "..."),
        ({"image": None, "texts": []}, "neither image nor texts"),
    ],
)
def test_each_fault_is_named(change: dict[str, object], words: str) -> None:
    assert any(words in sentence for sentence in faults({**GOOD, **change})), faults({**GOOD, **change})


def test_all_faults_of_a_line_come_at_once() -> None:
    assert (
        len(faults({"id": 1, "image": 2, "texts": 3, "labels": 4, "split": 5, "metadata": 6, "more": 7})) == 7
    )


def test_a_line_without_an_id_says_so() -> None:
    assert faults({"texts": ["t"]}) == ["no id"]


def test_only_the_id_and_one_side_are_needed() -> None:
    assert check_fields({"id": "a", "texts": ["t"]}) == (Fields("a", texts=("t",)), [])
    assert check_fields({"id": "a", "image": "x.png"}) == (Fields("a", image="x.png"), [])


def test_a_label_given_twice_counts_once() -> None:
    found, _ = check_fields({**GOOD, "labels": ["b", "a", "b"]})
    assert found is not None
    assert found.labels == ("b", "a")


def test_a_written_line_leaves_out_what_is_not_there() -> None:
    assert json.loads(write_line(Fields("a", texts=("t",)))) == {
        "id": "a",
        "image": None,
        "texts": ["t"],
        "labels": [],
    }


@given(st.text(max_size=30))
def test_a_path_without_fault_stays_below(path: str) -> None:
    if path_fault(path) is None:
        assert not path.startswith("/")
        assert ".." not in path.split("/")


@given(ids)
def test_ids_of_the_contract_are_valid(item_id: str) -> None:
    assert valid_id(item_id)
