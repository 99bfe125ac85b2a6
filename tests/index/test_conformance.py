"""All registered backends give the oracle's hits: same ids, same distances, same order."""

from __future__ import annotations

import itertools
import threading

import numpy as np
import pytest
from index_cases import CASES, REMOTE, params

from index import registry
from index.backends.ivf import IvfEngine
from index.backends.memory import MemoryIndex
from index.codes import hamming
from index.core import MAX_K, Hit, SearchOptions
from index.errors import BadCodes, BadId, BadOptions, CorruptIndex, DuplicateId
from index.ids import IdTable, keys_of

N = 10_000
EVERY_BITS = (16, 64)


@pytest.fixture(scope="module", params=EVERY_BITS)
def pair(request, rival, corpus):
    """The backend and the oracle with the same 10,000 items, added in several calls, some twice."""
    bits = request.param
    ids, codes = corpus(N, bits, seed=bits)
    index, oracle = rival.create(bits), MemoryIndex(bits)
    for start in range(0, N, 1700):
        index.add(ids[start : start + 1700], codes[start : start + 1700])
    oracle.add(ids, codes)
    changed = ids[100:900]
    index.add(changed, codes[:800])
    oracle.add(changed, codes[:800])
    gone = [*ids[3000:3700], "nobody", "", "x\0y", "\ud800"]
    assert index.remove(gone) == oracle.remove(gone) == 700
    return index, oracle


def test_the_oracle_is_the_definition(corpus):
    """The oracle against plain Python: no NumPy, no shared code but the value types."""
    ids, codes = corpus(300, 16, seed=9)
    oracle = MemoryIndex(16)
    oracle.add(ids, codes)
    allow, after = set(ids[::2]), Hit(ids[7], 5)
    assert all(each in oracle for each in ids)
    assert "nobody" not in oracle
    for query in codes[:20]:
        numbers = [int.from_bytes(code.tobytes()) ^ int.from_bytes(query.tobytes()) for code in codes]
        ranked = sorted((n.bit_count(), each.encode()) for n, each in zip(numbers, ids, strict=True))
        every = [Hit(each.decode(), distance) for distance, each in ranked]
        later = [h for h in every if (h.distance, h.id.encode()) > (after.distance, after.id.encode())]
        cases = [
            (SearchOptions(300), None, every),
            (SearchOptions(7), None, every[:7]),
            (SearchOptions(300, max_distance=4), None, [h for h in every if h.distance <= 4]),
            (SearchOptions(9, after=after), None, later[:9]),
            (SearchOptions(9), allow, [h for h in every if h.id in allow][:9]),
        ]
        for options, allowed, wanted in cases:
            assert oracle.search(query[None], options, allow=allowed) == [wanted]


def queries_of(oracle, count=4, seed=1):
    """Some stored codes (distance 0, many ties) and some random ones."""
    rng = np.random.default_rng(seed)
    _, codes = oracle.codes()
    stored = codes[rng.integers(0, len(codes), count)]
    return np.concatenate([stored, rng.integers(0, 256, (count, oracle.bits // 8), dtype=np.uint8)])


def test_size_and_membership(pair):
    index, oracle = pair
    ids, _ = oracle.codes()
    assert len(index) == len(oracle) == N - 700
    assert all(each in index for each in ids[::97])
    assert "nobody" not in index
    assert "" not in index
    assert 7 not in index
    assert "\ud800" not in index
    assert index.exact


@pytest.mark.parametrize("k", [1, 10, 137, 1000])
def test_plain_search(pair, k):
    index, oracle = pair
    queries = queries_of(oracle)
    assert index.search(queries, SearchOptions(k)) == oracle.search(queries, SearchOptions(k))


def test_order_is_distance_then_utf8_bytes(pair):
    index, oracle = pair
    for hits in index.search(queries_of(oracle), SearchOptions(500)):
        keys = [(hit.distance, hit.id.encode()) for hit in hits]
        assert keys == sorted(keys)


def test_distances_are_hamming(pair):
    index, oracle = pair
    ids, codes = oracle.codes()
    at = {each: row for row, each in enumerate(ids)}
    query = queries_of(oracle)[:1]
    for hit in index.search(query, SearchOptions(50))[0]:
        assert hit.distance == hamming(query, codes[[at[hit.id]]])[0, 0]


def test_batch_equals_single(pair):
    index, oracle = pair
    queries, options = queries_of(oracle, 6), SearchOptions(33)
    singles = [index.search(queries[i : i + 1], options)[0] for i in range(len(queries))]
    assert index.search(queries, options) == singles
    assert index.search(queries[:0], options) == []


@pytest.mark.parametrize("limit", [0, 1, 5, 20, 999])
def test_max_distance(pair, limit):
    index, oracle = pair
    queries, options = queries_of(oracle), SearchOptions(50, max_distance=limit)
    assert index.search(queries, options) == oracle.search(queries, options)


@pytest.mark.parametrize("share", [1, 30, 100_000])
def test_filter(pair, share):
    index, oracle = pair
    ids, _ = oracle.codes()
    allow = [*ids[::share], "nobody", "x" * 500, "\ud800"]
    for options in (SearchOptions(20), SearchOptions(20, max_distance=9), SearchOptions(MAX_K)):
        queries = queries_of(oracle, 2)
        assert index.search(queries, options, allow=allow) == oracle.search(queries, options, allow=allow)


@pytest.fixture(scope="module")
def uniform(rival):
    """10,000 uniform random codes, one in ten a copy of another, as ready codes come: sorted, in one call."""
    rng = np.random.default_rng(20_261_124)
    codes = rng.integers(0, 256, (N, 8), dtype=np.uint8)
    codes[::10] = codes[rng.permutation(N)[: N // 10]]
    table = IdTable.from_keys([keys_of([f"u-{number:05}" for number in range(N)])])
    index, oracle = rival.create(64), MemoryIndex(64)
    for each in (index, oracle):
        each.add(table, codes)
    return index, oracle, np.concatenate([codes[::1250], rng.integers(0, 256, (8, 8), dtype=np.uint8)])


def test_ten_thousand_random_codes_with_ties_and_filters(uniform):
    """What an inverted file finds worst: it is exact here because it opens all lists (nprobe "all")."""
    index, oracle, queries = uniform
    assert index.exact
    assert len(index) == N
    allow = [f"u-{number:05}" for number in range(0, N, 7)]
    for options in (SearchOptions(1), SearchOptions(100), SearchOptions(1000), SearchOptions(50, 24)):
        for allowed in (None, allow):
            found = index.search(queries, options, allow=allowed)
            assert found == oracle.search(queries, options, allow=allowed)
    for query in queries[:2]:
        assert walk(index, query[None], 60, 3, allow) == walk(oracle, query[None], 60, 3, allow)


def test_the_inverted_file_of_these_cases_is_one(corpus):
    """So what the case `faiss-ivf` proves is proven of an inverted file that opens all its lists."""
    name, options = CASES["faiss-ivf"]
    index = registry.create(name, 64, **options)
    index.add(*corpus(N, 64, seed=12))
    [segment] = index._segments
    assert isinstance(segment.engine, IvfEngine)
    assert (len(segment.engine.centroids), segment.engine.exact) == (16, True)


def test_filter_that_allows_nothing(pair):
    index, oracle = pair
    assert index.search(queries_of(oracle, 1), SearchOptions(5), allow=[]) == [[], []]
    assert index.search(queries_of(oracle, 1), SearchOptions(5), allow={"nobody"}) == [[], []]


def walk(index, query, size, pages, allow=None):
    """Hits of the first pages, each page continued from the last hit of the one before."""
    hits, after = [], None
    for _ in range(pages):
        page = index.search(query, SearchOptions(size, after=after), allow=allow)[0]
        hits += page
        if not page:
            break
        after = page[-1]
    return hits


@pytest.mark.parametrize("size", [1, 7, 100])
def test_pages_join_to_one_list(pair, size):
    index, oracle = pair
    for query in queries_of(oracle, 1):
        one = index.search(query[None], SearchOptions(size * 8))[0]
        assert walk(index, query[None], size, 8) == one


def test_pages_reach_the_end(pair):
    index, oracle = pair
    query = queries_of(oracle, 1)[:1]
    hits = walk(index, query, 4000, 9)
    assert hits == oracle.search(query, SearchOptions(MAX_K))[0]
    assert len(hits) == len(oracle)


def test_pages_with_a_filter(pair):
    index, oracle = pair
    ids, _ = oracle.codes()
    query = queries_of(oracle, 1)[:1]
    assert walk(index, query, 9, 5, ids[::3]) == oracle.search(query, SearchOptions(45), allow=ids[::3])[0]


@pytest.mark.parametrize("last", ["", "zzz", "\ud800", "a\0b", "é" * 300])
def test_page_after_an_id_that_is_not_there(pair, last):
    index, oracle = pair
    query = queries_of(oracle, 1)
    for distance in (0, 3, 8, 500):
        options = SearchOptions(15, after=Hit(last, distance))
        assert index.search(query, options) == oracle.search(query, options)


def test_more_than_there_is(pair):
    index, oracle = pair
    query = queries_of(oracle, 1)[:1]
    hits = index.search(query, SearchOptions(MAX_K))[0]
    assert len(hits) == len(oracle)
    assert hits == oracle.search(query, SearchOptions(MAX_K))[0]


def test_export_is_in_id_order(pair):
    index, oracle = pair
    (ids, codes), (wanted, wanted_codes) = index.codes(), oracle.codes()
    assert list(ids) == list(wanted)
    assert np.array_equal(codes, wanted_codes)


READERS = {name: {"nprobe": "all"} if name in {"faiss-ivf", "auto"} else {} for name in registry.BACKENDS}


def save_all_but_some(index, corpus, folder):
    """Fill an index and the oracle, take some items out, save the index; the oracle."""
    ids, codes = corpus(6000, 136, seed=3)
    oracle = MemoryIndex(136)
    for writer in (index, oracle):
        writer.add(ids, codes)
        writer.remove(ids[:40])
    index.save(folder)
    return oracle


def assert_same(index, oracle):
    queries = oracle.codes()[1][:3]
    assert len(index) == len(oracle)
    assert index.search(queries, SearchOptions(40)) == oracle.search(queries, SearchOptions(40))


@pytest.mark.parametrize("reader", sorted(set(READERS) - set(REMOTE)))
@pytest.mark.parametrize("writer", sorted(set(CASES) - set(REMOTE)))
def test_saved_by_one_read_by_all(writer, reader, corpus, tmp_path):
    name, options = CASES[writer]
    oracle = save_all_but_some(registry.create(name, 136, **options), corpus, tmp_path / "saved")
    assert_same(registry.load(reader, tmp_path / "saved", 136, **READERS[reader]), oracle)


@pytest.mark.parametrize("reader", params(REMOTE))
def test_saved_codes_are_put_into_an_engine(reader, connect, corpus, tmp_path):
    oracle = save_all_but_some(registry.create("faiss", 136), corpus, tmp_path / "saved")
    assert_same(registry.load(reader, tmp_path / "saved", 136, **connect(reader)), oracle)


@pytest.mark.parametrize("writer", params(REMOTE))
def test_a_reference_leads_its_backend_back_and_tells_the_others(writer, connect, corpus, tmp_path):
    oracle = save_all_but_some(registry.create(writer, 136, **connect(writer)), corpus, tmp_path / "saved")
    assert [each.name for each in (tmp_path / "saved").iterdir()] == ["index.json"]
    assert_same(registry.load(writer, tmp_path / "saved", 136, **connect(writer)), oracle)
    for reader in sorted(set(READERS) - set(REMOTE)):
        with pytest.raises(CorruptIndex, match=f"reference to '{writer}': export"):
            registry.load(reader, tmp_path / "saved", 136)


def test_a_read_index_goes_on_changing(case, corpus, tmp_path):
    ids, codes = corpus(900, 32, seed=5)
    index, oracle = case.create(32), MemoryIndex(32)
    index.add(ids[:600], codes[:600])
    index.save(tmp_path / "saved")
    index = case.load(tmp_path / "saved", 32)
    index.add(ids[500:], codes[500:])
    oracle.add(ids, codes)
    assert index.remove(ids[:50]) == oracle.remove(ids[:50])
    assert index.search(codes[:9], SearchOptions(77)) == oracle.search(codes[:9], SearchOptions(77))


def test_empty_index(case, tmp_path):
    index = case.create(64)
    query = np.zeros((2, 8), dtype=np.uint8)
    assert len(index) == 0
    assert index.exact
    assert index.search(query, SearchOptions(5)) == [[], []]
    assert index.search(query, SearchOptions(5, after=Hit("a", 3)), allow=["a"]) == [[], []]
    assert index.remove(["a"]) == 0
    index.add([], np.zeros((0, 8), dtype=np.uint8))
    ids, codes = index.codes()
    assert (list(ids), codes.shape) == ([], (0, 8))
    index.save(tmp_path / "saved")
    assert len(case.load(tmp_path / "saved", 64)) == 0


def test_emptied_index(case, corpus):
    ids, codes = corpus(400, 64, seed=2)
    index = case.create(64)
    index.add(ids, codes)
    assert index.remove(ids) == 400
    assert index.search(codes[:1], SearchOptions(5)) == [[]]
    index.add(ids[:1], codes[:1])
    assert index.search(codes[:1], SearchOptions(5)) == [[Hit(ids[0], 0)]]


def test_one_item_at_a_time(case, corpus):
    ids, codes = corpus(50 if case.name in REMOTE else 150, 16, seed=8)
    index, oracle = case.create(16), MemoryIndex(16)
    for number, (each, code) in enumerate(zip(ids, codes, strict=True)):
        index.add([each], code[None])
        oracle.add([each], code[None])
        if number % 3 == 0:
            assert index.remove([ids[number // 2]]) == oracle.remove([ids[number // 2]])
        assert index.search(code[None], SearchOptions(200)) == oracle.search(code[None], SearchOptions(200))


BAD_CALLS = [
    (["a", "b", "a"], np.zeros((3, 8), np.uint8), DuplicateId, "'a' twice"),
    (["a", ""], np.zeros((2, 8), np.uint8), BadId, "got ''"),
    (["a", "x" * 201], np.zeros((2, 8), np.uint8), BadId, "1 to 200"),
    (["a", "b\0"], np.zeros((2, 8), np.uint8), BadId, "NUL"),
    (["a", "\ud800"], np.zeros((2, 8), np.uint8), BadId, "UTF-8"),
    (["a", 7], np.zeros((2, 8), np.uint8), BadId, "got 7"),
    (["a"], np.zeros((1, 7), np.uint8), BadCodes, r"\(n, 8\)"),
    (["a"], np.zeros((1, 9), np.uint8), BadCodes, r"\(n, 8\)"),
    (["a"], np.zeros(8, np.uint8), BadCodes, "shape"),
    (["a"], np.zeros((1, 8), np.int8), BadCodes, "uint8"),
    (["a"], [[0] * 8], BadCodes, "list"),
    (["a"], np.zeros((2, 8), np.uint8), BadCodes, "one row for each of 1"),
]


@pytest.fixture(scope="module")
def lone(case):
    """An index of one item, for what must not change it."""
    index = case.create(64)
    index.add(["a"], np.full((1, 8), 255, dtype=np.uint8))
    return index


@pytest.mark.parametrize(("ids", "codes", "error", "words"), BAD_CALLS)
def test_a_refused_add_changes_nothing(lone, ids, codes, error, words):
    with pytest.raises(error, match=words):
        lone.add(ids, codes)
    assert lone.search(np.full((1, 8), 255, dtype=np.uint8), SearchOptions(5)) == [[Hit("a", 0)]]


@pytest.mark.parametrize("shape", [(1, 7), (1, 16), (8,), (1, 8, 1)])
def test_bad_queries_never_reach_the_engine(lone, shape):
    with pytest.raises(BadCodes, match=r"\(n, 8\)"):
        lone.search(np.zeros(shape, dtype=np.uint8), SearchOptions(1))


@pytest.mark.parametrize("bits", [0, 8, 15, 20, 264, -16, 64.0, True, "64"])
def test_bad_width(case, bits):
    with pytest.raises(BadCodes, match="multiple of 8 from 16 to 256"):
        case.create(bits)


@pytest.mark.parametrize(
    "values",
    [{"k": 0}, {"k": -1}, {"k": MAX_K + 1}, {"k": True}, {"k": 1.0}]
    + [{"k": 1, "max_distance": v} for v in (-1, 1.5, False)]
    + [{"k": 1, "after": Hit("a", v)} for v in (-1, None, True)],
)
def test_bad_options(values):
    with pytest.raises(BadOptions, match="wanted"):
        SearchOptions(**values)


def test_searches_beside_changes_see_whole_calls(case, corpus):
    """A pair is added and removed in single calls: a search sees both or neither, and never an error."""
    ids, codes = corpus(3000, 64, seed=4)
    index = case.create(64)
    index.add(ids, codes)
    target = np.full((1, 8), 0xA5, dtype=np.uint8)
    twins, stop, faults, searches = ["twin-a", "twin-b"], threading.Event(), [], itertools.count()

    def read():
        while not stop.is_set():
            found = {hit.id for hit in index.search(target, SearchOptions(20))[0] if hit.distance == 0}
            filtered = index.search(target, SearchOptions(20), allow=[*twins, ids[0]])[0]
            if found not in (set(), set(twins)) or len(filtered) not in (1, 3):
                faults.append((found, filtered))
            next(searches)

    def guarded():
        try:
            read()
        except Exception as error:
            faults.append(error)

    threads = [threading.Thread(target=guarded) for _ in range(3)]
    for thread in threads:
        thread.start()
    for turn in range(25):
        index.add(twins, np.repeat(target, 2, axis=0))
        index.add(ids[turn * 50 : turn * 50 + 50], codes[turn * 50 : turn * 50 + 50])
        assert index.remove(twins) == 2
    stop.set()
    for thread in threads:
        thread.join(30)
    assert not faults
    assert next(searches) > 0
    assert len(index) == 3000


def test_writers_beside_each_other(case):
    index = case.create(32)

    def write(name):
        for turn in range(20):
            index.add([f"{name}-{turn}-{i}" for i in range(5)], np.full((5, 4), turn, dtype=np.uint8))
        index.remove([f"{name}-{turn}-0" for turn in range(20)])

    threads = [threading.Thread(target=write, args=(name,)) for name in "abc"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(index) == 3 * 20 * 4
