"""What searches the codes of one segment: exact Faiss on the CPU or a GPU.

An engine is built once and never changed, so searches need no lock. (Faiss crashes the process when a flat
index is searched beside an `add`.) The inverted-file engine is in `ivf.py`.
"""

import threading
from typing import Any, Protocol

import faiss
import numpy as np
from numpy.typing import NDArray

from index.backends.scan import scan
from index.codes import CodeArray

Distances = NDArray[np.int32]
Rows = NDArray[np.int64]
Found = tuple[Distances, Rows]

GPU_MAX_K = 2048
"""Most neighbours that Faiss's GPU kernels return."""


class Engine(Protocol):
    """A searchable, immutable array of codes."""

    @property
    def codes(self) -> CodeArray:
        """The codes, uint8 (n, B). It may lie in Faiss's memory: it lives as long as the engine."""
        ...

    @property
    def exact(self) -> bool:
        """True when no neighbour can be missed."""
        ...

    def nearest(self, queries: CodeArray, k: int) -> Found:
        """Return distances and rows (q, k) by (distance, row), 1 <= k <= n.

        Missing results, which only an approximate engine has, come last with row -1.
        """
        ...


def one_thread() -> None:
    """Hold Faiss to one OpenMP thread in the calling thread, where the setting lives.

    More never help a single query and wreck its latency on a busy machine (measured: 68-252 ms against 2).
    """
    faiss.omp_set_num_threads(1)


def flat_index(codes: CodeArray) -> Any:  # noqa: ANN401 - Faiss has no types
    """Build an exact Faiss index that returns ties in row order.

    With `use_heap` off, Faiss counts candidates by distance and keeps the first of each in row order; it
    is also the faster way (measured at 1M x 64, k = 10: 0.84 against 1.14 ms).
    """
    index: Any = faiss.IndexBinaryFlat(codes.shape[1] * 8)
    index.use_heap = False
    index.add(codes)
    return index


def stored_codes(index: Any) -> CodeArray:  # noqa: ANN401 - Faiss has no types
    """View the codes inside a flat index, without a copy; the view does not keep the index alive."""
    width = index.d // 8
    view: CodeArray = faiss.rev_swig_ptr(index.xb.data(), index.ntotal * width).reshape(-1, width)
    return view


class FlatEngine:
    """Exact search on the CPU; the codes are kept once, inside Faiss."""

    exact = True

    def __init__(self, codes: CodeArray) -> None:
        """Copy the codes (n > 0 rows) into Faiss."""
        self._index = flat_index(codes)
        self.codes = stored_codes(self._index)

    def nearest(self, queries: CodeArray, k: int) -> Found:
        """See Engine.nearest."""
        one_thread()
        distances, rows = self._index.search(queries, k)
        return distances, rows


class GpuEngine:
    """Exact search on a GPU.

    The GPU leaves the order of ties open and returns at most GPU_MAX_K results, so it is asked for more
    until the last distance exceeds the k-th, and the result is sorted; a query whose ties do not end
    there is answered by a scan of the codes in host memory. Faiss's GPU indexes are not safe for
    threads, hence the lock. Not run on a real GPU yet: the tests drive it with a stand-in.
    """

    exact = True

    def __init__(self, codes: CodeArray, index: Any = None) -> None:  # noqa: ANN401 - Faiss has no types
        """Copy the codes (n > 0 rows) to the first GPU; `index` stands in for the GPU's in tests."""
        self.codes = codes
        self._resources = None
        if index is None:
            self._resources = faiss.StandardGpuResources()
            index = faiss.GpuIndexBinaryFlat(self._resources, flat_index(codes))
        self._index = index
        self._lock = threading.Lock()

    def nearest(self, queries: CodeArray, k: int) -> Found:
        """See Engine.nearest."""
        fetch = min(len(self.codes), GPU_MAX_K, 2 * k + 16)
        found = self._fetch(queries, fetch)
        while self._open_ties(found[0], k) and fetch < min(len(self.codes), GPU_MAX_K):
            fetch = min(len(self.codes), GPU_MAX_K, 4 * fetch)
            found = self._fetch(queries, fetch)
        distances = np.empty((len(queries), k), dtype=np.int32)
        rows = np.empty((len(queries), k), dtype=np.int64)
        for each in range(len(queries)):
            if self._open_ties(found[0][each : each + 1], k):
                distances[each], rows[each] = scan(self.codes, queries[each], k)
                continue
            order = np.lexsort((found[1][each], found[0][each]))[:k]
            distances[each], rows[each] = found[0][each][order], found[1][each][order]
        return distances, rows

    def _fetch(self, queries: CodeArray, k: int) -> Found:
        """Ask the GPU for k neighbours."""
        with self._lock:
            distances, rows = self._index.search(queries, k)
        return distances, rows

    def _open_ties(self, distances: Distances, k: int) -> bool:
        """True when results beyond those fetched might tie with the k-th of some query."""
        fetched = distances.shape[1]
        if fetched == len(self.codes):
            return False
        return fetched <= k or bool((distances[:, -1] == distances[:, k - 1]).any())
