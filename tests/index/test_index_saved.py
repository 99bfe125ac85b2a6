"""Saved indexes: damage of every kind is found, and found before it can do harm."""

from __future__ import annotations

import hashlib
import json
import shutil

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from index import registry
from index.core import SearchOptions
from index.errors import CorruptIndex, HashIndexError
from index.files import ArrayReader, ArrayWriter, read_json, read_small, sha256_of, write_json

BITS = 32
OPTIONS = {"faiss-ivf": {"ivf_from": 30, "lists": 4, "nprobe": "all"}}


def build(name, corpus):
    ids, codes = corpus(80, BITS, seed=1)
    index = registry.create(name, BITS, **OPTIONS.get(name, {}))
    index.add(ids, codes)
    return index


@pytest.fixture(scope="module")
def saved(corpus, tmp_path_factory):
    """A saved inverted file: the form with the most files."""
    folder = tmp_path_factory.mktemp("saved") / "index"
    build("faiss-ivf", corpus).save(folder)
    return folder


@pytest.fixture
def copy(saved, tmp_path):
    """A copy of it to damage."""
    shutil.copytree(saved, tmp_path / "copy")
    return tmp_path / "copy"


def load(folder, name="faiss-ivf", bits=BITS):
    return registry.load(name, folder, bits, **OPTIONS.get(name, {}))


def forge(folder, name, array):
    """Replace an array and make every digest and shape fit, as somebody who knows the format would."""
    (folder / f"{name}.npy").unlink()
    with ArrayWriter(folder / f"{name}.npy", array.dtype.str, array.shape) as writer:
        writer.append(array)
    edit(folder, lambda header: header["files"].update({name: sha256_of(folder / f"{name}.npy")}))
    if name in {"centroids", "lists"}:
        described = {"dtype": array.dtype.str, "shape": list(array.shape)}
        edit(folder, lambda header: header["extra"].update({name: described}))


def edit(folder, change):
    header = json.loads((folder / "index.json").read_text())
    change(header)
    (folder / "index.json").write_text(json.dumps(header))


def test_the_untouched_copy_loads(copy):
    index = load(copy)
    assert len(index) == 80
    assert index.exact
    assert sorted(each.name for each in copy.iterdir()) == [
        "centroids.npy", "codes.npy", "id_bytes.npy", "id_lengths.npy", "index.json", "lists.npy",
    ]  # fmt: skip


FILES = ["centroids.npy", "codes.npy", "id_bytes.npy", "id_lengths.npy", "lists.npy"]


@pytest.mark.parametrize("name", FILES)
@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.floats(0, 1, exclude_max=True), st.integers(1, 255))
def test_any_changed_byte_is_found(saved, tmp_path_factory, name, place, flip):
    folder = tmp_path_factory.mktemp("flip") / "copy"
    shutil.copytree(saved, folder)
    data = bytearray((folder / name).read_bytes())
    data[int(place * len(data))] ^= flip
    (folder / name).write_bytes(data)
    with pytest.raises(CorruptIndex):
        load(folder)


@pytest.mark.parametrize("name", [*FILES, "index.json"])
@pytest.mark.parametrize("keep", [0, 5, 60, -1])
def test_a_truncated_file_is_found(copy, name, keep):
    data = (copy / name).read_bytes()
    # Without its last byte, a newline, index.json is the same JSON: there the digest in META.json counts.
    (copy / name).write_bytes(data[: keep - 1] if name == "index.json" and keep < 0 else data[:keep])
    with pytest.raises(CorruptIndex):
        load(copy)


@pytest.mark.parametrize("name", FILES)
def test_bytes_behind_the_end_are_found(copy, name):
    with (copy / name).open("ab") as file:
        file.write(b"\0")
    with pytest.raises(CorruptIndex, match=r"wanted \d+ bytes"):
        load(copy)


@pytest.mark.parametrize("name", [*FILES, "index.json"])
def test_a_missing_file_is_found(copy, name):
    (copy / name).unlink()
    with pytest.raises(CorruptIndex, match="readable file"):
        load(copy)


def test_a_folder_in_place_of_a_file(copy):
    (copy / "codes.npy").unlink()
    (copy / "codes.npy").mkdir()
    with pytest.raises(CorruptIndex):
        load(copy)


def test_another_width_is_refused(copy):
    with pytest.raises(CorruptIndex, match="wanted 64 bits, got 32"):
        load(copy, bits=64)


HEADERS = [
    ({"format": 2}, "format 1"),
    ({"bits": "32"}, "32 bits"),
    ({"count": -1}, "count"),
    ({"count": True}, "count"),
    ({"count": 79}, r"\(79,"),
    ({"count": 10**9}, r"\(1000000000,"),
    ({"count": 10**30}, "count"),
    ({"count": None}, "count"),
    ({"id_bytes": 1.5}, "id_bytes"),
    ({"id_bytes": 3}, r"\(3,\)"),
    ({"files": None}, "files"),
    ({"files": {}}, "SHA-256 of codes"),
    ({"files": {"codes": 5}}, "SHA-256 of codes"),
    ({"extra": []}, "extra"),
]


@pytest.mark.parametrize(("change", "words"), HEADERS)
def test_a_lying_header_is_refused(copy, change, words):
    edit(copy, lambda header: header.update(change))
    with pytest.raises(CorruptIndex, match=words):
        load(copy, name="faiss")


@pytest.mark.parametrize(
    "text", ["", "[]", "nonsense", "{", "[" * 100_000, "7", "\xff", '{"a": ' + "9" * 5000 + "}"]
)
def test_a_header_that_is_no_object_is_refused(copy, text):
    (copy / "index.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(CorruptIndex, match=r"index\.json"):
        load(copy)


def test_a_huge_header_is_not_read(copy):
    (copy / "index.json").write_bytes(b" " * (1 << 21))
    with pytest.raises(CorruptIndex, match="at most"):
        load(copy)


def ids_of(folder):
    return np.load(folder / "id_bytes.npy"), np.load(folder / "id_lengths.npy")


def test_ids_out_of_order_are_found_behind_valid_digests(copy):
    blob, lengths = ids_of(copy)
    blob[: lengths[0]] = ord("~")
    forge(copy, "id_bytes", blob)
    with pytest.raises(CorruptIndex, match="ascending"):
        load(copy)


def test_ids_out_of_order_between_two_pieces_are_found(corpus, tmp_path):
    index = registry.create("faiss", BITS)
    index.add(["a", "b", "c", "d"], corpus(4, BITS, seed=0)[1])
    index.save(tmp_path / "saved")
    forge(tmp_path / "saved", "id_bytes", np.frombuffer(b"cdab", dtype=np.uint8))
    with pytest.raises(CorruptIndex, match="ascending"):
        registry.load("faiss", tmp_path / "saved", BITS, segment_rows=2)


def test_the_same_id_twice_is_found(copy):
    blob, lengths = np.frombuffer(b"aa", dtype=np.uint8), np.array([1, 1], dtype=np.uint8)
    codes = np.zeros((2, BITS // 8), dtype=np.uint8)
    for name, array in (("id_bytes", blob), ("id_lengths", lengths), ("codes", codes)):
        forge(copy, name, array)
    edit(copy, lambda header: header.update(count=2, id_bytes=2))
    with pytest.raises(CorruptIndex, match="twice"):
        load(copy, name="faiss")


def test_ids_that_are_no_utf8_are_found(copy):
    blob, _ = ids_of(copy)
    blob[5] = 0xFF
    forge(copy, "id_bytes", blob)
    with pytest.raises(CorruptIndex, match="UTF-8"):
        load(copy)


def test_an_id_that_starts_inside_a_character_is_found(tmp_path, corpus):
    index = registry.create("memory", BITS)
    index.add(["aé", "b"], corpus(2, BITS, seed=0)[1])
    index.save(tmp_path / "saved")
    forge(tmp_path / "saved", "id_lengths", np.array([2, 2], dtype=np.uint8))
    with pytest.raises(CorruptIndex, match="inside a character"):
        registry.load("memory", tmp_path / "saved", BITS)


def test_an_id_with_nul_is_found(copy):
    blob, _ = ids_of(copy)
    blob[5] = 0
    forge(copy, "id_bytes", blob)
    with pytest.raises(CorruptIndex, match="NUL"):
        load(copy)


@pytest.mark.parametrize(("first", "words"), [(0, "1 to 200"), (201, "1 to 200")])
def test_impossible_lengths_are_found(copy, first, words):
    _, lengths = ids_of(copy)
    lengths[0] = first
    forge(copy, "id_lengths", lengths)
    forge(copy, "id_bytes", np.full(int(lengths.sum()), ord("a"), dtype=np.uint8))
    edit(copy, lambda header: header.update(id_bytes=int(lengths.sum())))
    with pytest.raises(CorruptIndex, match=words):
        load(copy)


@pytest.mark.parametrize("change", [-1, 1, 60])
def test_lengths_that_do_not_add_up_are_found(copy, change):
    _, lengths = ids_of(copy)
    lengths[-1] = int(lengths[-1]) + change
    forge(copy, "id_lengths", lengths)
    with pytest.raises(CorruptIndex, match="id_bytes"):
        load(copy)


def test_bytes_that_belong_to_no_id_are_found(tmp_path, corpus):
    index = registry.create("memory", BITS)
    index.add(["aa", "bb"], corpus(2, BITS, seed=0)[1])
    index.save(tmp_path / "saved")
    forge(tmp_path / "saved", "id_lengths", np.array([2, 1], dtype=np.uint8))
    with pytest.raises(CorruptIndex, match="wanted 4 bytes of ids, got 1 fewer"):
        registry.load("memory", tmp_path / "saved", BITS)


BAD_LISTS = [
    ("lists", np.full(80, 4, dtype=np.int32), r"-1\.\.3"),
    ("lists", np.full(80, -2, dtype=np.int32), r"-1\.\.3"),
    ("lists", np.zeros(79, dtype=np.int32), "80 rows"),
    ("lists", np.zeros(80, dtype=np.int64), "<i4|int32"),
    ("lists", np.zeros((80, 1), dtype=np.int32), "shape"),
    ("centroids", np.zeros((0, 4), dtype=np.uint8), "centroids"),
    ("centroids", np.zeros((4, 5), dtype=np.uint8), "shape"),
    ("centroids", np.zeros((3, 4), dtype=np.uint8), r"-1\.\.2"),
    ("centroids", np.zeros(16, dtype=np.uint8), "shape"),
]


@pytest.mark.parametrize(("name", "array", "words"), BAD_LISTS)
def test_an_inverted_file_that_contradicts_itself_is_refused(copy, name, array, words):
    forge(copy, name, array)
    with pytest.raises(CorruptIndex, match=words):
        load(copy)


@pytest.mark.parametrize("shape", [None, "80", [None], [-1], [80.0], [True]])
def test_lying_shapes_of_lists_are_refused(copy, shape):
    edit(copy, lambda header: header["extra"]["lists"].update(shape=shape))
    with pytest.raises(CorruptIndex):
        load(copy)


def test_lists_without_centroids_are_refused(copy):
    edit(copy, lambda header: header["extra"].pop("centroids"))
    with pytest.raises(CorruptIndex, match="centroids"):
        load(copy)


def test_rows_that_were_beside_the_inverted_file_are_assigned_at_load(copy, corpus):
    _, codes = corpus(80, BITS, seed=1)
    lists = np.load(copy / "lists.npy")
    lists[::5] = -1
    forge(copy, "lists", lists)
    assert load(copy).search(codes[:5], SearchOptions(9)) == build("memory", corpus).search(
        codes[:5], SearchOptions(9)
    )


HOSTILE = [
    np.array([object()], dtype=object),
    np.zeros((80, 4), dtype=">u2"),
    np.asfortranarray(np.zeros((80, 4), dtype=np.uint8)),
]


@pytest.mark.parametrize("array", HOSTILE, ids=["pickle", "type", "fortran"])
def test_arrays_of_another_kind_are_refused(copy, array):
    np.save(copy / "codes.npy", array, allow_pickle=True)
    edit(copy, lambda header: header["files"].update(codes=sha256_of(copy / "codes.npy")))
    with pytest.raises(CorruptIndex, match=r"codes\.npy: wanted a \.npy header of uint8"):
        load(copy, name="faiss")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x93NUMPY",
        b"\x93NUMPY\x01\x00\xff\xff{",
        b"\x93NUMPY\x02\x00\x04\x00\x00\x00{}  ",
        b"\x93NUMPY\x01\x00\x05\x00(((((",
        b"\x93NUMPY\x01\x00\x10\x00" + b"{'descr': '|u1',",
        b"PK\x03\x04",
    ],
)
def test_hostile_npy_headers_are_refused(tmp_path, data):
    (tmp_path / "x.npy").write_bytes(data)
    with pytest.raises(CorruptIndex, match=r"x\.npy"):
        ArrayReader(tmp_path / "x.npy", "|u1", (3,), "0" * 64)


def test_a_file_that_shrinks_while_read_is_found(tmp_path):
    with ArrayWriter(tmp_path / "x.npy", "|u1", (5000,)) as writer:
        writer.append(np.zeros(5000, dtype=np.uint8))
    with ArrayReader(tmp_path / "x.npy", "|u1", (5000,), writer.sha256) as reader:
        with (tmp_path / "x.npy").open("r+b") as file:
            file.truncate(200)
        with pytest.raises(CorruptIndex, match="5000 more bytes"):
            for _ in range(2):
                reader.read(5000)


def test_a_writer_keeps_its_promise(tmp_path):
    with (
        pytest.raises(ValueError, match="wanted 3 rows, got 2"),
        ArrayWriter(tmp_path / "a", "|u1", (3,)) as w,
    ):
        w.append(np.zeros(2, dtype=np.uint8))
    with pytest.raises(RuntimeError, match="stop"), ArrayWriter(tmp_path / "b", "|u1", (3,)):
        raise RuntimeError("stop")


def test_digests_are_of_the_files(tmp_path):
    digest = write_json(tmp_path / "a.json", {"b": 1})
    data = (tmp_path / "a.json").read_bytes()
    assert digest == hashlib.sha256(data).hexdigest() == sha256_of(tmp_path / "a.json")
    assert read_json(tmp_path / "a.json", digest) == {"b": 1}
    with pytest.raises(CorruptIndex, match="SHA-256"):
        read_small(tmp_path / "a.json", "0" * 64)
    with pytest.raises(CorruptIndex, match="readable"):
        sha256_of(tmp_path / "nothing")


def test_saving_into_a_folder_with_files_is_refused(case, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(HashIndexError, match="empty folder"):
        case.create(BITS).save(tmp_path)


def test_saving_is_the_same_for_the_same_items(corpus, tmp_path):
    ids, codes = corpus(300, BITS, seed=3)
    digests = []
    for turn, name in enumerate(["memory", "faiss", "faiss"]):
        index = registry.create(name, BITS)
        order = np.random.default_rng(turn).permutation(300)
        index.add([ids[i] for i in order], codes[order])
        index.save(tmp_path / str(turn))
        digests.append(sha256_of(tmp_path / str(turn) / "index.json"))
    assert len(set(digests)) == 1
