"""What only the Faiss backend has: its options, segments, inverted file and GPU engine."""

from __future__ import annotations

import threading
import time

import faiss
import numpy as np
import pytest

from index import registry
from index.backends import layout
from index.backends.engines import GPU_MAX_K, FlatEngine, GpuEngine
from index.backends.faiss_index import FaissIndex
from index.backends.ivf import IvfEngine, assign, suggested_lists, train
from index.backends.layout import FaissOptions, build_segment
from index.backends.memory import MemoryIndex
from index.backends.scan import scan
from index.backends.segment import Segment
from index.codes import hamming
from index.core import Hit, SearchOptions
from index.errors import UnknownOption, Unsupported
from index.ids import IdTable, keys_of


def nearest(codes, query, k):
    """The k nearest rows by (distance, row), from the definition."""
    distances = hamming(query[None], codes)[0]
    order = np.argsort(distances, kind="stable")[:k]
    return distances[order], order


def random_codes(count, width=2, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, width), dtype=np.uint8)


BAD_OPTIONS = [
    ({"speed": 1}, "speed"),
    ({"ivf_from": 0}, "ivf_from"),
    ({"ivf_from": 1.5}, "ivf_from"),
    ({"lists": True}, "lists"),
    ({"nprobe": 0}, "nprobe"),
    ({"nprobe": "some"}, "nprobe"),
    ({"nprobe": None}, "nprobe"),
    ({"segment_rows": -1}, "segment_rows"),
    ({"device": "tpu"}, "device"),
]


@pytest.mark.parametrize(("options", "words"), BAD_OPTIONS)
def test_bad_options_are_refused(options, words):
    with pytest.raises(UnknownOption, match=words):
        registry.create("faiss", 64, **options)


def test_unknown_backend_and_oracle_options():
    with pytest.raises(UnknownOption, match="memory, faiss, faiss-ivf, auto, pgvector, milvus, got 'abacus'"):
        registry.create("abacus", 64)
    with pytest.raises(UnknownOption, match="no options"):
        registry.create("memory", 64, nprobe=3)


def test_a_gpu_that_is_not_there_is_refused(monkeypatch):
    monkeypatch.setattr(faiss, "get_num_gpus", lambda: 0)
    with pytest.raises(Unsupported, match="no GPU"):
        registry.create("faiss", 64, device="gpu")


# --- segments -------------------------------------------------------------------------------------------


def test_single_adds_stay_in_few_segments():
    index = FaissIndex(16)
    for number in range(300):
        index.add([f"{number:04d}"], random_codes(1, seed=number))
    assert len(index._segments) == 1


def test_bulk_adds_stay_in_few_segments_of_bounded_size():
    index = FaissIndex(16, segment_rows=50_000)
    for start in range(0, 120_000, 10_000):
        index.add([f"{n:06d}" for n in range(start, start + 10_000)], random_codes(10_000, seed=start))
    sizes = [len(segment.ids) for segment in index._segments]
    assert sum(sizes) == 120_000
    assert len(sizes) <= 4
    assert max(sizes) <= 50_000


def test_one_large_add_is_cut_into_pieces(monkeypatch):
    monkeypatch.setattr("index.backends.faiss_index._ADD_ROWS", 700)
    index, oracle = FaissIndex(16), MemoryIndex(16)
    ids, codes = [f"{n * 7919 % 5000}" for n in range(5000)], random_codes(5000)
    for each in (index, oracle):
        each.add(ids, codes)
    assert index.search(codes[:3], SearchOptions(50)) == oracle.search(codes[:3], SearchOptions(50))


def test_large_batches_are_searched_in_blocks(monkeypatch):
    index = FaissIndex(16)
    index.add([str(n) for n in range(500)], random_codes(500))
    whole = index.search(random_codes(20, seed=1), SearchOptions(10))
    monkeypatch.setattr("index.backends.faiss_index._RESULTS", 30)
    assert index.search(random_codes(20, seed=1), SearchOptions(10)) == whole


def test_dead_rows_are_cleared_away():
    index = FaissIndex(16)
    ids = [f"{n:05d}" for n in range(4000)]
    index.add(ids, random_codes(4000))
    index.remove(ids[:200])
    assert [len(s.dead) for s in index._segments] == [200]
    index.remove(ids[200:400])
    assert [(len(s.ids), len(s.dead)) for s in index._segments] == [(3600, 0)]


def test_removing_what_is_gone_changes_nothing():
    index = FaissIndex(16)
    index.add(["a", "b"], random_codes(2))
    assert index.remove(["a"]) == 1
    segments = index._segments
    assert index.remove(["a", "c"]) == 0
    assert index._segments[0] is segments[0]
    assert "a" not in index


def test_merging_passes_over_ranges_where_all_is_dead(monkeypatch):
    monkeypatch.setattr("index.backends.segment._PART_ROWS", 4)
    index = FaissIndex(16)
    ids = [f"{n:03d}" for n in range(60)]
    index.add(ids, random_codes(60))
    index.remove(ids[10:30])
    kept = [*ids[:10], *ids[30:]]
    assert list(index.codes()[0]) == kept
    assert np.array_equal(index.codes()[1], random_codes(60)[[*range(10), *range(30, 60)]])


def test_deep_pages_go_over_to_a_scan(monkeypatch):
    ids, codes = [f"{n:06d}" for n in range(9000)], random_codes(9000)
    index, oracle = FaissIndex(16), MemoryIndex(16)
    for each in (index, oracle):
        each.add(ids, codes)
        each.remove(ids[::40])
    scans = []
    monkeypatch.setattr("index.backends.segment.scan", lambda *args: scans.append(1) or scan(*args))
    for distance in (2, 4, 8, 15):
        options = SearchOptions(20, after=Hit("005000", distance))
        assert index.search(codes[:1], options) == oracle.search(codes[:1], options)
    assert scans


def test_scan_is_the_definition_over_several_blocks(monkeypatch):
    monkeypatch.setattr("index.backends.scan._BLOCK", 100)
    codes, query = random_codes(950), random_codes(1, seed=1)[0]
    for k in (1, 10, 2000):
        for got, wanted in zip(scan(codes, query, k), nearest(codes, query, k), strict=True):
            assert np.array_equal(got, wanted)
    rows = np.arange(0, 950, 7)
    distances, found = scan(codes, query, 5, rows, lambda d, r: r > 300)
    wanted = nearest(codes[301:][rows[rows > 300] - 301], query, 5)
    assert np.array_equal(distances, wanted[0])
    assert np.array_equal(found, rows[rows > 300][wanted[1]])


def test_a_writer_gets_through_while_readers_search_all_the_time():
    index = FaissIndex(64)
    index.add([str(n) for n in range(20_000)], random_codes(20_000, 8))
    stop, queries = threading.Event(), random_codes(1, 8, seed=1)

    def read():
        while not stop.is_set():
            index.search(queries, SearchOptions(10))

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    started = time.monotonic()
    for number in range(30):
        index.add([f"new{number}"], queries)
    took = time.monotonic() - started
    stop.set()
    for thread in threads:
        thread.join(30)
    assert took < 20
    assert len(index.search(queries, SearchOptions(100, max_distance=0))[0]) >= 30


def test_a_search_keeps_the_state_it_began_with(monkeypatch):
    """Everything is removed in the middle of a search over two segments; it still sees both."""
    index = FaissIndex(16, segment_rows=10)
    index.add([f"a{n}" for n in range(10)], random_codes(10))
    index.add([f"b{n}" for n in range(10)], random_codes(10))
    assert len(index._segments) == 2
    original = Segment.search

    def slow(self, *args):
        monkeypatch.setattr(Segment, "search", original)
        index.remove([f"{side}{n}" for side in "ab" for n in range(10)])
        return original(self, *args)

    monkeypatch.setattr(Segment, "search", slow)
    assert len(index.search(random_codes(1), SearchOptions(20))[0]) == 20
    assert len(index.search(random_codes(1), SearchOptions(20))[0]) == 0


# --- the inverted file ----------------------------------------------------------------------------------


def clustered(count, seed=0):
    rng = np.random.default_rng(seed)
    centres = rng.integers(0, 256, (50, 8), dtype=np.uint8)
    noise = np.packbits(rng.random((count, 64)) < 0.06, axis=1)
    return centres[rng.integers(0, 50, count)] ^ noise


@pytest.mark.parametrize(("count", "lists"), [(0, 1), (1, 1), (100, 8), (10_000, 128), (1_000_000, 1024)])
def test_suggested_lists(count, lists):
    assert suggested_lists(count) == lists


def test_training_is_repeatable_and_assignment_is_to_the_nearest():
    codes = clustered(3000)
    centroids = train(codes, 32)
    assert centroids.shape == (32, 8)
    assert np.array_equal(train(codes, 32), centroids)
    distances = hamming(codes, centroids)
    assert np.array_equal(distances[np.arange(3000), assign(centroids, codes)], distances.min(axis=1))


def test_an_inverted_file_is_approximate_and_says_so():
    ids, codes = [f"{n:05d}" for n in range(20_000)], clustered(20_000)
    index, oracle = FaissIndex(64, ivf_from=5000, nprobe=4), MemoryIndex(64)
    index.add(ids[:4000], codes[:4000])
    assert index.exact
    index.add(ids[4000:], codes[4000:])
    assert not index.exact
    oracle.add(ids, codes)
    queries = clustered(60, seed=0)[:20]
    wanted = oracle.search(queries, SearchOptions(10))
    reached = sum(
        hit.distance <= w[-1].distance
        for hits, w in zip(index.search(queries, SearchOptions(10)), wanted, strict=True)
        for hit in hits
    )
    assert reached / 200 >= 0.95
    # A filter is answered exactly, and what is found is in the contract's order.
    assert index.search(queries, SearchOptions(10), allow=ids[::3]) == oracle.search(
        queries, SearchOptions(10), allow=ids[::3]
    )
    for hits in index.search(queries, SearchOptions(300)):
        assert hits == sorted(hits, key=lambda hit: (hit.distance, hit.id))


def test_lists_that_hold_too_few_give_fewer_hits():
    codes = clustered(5000)
    index = FaissIndex(64, ivf_from=100, nprobe=1, lists=64)
    index.add([f"{n:05d}" for n in range(5000)], codes)
    hits = index.search(codes[:2], SearchOptions(4000))
    assert all(0 < len(each) < 4000 for each in hits)
    after = SearchOptions(4000, after=hits[0][-1])
    assert index.search(codes[:1], after) == [[]]


def test_the_inverted_file_takes_in_what_came_beside_it(monkeypatch):
    trained = []
    monkeypatch.setattr(layout, "train", lambda codes, n: trained.append(n) or train(codes, n))
    index = FaissIndex(64, ivf_from=1000, nprobe="all")
    sizes = []
    for start in range(0, 6000, 250):
        index.add([f"{n:05d}" for n in range(start, start + 250)], clustered(250, seed=start))
        sizes.append([isinstance(s.engine, IvfEngine) for s in index._segments])
    assert sizes[2] == [False]
    assert sizes[3] == [True]
    assert [True, False] in sizes
    assert max(len(each) for each in sizes) == 2
    assert trained == [32, 64]  # again only when twice the lists are due
    assert index.exact
    assert len(index) == 6000


def test_an_inverted_file_is_cleared_of_dead_rows_and_shrinks():
    ids, codes = [f"{n:05d}" for n in range(2000)], clustered(2000)
    index, oracle = FaissIndex(64, ivf_from=1000, nprobe="all", lists=64), MemoryIndex(64)
    for each in (index, oracle):
        each.add(ids, codes)
        each.remove(ids[:500])
        each.remove(ids[500:1960])
    assert isinstance(index._segments[0].engine, IvfEngine)
    assert len(index._segments[0].engine.centroids) == 40
    assert index.search(codes[:9], SearchOptions(50)) == oracle.search(codes[:9], SearchOptions(50))


def test_saved_lists_are_used_again(tmp_path, monkeypatch):
    index = FaissIndex(64, ivf_from=1000, nprobe=2)
    ids = [f"{n:05d}" for n in range(1300)]
    index.add(ids[:1200], clustered(1200))
    index.add(ids[1200:], clustered(100, seed=1))
    index.save(tmp_path / "saved")
    monkeypatch.setattr(layout, "train", lambda *_: pytest.fail("trained again"))
    read = FaissIndex.load(tmp_path / "saved", 64, ivf_from=1000, nprobe=2)
    assert [len(s.ids) for s in read._segments] == [1300]
    assert not read.exact
    flat = FaissIndex.load(tmp_path / "saved", 64)
    assert flat.exact
    assert len(flat) == 1300


# --- engines --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [2, 3, 8, 17, 32])
@pytest.mark.parametrize("k", [1, 9, 500])
def test_faiss_orders_ties_by_row(width, k):
    """The flat engine relies on this undocumented habit of Faiss; an upgrade that breaks it fails here."""
    codes = np.repeat(random_codes(70, width), 9, axis=0)[np.random.default_rng(1).permutation(630)]
    engine = FlatEngine(codes)
    queries = random_codes(40, width, seed=2)
    distances, rows = engine.nearest(queries, k)
    for each, query in enumerate(queries):
        wanted = nearest(codes, query, k)
        assert np.array_equal(distances[each], wanted[0])
        assert np.array_equal(rows[each], wanted[1])


class FakeGpu:
    """Stands in for faiss.GpuIndexBinaryFlat: right distances, ties in any order, at most GPU_MAX_K."""

    def __init__(self, codes, seed=0):
        self.codes, self.rng, self.asked = codes, np.random.default_rng(seed), []

    def search(self, queries, k):
        assert k <= GPU_MAX_K
        self.asked.append(k)
        distances = hamming(queries, self.codes)
        order = np.stack([np.lexsort((self.rng.random(len(self.codes)), row)) for row in distances])[:, :k]
        return np.take_along_axis(distances, order, axis=1), order


@pytest.mark.parametrize(("count", "k"), [(50, 3), (50, 50), (3000, 5), (3000, 700), (3000, 2500)])
def test_the_gpu_engine_orders_what_the_gpu_leaves_open(count, k):
    codes, queries = random_codes(count), random_codes(5, seed=1)
    engine = GpuEngine(codes, FakeGpu(codes))
    distances, rows = engine.nearest(queries, k)
    for each, query in enumerate(queries):
        wanted = nearest(codes, query, k)
        assert np.array_equal(distances[each], wanted[0])
        assert np.array_equal(rows[each], wanted[1])


def test_the_gpu_engine_answers_endless_ties_by_a_scan():
    codes = np.zeros((5000, 2), dtype=np.uint8)
    gpu = FakeGpu(codes)
    distances, rows = GpuEngine(codes, gpu).nearest(codes[:1], 10)
    assert rows.tolist() == [list(range(10))]
    assert not distances.any()
    assert gpu.asked[-1] == GPU_MAX_K


def test_segments_go_to_the_gpu_when_there_is_one(monkeypatch):
    """With stand-ins for Faiss's GPU classes: large segments are searched there, small ones are not."""
    monkeypatch.setattr(faiss, "get_num_gpus", lambda: 1)
    monkeypatch.setattr(faiss, "StandardGpuResources", lambda: "resources", raising=False)
    made = []

    def gpu_index(resources, flat):
        codes = faiss.vector_to_array(flat.xb).reshape(flat.ntotal, -1)
        made.append((resources, flat.ntotal))
        return FakeGpu(codes)

    monkeypatch.setattr(faiss, "GpuIndexBinaryFlat", gpu_index, raising=False)
    ids, codes = [f"{n:05d}" for n in range(9000)], random_codes(9000)
    index, oracle = FaissIndex(16, device="gpu"), MemoryIndex(16)
    for each in (index, oracle):
        each.add(ids, codes)
        each.remove(ids[:9])
    assert made == [("resources", 9000)]
    for options in (SearchOptions(20), SearchOptions(20, after=Hit("00500", 4))):
        assert index.search(codes[:3], options) == oracle.search(codes[:3], options)
    small = build_segment(IdTable.from_keys([keys_of(["a"])]), codes[:1], FaissOptions(device="auto"))
    assert isinstance(small.engine, FlatEngine)
    cpu = build_segment(IdTable.from_keys([keys_of(ids)]), codes, FaissOptions(device="cpu"))
    assert isinstance(cpu.engine, FlatEngine)
