"""The array reader against the standard library's, with buffers that end anywhere."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from model.data.importers import json_stream
from model.data.importers.json_stream import stream_arrays
from model.errors import DataError

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)


def read(path: Path, *keys: str) -> list[tuple[str, Any]]:
    return list(stream_arrays(path, *keys))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], max_examples=150)
@given(
    document=st.dictionaries(st.sampled_from(["a", "b", "info", ""]), values),
    chunk=st.integers(1, 9),
    indent=st.sampled_from([None, 2]),
    ascii_only=st.booleans(),
)
def test_it_reads_what_the_standard_library_reads(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    document: dict[str, Any],
    chunk: int,
    indent: int | None,
    ascii_only: bool,
) -> None:
    monkeypatch.setattr(json_stream, "_CHUNK", chunk)
    path = tmp_path / "x.json"
    text = json.dumps(document, indent=indent, ensure_ascii=ascii_only)
    try:
        path.write_text(text, encoding="utf-8")
    except UnicodeEncodeError:
        path.write_text(json.dumps(document))
    wanted = [
        (key, element)
        for key, elements in document.items()
        if key in ("a", "info") and isinstance(elements, list)
        for element in elements
    ]
    assert read(path, "a", "info") == wanted


def test_a_number_cut_by_the_buffer_stays_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_stream, "_CHUNK", 1)
    (tmp_path / "x.json").write_text('{"a": [123456, -7.5e10, 12]}')
    assert read(tmp_path / "x.json", "a") == [("a", 123456), ("a", -7.5e10), ("a", 12)]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "[1, 2]",
        "{",
        '{"a"',
        '{"a": [1, 2',
        '{"a": [1 2]}',
        '{"a": [1,]}',
        '{"a": [1], }',
        '{"a" [1]}',
        '{"a": nonsense}',
        '{"a": [1}',
        '{"a": [' + "[" * 200_000,
    ],
)
def test_a_malformed_file_is_a_data_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(DataError, match=r"x\.json is no JSON object"):
        read(tmp_path / "x.json", "a")


def test_bytes_that_are_no_text_and_a_file_that_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_bytes(b'{"a": ["\xff"]}')
    with pytest.raises(DataError, match="no JSON object"):
        read(tmp_path / "x.json", "a")
    with pytest.raises(DataError, match=r"wanted the file none\.json"):
        read(tmp_path / "none.json", "a")


def test_an_element_without_end_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_stream, "MAX_ELEMENT", 1000)
    monkeypatch.setattr(json_stream, "_CHUNK", 100)
    (tmp_path / "x.json").write_text('{"a": ["' + "x" * 50_000)
    with pytest.raises(DataError, match="more than 1000 characters"):
        read(tmp_path / "x.json", "a")
    (tmp_path / "x.json").write_text('{"a": ["x"' + "y" * 50_000)
    with pytest.raises(DataError, match="more than 1000 characters"):
        read(tmp_path / "x.json", "a")
