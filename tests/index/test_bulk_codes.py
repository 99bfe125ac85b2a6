"""Ready codes from files come out in the order of ids, and hostile files are refused with a reason."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from index import registry
from index.backends.memory import MemoryIndex
from index.bulk import ALPHABET, read_codes, read_ids, read_ready
from index.core import SearchOptions
from index.errors import BadCodes, BadId, DuplicateId, HashIndexError
from index.ids import IdTable, keys_of

NAMES = st.text(ALPHABET.decode(), min_size=1, max_size=40).filter(lambda name: name not in {".", ".."})


def files(folder, ids, codes, end="\n"):
    (folder / "ids.txt").write_text("\n".join(ids) + end)
    np.save(folder / "codes.npy", codes)
    return folder / "ids.txt", folder / "codes.npy"


@given(
    st.lists(NAMES, min_size=1, max_size=40, unique=True), st.booleans(), st.randoms(use_true_random=False)
)
def test_what_comes_out_is_sorted_and_still_paired(tmp_path_factory, names, ended, random):
    folder = tmp_path_factory.mktemp("ready")
    codes = np.array([[*name.encode().ljust(8, b"~")[:8]] for name in names], dtype=np.uint8)
    ids, npy = files(folder, names, codes, "\n" if ended else "")
    found = read_ready(ids, {"image": npy, "text": npy}, 64)
    assert list(found.ids) == sorted(names)
    for side in ("image", "text"):
        got = [bytes(row) for row in found.codes[side]]
        assert got == [name.encode().ljust(8, b"~")[:8] for name in sorted(names)]


def test_ready_codes_are_found_by_every_embedded_backend(tmp_path, corpus):
    _, codes = corpus(3000, 64, seed=11)
    names = [f"n{number * 7919 % 3000}" for number in range(3000)]
    ready = read_ready(*(lambda i, c: (i, {"image": c}))(*files(tmp_path, names, codes)), 64)
    oracle = MemoryIndex(64)
    oracle.add(names, codes)
    for name in ("memory", "faiss", "faiss-ivf"):
        index = registry.create(name, 64, **({"nprobe": "all"} if name == "faiss-ivf" else {}))
        index.add(ready.ids, ready.codes["image"])
        assert len(index) == 3000
        assert index.search(codes[:5], SearchOptions(50)) == oracle.search(codes[:5], SearchOptions(50))


BAD_IDS = [
    (b"", "empty file"),
    (b"\n", "line 1: .*got b''"),
    (b"a\n\nb\n", "line 2: .*got b''"),
    (b"a\nb c\n", "line 2: .*got b'b c'"),
    (b"a\r\nb\r\n", r"line 1: .*got b'a\\r'"),
    (b"a\n.\n", "line 2: .*not . or .."),
    (b"..", "line 1: .*not . or .."),
    (b"a\nb\0\n", "line 2"),
    ("a\né\n".encode(), "line 2"),
    (b"\xff\xfe", "line 1"),
    (b"a\n" + b"x" * 201 + b"\n", r"line 2: .*\(201 bytes\)"),
]


@pytest.mark.parametrize(("data", "words"), BAD_IDS)
def test_bad_ids_are_named_by_their_line(tmp_path, data, words):
    (tmp_path / "ids.txt").write_bytes(data)
    with pytest.raises(BadId, match=words):
        read_ids(tmp_path / "ids.txt")


def test_ids_of_two_dots_and_more_are_ids(tmp_path):
    (tmp_path / "ids.txt").write_text("...\n.a\na.\n" + "x" * 200)
    assert read_ids(tmp_path / "ids.txt").tolist() == [b"...", b".a", b"a.", b"x" * 200]


def saved(array, **how):
    file = io.BytesIO()
    np.lib.format.write_array(file, array, **how)
    return file.getvalue()


GOOD = saved(np.arange(24, dtype=np.uint8).reshape(3, 8))
BAD_CODES = [
    (b"", "uint8"),
    (b"not numpy", "uint8"),
    (GOOD[:20], "uint8"),
    (GOOD[:-1], "wanted 152 bytes.*got 151"),
    (GOOD + b"x", "wanted 152 bytes.*got 153"),
    (saved(np.zeros((3, 8), np.int8)), "uint8"),
    (saved(np.zeros((3, 8), np.float64)), "uint8"),
    (saved(np.zeros((8, 3), np.uint8).T), "C order"),
    (saved(np.zeros(24, np.uint8)), "uint8"),
    (saved(np.zeros((3, 2, 4), np.uint8)), "uint8"),
    (saved(np.zeros((3, 8), object), allow_pickle=True), "uint8"),
    (saved(np.zeros((3, 8), np.uint8), version=(2, 0)), "uint8"),
    (saved(np.zeros((3, 9), np.uint8)), r"\(n, 8\) for 64 bits, got \(3, 9\)"),
    (GOOD.replace(b"(3, 8), }    ", b"(9999999, 8)}"), "uint8"),
    (GOOD.replace(b"(3, 8), }      ", b"(9999999, 8), }"), "got 152"),
]


@pytest.mark.parametrize(("data", "words"), BAD_CODES)
def test_bad_code_files_are_refused(tmp_path, data, words):
    (tmp_path / "codes.npy").write_bytes(data)
    with pytest.raises(BadCodes, match=words):
        read_codes(tmp_path / "codes.npy", 8)


@given(st.integers(0, 127), st.integers(0, 255))
def test_an_altered_header_is_refused_or_harmless(tmp_path_factory, place, value):
    path = tmp_path_factory.mktemp("npy") / "codes.npy"
    path.write_bytes(GOOD[:place] + bytes([value]) + GOOD[place + 1 :])
    try:
        codes = read_codes(path, 8)
    except BadCodes:
        return
    assert codes.shape == (3, 8)


def test_files_that_do_not_fit_each_other(tmp_path):
    ids, codes = files(tmp_path, ["a", "b", "a"], np.zeros((3, 8), np.uint8))
    with pytest.raises(DuplicateId, match="b'a' twice"):
        read_ready(ids, {"image": codes}, 64)
    ids.write_text("a\nb\n")
    with pytest.raises(BadCodes, match="one row for each of 2 ids, got 3"):
        read_ready(ids, {"image": codes}, 64)
    with pytest.raises(HashIndexError, match="multiple of 8"):
        read_ready(ids, {"image": codes}, 63)


@pytest.mark.parametrize("missing", ["ids.txt", "codes.npy"])
def test_files_that_cannot_be_read(tmp_path, missing):
    ids, codes = files(tmp_path, ["a"], np.zeros((1, 8), np.uint8))
    (tmp_path / missing).unlink()
    with pytest.raises(HashIndexError, match=f"{missing}: wanted a readable file"):
        read_ready(ids, {"image": codes}, 64)


def test_one_long_id_among_short_ones_does_not_take_the_memory(tmp_path, monkeypatch):
    monkeypatch.setattr("index.bulk._MAX_TABLE_BYTES", 1000)
    (tmp_path / "ids.txt").write_text("\n".join(f"i{n}" for n in range(20)) + "\n" + "x" * 100)
    with pytest.raises(BadId, match=r"wanted n x longest id <= 1000 bytes, got 21 x 100"):
        read_ids(tmp_path / "ids.txt")


@pytest.mark.parametrize("ids", [["a", "b", "é" * 20, "日本"], [f"{n:03}" for n in range(50)]])
def test_slices_of_a_table(ids):
    table = IdTable.from_keys([keys_of(sorted(ids, key=str.encode))])
    wanted = sorted(ids, key=str.encode)
    for cut in (
        slice(None),
        slice(1, 3),
        slice(3, 1),
        slice(None, None, -1),
        slice(-2, None),
        slice(0, 99, 2),
    ):
        assert table[cut] == wanted[cut]
