"""Exports say what each code was made of, are read like any generation, and are believed only when whole."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest

from index.core import SearchOptions
from index.errors import BadCodes, CorruptIndex, HashIndexError
from index.exports import CONTENT_BYTES, Export, Rows, write_export
from index.store import Meta, list_generations, load_generation, write_generation
from index.transfer import import_generation

META = Meta(
    model_name="toy",
    model_version="3",
    model_digest="a" * 64,
    preprocessing_digest="c" * 64,
    bits=64,
    snapshot_seq=17,
    created="2026-11-23T10:00:00+00:00",
    backend="pgvector",
)


def blocks(corpus, count, size):
    """A corpus in the order of ids, cut into rows, with a content for each."""
    ids, codes = corpus(count, 64, seed=count)
    order = sorted(range(count), key=lambda row: ids[row].encode())
    contents = np.random.default_rng(count).integers(0, 256, (count, CONTENT_BYTES), dtype=np.uint8)
    return [
        Rows([ids[row] for row in part], codes[part], contents[part])
        for part in (order[start : start + size] for start in range(0, count, size))
    ]


@pytest.fixture
def sides(corpus):
    return {"image": blocks(corpus, 300, 70), "text": blocks(corpus, 120, 500)}


@pytest.fixture
def folder(sides, tmp_path):
    write_export(tmp_path / "out", META, sides)
    return tmp_path / "out"


def joined(rows):
    rows = list(rows)
    ids = [name for block in rows for name in block.ids]
    return ids, *(np.concatenate([getattr(b, name) for b in rows]) for name in ("codes", "contents"))


@pytest.mark.parametrize("size", [1, 64, 10_000])
def test_rows_come_back_as_they_went(folder, sides, size):
    export = Export(folder)
    export.prove()
    assert (export.meta.model_digest, export.meta.counts) == ("a" * 64, {"image": 300, "text": 120})
    for side, given in sides.items():
        wanted, got = joined(given), joined(export.rows(side, size))
        assert got[0] == wanted[0]
        assert all(np.array_equal(*pair) for pair in zip(got[1:], wanted[1:], strict=True))


def test_an_export_is_a_generation(folder, sides, tmp_path):
    _, codes, _ = joined(sides["image"])
    import_generation(folder, tmp_path / "root", "g2", "memory")
    for found in (load_generation(folder), load_generation(tmp_path / "root" / "g2")):
        assert [hits[0].distance for hits in found.image.search(codes[:9], SearchOptions(1))] == [0] * 9
        assert len(found.text) == 120


def test_an_empty_side_is_exported(tmp_path, sides):
    meta = write_export(tmp_path / "out", META, {"image": sides["image"], "text": []})
    assert meta.counts == {"image": 300, "text": 0}
    assert [len(rows.ids) for rows in Export(tmp_path / "out").rows("text", 5)] == []


FILES = ["codes.npy", "contents.npy", "id_bytes.npy", "id_lengths.npy", "index.json"]


@pytest.mark.parametrize("name", [f"{side}/{file}" for side in ("image", "text") for file in FILES])
@pytest.mark.parametrize("harm", ["flip", "cut", "grow", "vanish", "pipe"])
def test_a_damaged_export_is_not_believed(folder, name, harm):
    path = folder / name
    data = path.read_bytes()
    if harm in {"vanish", "pipe"}:
        path.unlink()
    if harm == "pipe":
        os.mkfifo(path)
    middle = len(data) - 20
    flipped = data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]
    changed = {"flip": flipped, "cut": data[:-3], "grow": data + b"x"}.get(harm)
    if changed is not None:
        path.write_bytes(changed)
    with pytest.raises(CorruptIndex):
        Export(folder).prove()


def test_a_generation_without_contents_is_no_export(folder, tmp_path):
    found = load_generation(folder)
    write_generation(tmp_path / "root", "g1", found.meta, found.image, found.text)
    with pytest.raises(CorruptIndex, match=r"wanted an export with the file image/contents\.npy"):
        Export(tmp_path / "root" / "g1")


def test_a_meta_that_says_something_else(folder):
    content = json.loads((folder / "META.json").read_text())
    (folder / "META.json").write_text(json.dumps(content | {"backend": "milvus"}))
    with pytest.raises(CorruptIndex, match="wanted the backend faiss, got 'milvus'"):
        Export(folder)
    (folder / "META.json").write_text(json.dumps(content | {"counts": {"image": 299, "text": 120}}))
    with pytest.raises(CorruptIndex, match="wanted 299 items with contents"):
        Export(folder)


def test_what_cannot_be_written_leaves_nothing(tmp_path, sides):
    image, text = sides["image"], sides["text"]
    short = [Rows(text[0].ids, text[0].codes, text[0].contents[:-1])]
    with pytest.raises(BadCodes, match="a code and a content for each of 120"):
        write_export(tmp_path / "out", META, {"image": image, "text": short})
    narrow = [Rows(text[0].ids, text[0].codes[:, :4], text[0].contents)]
    with pytest.raises(BadCodes, match=r"shape \(n, 8\)"):
        write_export(tmp_path / "out", META, {"image": image, "text": narrow})
    with pytest.raises(HashIndexError, match="generation id"):
        write_export(tmp_path / ".hidden", META, sides)
    assert list(tmp_path.iterdir()) == []
    write_export(tmp_path / "out", META, sides)
    with pytest.raises(HashIndexError, match="exists"):
        write_export(tmp_path / "out", META, sides)
    assert list_generations(tmp_path) == ["out"]
