"""The compact table of ids behaves like a sorted list of strings."""

from __future__ import annotations

import bisect

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from index.ids import MAX_ID_BYTES, IdTable, key_bytes, keys_of, known_keys, split_keys

texts = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=12)
id_sets = st.sets(texts, max_size=60) | st.sets(st.integers(10, 99).map(str), max_size=60)


def table_of(ids):
    return IdTable.from_keys([np.sort(keys_of(list(ids)))])


@given(id_sets, id_sets)
@example({"a", "b" * 200}, {"a"})
@example({"ab"}, {"abc", "ab"})
def test_is_a_sorted_list(ids, others):
    table, wanted = table_of(ids), sorted(ids)
    assert list(table) == wanted
    assert len(table) == len(wanted)
    assert [table[row] for row in range(len(table))] == wanted
    assert table[1:4] == wanted[1:4]
    assert table.bytes_total == sum(len(each.encode()) for each in ids)
    encoded = [each.encode() for each in wanted]
    for each in [*others, *ids]:
        key = each.encode()
        assert table.bisect(key) == bisect.bisect_left(encoded, key)
        assert table.bisect(key, right=True) == bisect.bisect_right(encoded, key)
        assert table.row(key) == (wanted.index(each) if each in ids else -1)
    found = table.rows(known_keys(others))
    assert [wanted[row] for row in found] == sorted(ids & others)


@pytest.mark.parametrize("form", ["{:08d}", "{}", "{}{}" + "x" * 5, "é{}"])
@pytest.mark.parametrize("asked", [1, 40, 5000, 30_000])
def test_many_ids_over_several_blocks(form, asked):
    ids = [form.format(number, "y" * (number % 90 == 0) * 60) for number in range(30_000)]
    table, wanted = table_of(ids), sorted(ids)
    assert list(table) == wanted
    rng = np.random.default_rng(asked)
    some = [*(ids[i] for i in rng.permutation(30_000)[:asked]), "z" * 180, "nobody", "0"]
    assert [wanted[row] for row in table.rows(known_keys(some))] == sorted(set(some) & set(ids))
    last = wanted[-asked:]  # all of them in the last blocks
    assert [wanted[row] for row in table.rows(known_keys(last))] == last


def test_memory_of_an_id_is_about_its_length():
    even = table_of([f"item-{number:08d}" for number in range(5000)])
    mixed = table_of([*(f"{number}" for number in range(5000)), "x" * 200])
    assert even.nbytes == 13 * 5000
    assert mixed.nbytes < 9 * 5001 + 300


def test_rows_beyond_the_end_are_an_index_error():
    table = table_of(["a", "b"])
    assert table[-1] == "b"
    for row in (2, -3):
        with pytest.raises(IndexError, match="one of 2"):
            table[row]


@settings(max_examples=30)
@given(st.sets(texts, min_size=1, max_size=20))
def test_splitting_keys_keeps_the_bytes(ids):
    keys = np.sort(keys_of(list(ids)))
    blob, lengths = split_keys(keys)
    assert blob.tobytes() == b"".join(keys.tolist())
    assert list(IdTable(blob, lengths)) == sorted(ids)


def test_blobs_are_joined_and_may_be_empty():
    empty = IdTable.from_keys([])
    assert (len(empty), list(empty), empty.row(b"a")) == (0, [], -1)
    assert len(empty.rows(known_keys([str(i) for i in range(50)]))) == 0
    joined = IdTable.from_keys([keys_of(["a", "b"]), keys_of([]), keys_of(["c"])])
    assert list(joined) == ["a", "b", "c"]


@pytest.mark.parametrize(
    "wrong", ["", "a\0", "\0", "\ud800", "x" * (MAX_ID_BYTES + 1), "é" * 101, 3, None, b"a"]
)
def test_what_is_no_id(wrong):
    assert key_bytes(wrong) is None
    assert known_keys([wrong, "a"]).tolist() == [b"a"]


def test_longest_id():
    assert key_bytes("x" * MAX_ID_BYTES) == b"x" * MAX_ID_BYTES
    assert list(table_of(["x" * MAX_ID_BYTES, "y"])) == ["x" * MAX_ID_BYTES, "y"]
