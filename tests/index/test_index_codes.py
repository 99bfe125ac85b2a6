"""Packing, hexadecimal text and distances of codes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from index.codes import check_codes, from_hex, hamming, pack, to_hex, unpack, words
from index.errors import BadCodes

widths = st.integers(2, 32).map(lambda n: 8 * n)
bit_arrays = widths.flatmap(lambda k: hnp.arrays(np.bool_, st.tuples(st.integers(0, 6), st.just(k))))


@given(bit_arrays)
def test_pack_and_unpack_are_inverse(bits):
    codes = pack(bits)
    assert codes.shape == (len(bits), bits.shape[1] // 8)
    assert np.array_equal(unpack(codes, bits.shape[1]), bits)


@given(bit_arrays)
def test_hex_is_inverse(bits):
    for code in pack(bits):
        assert np.array_equal(from_hex(to_hex(code), bits.shape[1]), code)


def test_the_order_of_bits_is_fixed():
    bits = np.zeros((1, 16), dtype=bool)
    bits[0, [0, 15]] = True
    assert pack(bits).tolist() == [[0x80, 0x01]]
    assert to_hex(pack(bits)[0]) == "8001"


@given(widths, st.integers(0, 5), st.integers(0, 9), st.integers(0, 99))
def test_hamming_counts_differing_bits(bits, q, n, seed):
    rng = np.random.default_rng(seed)
    left, right = rng.random((q, bits)) < 0.5, rng.random((n, bits)) < 0.5
    wanted = (left[:, None] != right[None]).sum(axis=2).reshape(q, n)
    got = hamming(pack(left), pack(right))
    assert got.dtype == np.int32
    assert np.array_equal(got, wanted)


def test_hamming_over_several_blocks(monkeypatch):
    rng = np.random.default_rng(0)
    left, right = (rng.integers(0, 256, (n, 6), dtype=np.uint8) for n in (3, 100))
    whole = hamming(left, right)
    monkeypatch.setattr("index.codes._QUERY_BLOCK_BYTES", 60)
    assert np.array_equal(hamming(left, right), whole)


@pytest.mark.parametrize(("width", "itemsize"), [(8, 8), (16, 8), (12, 4), (6, 2), (3, 1)])
def test_words_take_the_widest_type(width, itemsize):
    assert words(np.zeros((2, width), dtype=np.uint8)).dtype.itemsize == itemsize


def test_check_codes_makes_rows_contiguous():
    codes = np.zeros((4, 16), dtype=np.uint8)[:, ::2]
    assert check_codes(codes, 64).flags.c_contiguous


BAD = [
    (lambda: pack(np.zeros((2, 64), dtype=np.uint8)), "bool array"),
    (lambda: pack(np.zeros(64, dtype=bool)), "bool array"),
    (lambda: pack(np.zeros((2, 20), dtype=bool)), "multiple of 8"),
    (lambda: unpack(np.zeros((2, 8), dtype=np.uint8), 128), r"\(n, 16\)"),
    (lambda: unpack(np.zeros((2, 1), dtype=np.uint8), 8), "multiple of 8"),
    (lambda: to_hex(np.zeros((1, 8), dtype=np.uint8)), "one uint8 row"),
    (lambda: to_hex(np.zeros(8, dtype=np.int64)), "one uint8 row"),
    (lambda: from_hex("00", 16), "4 hexadecimal digits"),
    (lambda: from_hex("00g0", 16), "hexadecimal"),
    (lambda: from_hex("0 00", 16), "hexadecimal"),
    (lambda: from_hex("٠٠٠٠", 16), "hexadecimal"),
    (lambda: from_hex("0000", 8), "multiple of 8"),
    (lambda: hamming(np.zeros((1, 8), np.uint8), np.zeros((1, 9), np.uint8)), "same width"),
    (lambda: hamming(np.zeros((1, 8), np.uint8), np.zeros(8, np.uint8)), "same width"),
    (lambda: hamming(np.zeros((1, 8), np.int8), np.zeros((1, 8), np.uint8)), "uint8"),
]


@pytest.mark.parametrize(("call", "words_wanted"), BAD)
def test_bad_input_is_refused(call, words_wanted):
    with pytest.raises(BadCodes, match=words_wanted):
        call()
