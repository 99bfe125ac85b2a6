"""Indexes in PostgreSQL and Milvus beyond the conformance suite: hostile input, references, lost engines."""

from __future__ import annotations

import json
import socket
import sys
import threading
import time

import numpy as np
import pytest
from index_cases import REMOTE, params

from index import registry
from index.backends.memory import MemoryIndex
from index.core import Hit, SearchOptions
from index.errors import CorruptIndex, EngineUnavailable, UnknownOption, Unsupported
from index.store import Meta, delete_generation, list_generations, load_generation, sweep, write_generation

BITS = 64
SECRET = "s3cr3t-word"


@pytest.fixture(params=params(REMOTE), scope="module")
def engine(request, connect):
    """A backend's name and the options that reach its server."""
    return request.param, connect(request.param)


@pytest.fixture(scope="module")
def index(engine):
    """An index for tests that leave it empty."""
    name, options = engine
    return registry.create(name, BITS, **options)


@pytest.fixture
def saved(index, tmp_path):
    """Folder of a reference to it."""
    index.save(tmp_path / "saved")
    return tmp_path / "saved"


def codes_of(count, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, BITS // 8), dtype=np.uint8)


def test_ten_thousand_random_codes(rival):
    """The issue's own measure: the oracle's hits from every backend, ties and filters included."""
    bits = 32
    rng = np.random.default_rng(bits)
    ids = [f"item-{number:05d}" for number in rng.permutation(10_000)]
    codes = rng.integers(0, 256, (10_000, bits // 8), dtype=np.uint8)
    index, oracle = rival.create(bits), MemoryIndex(bits)
    for each in (index, oracle):
        each.add(ids, codes)
    assert index.exact
    queries = np.concatenate([codes[:5], rng.integers(0, 256, (5, bits // 8), dtype=np.uint8)])
    for options in (SearchOptions(10), SearchOptions(1000), SearchOptions(300, max_distance=bits // 4)):
        for allow in (None, ids[:50], ids[::2]):
            wanted = oracle.search(queries, options, allow=allow)
            assert index.search(queries, options, allow=allow) == wanted
    end = oracle.search(queries[:1], SearchOptions(500))[0][-1]
    assert index.search(queries, SearchOptions(100, after=end)) == oracle.search(
        queries, SearchOptions(100, after=end)
    )


HOSTILE = [
    "'; DROP TABLE hashguard_indexes; --",
    '") or key != "" //',
    '"] or key in ["',
    "key",
    "\\",
    '\\"',
    "%s%(ids)s",
    "{table}$1:x",
    "NULL",
    "{a,b}",
    '"a","b"',
    "\n\r\t\x01\x7f",
    "é" * 100,
    "🙂",
    "\ufeff",
    "a" * 200,
]


def test_hostile_ids_are_only_ids(index):
    codes = codes_of(len(HOSTILE))
    bystanders = [f"by-{number}" for number in range(20)]
    index.add(bystanders, codes_of(20, seed=1))
    index.add(HOSTILE, codes)
    assert len(index) == 20 + len(HOSTILE)
    for each, code in zip(HOSTILE, codes, strict=True):
        assert each in index
        assert index.search(code[None], SearchOptions(40), allow=[each]) == [[Hit(each, 0)]]
        behind = index.search(code[None], SearchOptions(40, after=Hit(each, 0)))[0]
        assert len(behind) == 19 + len(HOSTILE)
    assert index.remove(HOSTILE[:1]) == 1
    assert index.remove(HOSTILE) == len(HOSTILE) - 1
    assert list(index.codes()[0]) == sorted(bystanders)
    assert index.remove(bystanders) == 20


@pytest.mark.parametrize("wrong", ["' OR '1'='1", '" or true', "", "x\0y", "\ud800", "z" * 5000])
def test_hostile_filters_match_nothing(index, wrong):
    code = codes_of(1)
    index.add(["plain"], code)
    assert index.search(code, SearchOptions(5), allow=[wrong]) == [[]]
    assert wrong not in index
    assert index.remove([wrong]) == 0
    assert index.remove(["plain"]) == 1


def test_more_ties_than_an_engine_gives_at_once(index):
    """20,000 equal codes: Milvus cuts at 16,384, in no order of ids."""
    ids = [f"{number:05d}" for number in np.random.default_rng(2).permutation(20_000)]
    index.add(ids, np.zeros((20_000, BITS // 8), dtype=np.uint8))
    query = np.zeros((1, BITS // 8), dtype=np.uint8)
    assert index.search(query, SearchOptions(7)) == [[Hit(f"{n:05d}", 0) for n in range(7)]]
    page = index.search(query, SearchOptions(9, after=Hit("00999", 0)))[0]
    assert page == [Hit(f"{n:05d}", 0) for n in range(1000, 1009)]
    assert len(index) == 20_000
    assert len(index.codes()[0]) == 20_000
    assert index.remove(ids) == 20_000


def test_two_that_share_a_table_see_each_other(engine, index, saved):
    name, options = engine
    other = registry.load(name, saved, BITS, **options)
    codes = codes_of(60)

    def write(which, first):
        for start in range(first, first + 30, 3):
            which.add([f"n{n}" for n in range(start, start + 3)], codes[start : start + 3])

    threads = [threading.Thread(target=write, args=pair) for pair in ((index, 0), (other, 30))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    late = registry.load(name, saved, BITS, **options)
    assert len(late) == 60
    assert {hit.id for hit in late.search(codes[:1], SearchOptions(100))[0]} == {f"n{n}" for n in range(60)}
    assert late.remove([f"n{n}" for n in range(60)]) == 60


def edit(folder, **changes):
    path = folder / "index.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"name": 'x"; DROP TABLE hashguard_indexes; --'}, "wanted a name"),
        ({"name": "pg_class"}, "wanted a name"),
        ({"name": None}, "wanted a name"),
        ({"bits": 32}, "wanted 64 bits, got 32"),
        ({"backend": "abacus"}, "got 'abacus'"),
        ({"format": 7}, "wanted format 1, got 7"),
        ({"name": "hashguard_" + "0" * 32}, "dropped"),
    ],
)
def test_a_forged_reference_is_refused(engine, saved, changes, words):
    name, options = engine
    edit(saved, **changes)
    with pytest.raises(CorruptIndex, match=words):
        registry.load(name, saved, BITS, **options)


def test_a_reference_to_another_width_is_refused(engine, saved):
    name, options = engine
    edit(saved, bits=32)
    with pytest.raises(CorruptIndex, match=r"wanted .*32 bits, got 64"):
        registry.load(name, saved, 32, **options)


def test_codes_that_are_damaged_leave_no_table(engine, corpus, tmp_path, connect):
    name, options = engine
    saved = tmp_path / "saved"
    embedded = registry.create("faiss", BITS)
    embedded.add(*corpus(50, BITS, seed=1))
    embedded.save(saved)
    data = bytearray((saved / "codes.npy").read_bytes())
    data[-1] ^= 1
    (saved / "codes.npy").write_bytes(data)
    before = names_in(name, options)
    with pytest.raises(CorruptIndex, match="SHA-256"):
        registry.load(name, saved, BITS, **options)
    assert names_in(name, options) == before


def names_in(name, options):
    """Names of all tables or collections, asked of the engine itself."""
    if name == "pgvector":
        import psycopg

        with psycopg.connect(options["url"]) as connection:
            found = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
            return {row[0] for row in found}
    import pymilvus

    return set(pymilvus.MilvusClient(uri=options["url"]).list_collections())


META = Meta(
    model_name="toy",
    model_version="3",
    model_digest="a" * 64,
    preprocessing_digest="c" * 64,
    bits=BITS,
    snapshot_seq=17,
    created="2026-11-23T10:00:00+00:00",
)


@pytest.fixture
def generation(engine, tmp_path):
    """A generation with a few codes on one side; its root, and the engine's name and URL."""
    name, options = engine
    sides = [registry.create(name, BITS, **options) for _ in range(2)]
    sides[0].add(["a", "b"], codes_of(2))
    write_generation(tmp_path / "root", "g1", Meta(**{**META.__dict__, "backend": name}), *sides)
    return tmp_path / "root", name, options["url"]


def test_a_generation_lives_and_dies_with_its_tables(generation):
    root, name, url = generation
    tables = names_in(name, {"url": url})
    for path in root.rglob("*.json"):
        assert url not in path.read_text()
    loaded = load_generation(root / "g1", META.model_digest, url)
    assert loaded.image.search(codes_of(1), SearchOptions(1)) == [[Hit("a", 0)]]
    loaded.image.add(["c"], codes_of(1, seed=3))
    again = load_generation(root / "g1", META.model_digest, url)
    assert (len(again.image), len(again.text)) == (3, 0)
    with pytest.raises(UnknownOption, match="url"):
        load_generation(root / "g1", META.model_digest)
    assert delete_generation(root, "g1", url)
    assert len(tables - names_in(name, {"url": url})) == 2
    assert list(root.iterdir()) == []
    with pytest.raises(CorruptIndex):
        again.image.search(codes_of(1), SearchOptions(1))


def test_what_cannot_be_dropped_waits_for_a_sweep(generation):
    root, name, url = generation
    tables = names_in(name, {"url": url})
    assert delete_generation(root, "g1")
    assert list_generations(root) == []
    assert sweep(root) == []
    assert names_in(name, {"url": url}) == tables
    [left] = root.iterdir()
    assert sweep(root, url) == [left.name]
    assert len(tables - names_in(name, {"url": url})) == 2
    assert list(root.iterdir()) == []


def test_a_build_that_fails_leaves_no_table_behind_a_sweep(engine, tmp_path, monkeypatch):
    name, options = engine
    sides = [registry.create(name, BITS, **options) for _ in range(2)]
    tables = names_in(name, options)

    def full(*_):
        raise OSError("disk full")

    monkeypatch.setattr("index.store.write_json", full)
    with pytest.raises(OSError, match="disk full"):
        write_generation(tmp_path, "g1", Meta(**{**META.__dict__, "backend": name}), *sides)
    monkeypatch.undo()
    assert list_generations(tmp_path) == []
    assert len(sweep(tmp_path, options["url"])) == 1
    assert len(tables - names_in(name, options)) == 2


# What needs no server.

URLS = {
    "pgvector": "postgresql://user:{secret}@127.0.0.1:{port}/db",
    "milvus": "http://u:{secret}@127.0.0.1:{port}",
}


@pytest.fixture
def closed_port():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


@pytest.fixture
def silent_port():
    """Something that accepts connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0), backlog=50) as server:
        yield server.getsockname()[1]


@pytest.mark.parametrize("name", REMOTE)
@pytest.mark.parametrize("port", ["closed_port", "silent_port"])
def test_an_engine_that_is_not_there_is_an_error_in_time(name, port, request):
    url = URLS[name].format(secret=SECRET, port=request.getfixturevalue(port))
    started = time.monotonic()
    with pytest.raises(EngineUnavailable, match=f"{name}: wanted") as caught:
        registry.create(name, BITS, url=url, timeout_s=1)
    assert time.monotonic() - started < 12
    assert SECRET not in str(caught.value)


BAD_OPTIONS = [
    ({}, "wanted the option url"),
    ({"url": 7}, "something else"),
    ({"url": f"mysql://u:{SECRET}@h/d"}, "something else"),
    ({"url": f"http://[{SECRET}"}, "something else|wanted a host"),
    ({"url": None, "timeout_s": 1}, "got none"),
    ({"nprobe": 3}, "got nprobe"),
]


@pytest.mark.parametrize("name", REMOTE)
@pytest.mark.parametrize(("options", "words"), BAD_OPTIONS)
def test_bad_options_of_an_engine(name, options, words):
    with pytest.raises(UnknownOption, match=words) as caught:
        registry.create(name, BITS, **options)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("name", REMOTE)
@pytest.mark.parametrize("timeout_s", [0, -1, 1e9, True, "5", float("nan"), None])
def test_bad_time_limits(name, timeout_s):
    with pytest.raises(UnknownOption, match="timeout_s"):
        registry.create(name, BITS, url=URLS[name].format(secret="x", port=1), timeout_s=timeout_s)


@pytest.mark.parametrize(
    ("name", "url"),
    [
        ("pgvector", f"postgresql://h/db?{SECRET}"),
        ("milvus", f"http://u:{SECRET}@:1"),
        ("milvus", f"http://{SECRET}@h:99999"),
    ],
)
def test_a_url_that_cannot_be_read_is_not_quoted(name, url):
    with pytest.raises(UnknownOption, match="wanted") as caught:
        registry.create(name, BITS, url=url)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(("name", "module"), [("pgvector", "psycopg"), ("milvus", "pymilvus")])
def test_a_missing_client_names_its_extra(name, module, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(Unsupported, match=rf"wanted the client library {module}.*hashguard\[{name}\]"):
        registry.create(name, BITS, url=URLS[name].format(secret="x", port=2), timeout_s=7)


def test_embedded_backends_have_nothing_to_discard(tmp_path):
    (tmp_path / "codes.npy").write_bytes(b"codes")
    registry.discard("faiss", tmp_path)
    assert (tmp_path / "codes.npy").read_bytes() == b"codes"
