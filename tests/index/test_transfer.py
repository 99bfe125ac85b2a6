"""Generations go from every backend to every other by way of their exported form, and nothing is lost."""

from __future__ import annotations

import json

import numpy as np
import pytest
from index_cases import REMOTE, params

from index import registry
from index.core import SearchOptions
from index.errors import CorruptIndex, HashIndexError, UnknownOption
from index.store import Meta, list_generations, load_generation, read_meta, write_generation
from index.transfer import export_generation, import_generation

META = Meta(
    model_name="toy",
    model_version="3",
    model_digest="a" * 64,
    preprocessing_digest="c" * 64,
    bits=64,
    snapshot_seq=17,
    created="2026-11-23T10:00:00+00:00",
)
NAMES = params(["memory", "faiss", *REMOTE])


@pytest.fixture(scope="module")
def items(corpus):
    return corpus(300, 64, seed=6), corpus(120, 64, seed=7)


def write(root, name, items, options):
    sides = [registry.create(name, 64, **options) for _ in items]
    for side, (ids, codes) in zip(sides, items, strict=True):
        side.add(ids, codes)
    return write_generation(root, "g1", Meta(**{**META.__dict__, "backend": name}), *sides)


def hits(generation, items):
    queries = np.concatenate([codes[:3] for _, codes in items])
    return [side.search(queries, SearchOptions(50)) for side in (generation.image, generation.text)]


@pytest.fixture
def exported(tmp_path, items):
    """An exported generation, and the folder it came from."""
    source = write(tmp_path / "source", "faiss", items, {})
    return export_generation(source, tmp_path / "out"), source


@pytest.mark.parametrize("name", NAMES)
def test_out_and_in_again(name, connect, items, tmp_path):
    url = connect(name).get("url")
    source = write(tmp_path / "source", name, items, connect(name))
    wanted = hits(load_generation(source, url=url), items)
    out = export_generation(source, tmp_path / "out", url)
    assert out == tmp_path / "out" / "g1"
    alone = load_generation(out, META.model_digest)
    assert (alone.meta.backend, alone.meta.counts) == ("faiss", {"image": 300, "text": 120})
    assert hits(alone, items) == wanted
    meta = import_generation(out, tmp_path / "root", "g2", name, url)
    assert (meta.backend, meta.model_digest, meta.snapshot_seq) == (name, META.model_digest, 17)
    assert hits(load_generation(tmp_path / "root" / "g2", META.model_digest, url), items) == wanted


@pytest.mark.parametrize("name", ["codes.npy", "id_bytes.npy", "id_lengths.npy", "index.json"])
def test_a_damaged_export_is_not_imported(exported, tmp_path, name):
    folder, _ = exported
    path = folder / "text" / name
    data = bytearray(path.read_bytes())
    data[-2] ^= 1
    path.write_bytes(data)
    with pytest.raises(CorruptIndex):
        import_generation(folder, tmp_path / "root", "g2", "memory")
    assert list_generations(tmp_path / "root") == []


def test_an_export_that_says_another_model_is_told_apart(exported):
    folder, _ = exported
    content = json.loads((folder / "META.json").read_text()) | {"model_digest": "b" * 64}
    (folder / "META.json").write_text(json.dumps(content))
    assert read_meta(folder).model_digest == "b" * 64
    with pytest.raises(HashIndexError, match="wanted one of the model"):
        load_generation(folder, META.model_digest)


def test_taken_ids_and_unknown_backends_are_refused(exported, tmp_path):
    folder, source = exported
    with pytest.raises(HashIndexError, match="exists"):
        export_generation(source, tmp_path / "out")
    import_generation(folder, tmp_path / "root", "g2", "memory")
    with pytest.raises(HashIndexError, match="exists"):
        import_generation(folder, tmp_path / "root", "g2", "memory")
    with pytest.raises(UnknownOption, match="backend: wanted one of"):
        import_generation(folder, tmp_path / "root", "g3", "abacus")
    with pytest.raises(UnknownOption, match="url"):
        import_generation(folder, tmp_path / "root", "g3", "pgvector")
