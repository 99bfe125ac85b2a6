"""A segment: some items in id order with an engine over their codes and a list of rows that are dead.

Nothing in a segment changes. Deleting makes a new segment that shares the arrays and has more dead rows;
inserting makes a new segment beside the others; now and then segments are merged into one. So a search
works on a tuple of segments without a lock, and a writer never waits for a reader.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from index.backends.engines import Engine, Found, Rows
from index.backends.ivf import IvfEngine
from index.backends.scan import scan
from index.codes import CodeArray
from index.core import Hit
from index.ids import IdTable, Keys

_PART_ROWS = 16384  # about how many rows are merged at once
_DEEP = 4096  # results fetched from an engine before a scan is the better way


def _no_rows() -> Rows:
    return np.zeros(0, dtype=np.int64)


@dataclass(frozen=True, eq=False)
class Segment:
    """ids: n > 0 rows; engine: over their n codes; dead: ascending rows that are no items any more."""

    ids: IdTable
    engine: Engine
    dead: Rows = field(default_factory=_no_rows)

    @property
    def alive(self) -> int:
        """Number of items."""
        return len(self.ids) - len(self.dead)

    def has(self, key: bytes) -> bool:
        """True when an item has this id."""
        row = self.ids.row(key)
        return row >= 0 and not bool(self._is_dead(np.array([row]))[0])

    def without(self, keys: Keys) -> "Segment":
        """Return the segment without the items of these sorted ids; itself when it has none of them."""
        dead = np.union1d(self.dead, self.ids.rows(keys))
        return self if len(dead) == len(self.dead) else replace(self, dead=dead)

    def search(self, queries: CodeArray, k: int, after: Hit | None, allow: Keys | None) -> list[Found]:
        """Return for each query up to k (distances, rows) by (distance, row), after `after`.

        allow: sorted ids that may be results; the answer is then exact whatever the engine.
        """
        start = self._start(after)
        if allow is None:
            return self._nearest(queries, k, start)
        rows = np.setdiff1d(self.ids.rows(allow), self.dead, assume_unique=True)
        codes = self.engine.codes
        return [scan(codes, query, k, rows, lambda d, r: _behind(d, r, start)) for query in queries]

    def _nearest(self, queries: CodeArray, k: int, start: tuple[int, int] | None) -> list[Found]:
        """Fetch from the engine until k results that count are there, or scan when that goes deep."""
        size = len(self.ids)
        spare = min(len(self.dead), k + 16) + (k if start else 0)
        fetch = min(size, k + spare)
        while True:
            distances, rows = self.engine.nearest(queries, fetch)
            if not spare and self.engine.exact:  # the common case: nothing to leave out
                return list(zip(distances, rows, strict=True))
            counts = self._counts(distances, rows, start)
            if fetch == size or bool(((counts.sum(axis=1) >= k) | (rows[:, -1] < 0)).all()):
                break
            if fetch >= max(_DEEP, 2 * k):
                codes = self.engine.codes
                return [
                    scan(codes, query, k, None, lambda d, r: self._counts(d, r, start)) for query in queries
                ]
            fetch = min(size, 4 * fetch)
        return [
            (found[mask][:k], at[mask][:k]) for found, at, mask in zip(distances, rows, counts, strict=True)
        ]

    def _start(self, after: Hit | None) -> tuple[int, int] | None:
        """Translate a page's start to (distance, first row that counts at this distance)."""
        if after is None:
            return None
        return after.distance, self.ids.bisect(after.id.encode(errors="surrogatepass"), right=True)

    def _counts(
        self, distances: NDArray[np.int32], rows: Rows, start: tuple[int, int] | None
    ) -> NDArray[np.bool_]:
        """Which results are there, alive, and behind the page's start."""
        return (rows >= 0) & ~self._is_dead(rows) & _behind(distances, rows, start)

    def _is_dead(self, rows: Rows) -> NDArray[np.bool_]:
        """Which of the rows are dead, by binary search."""
        if not len(self.dead):
            return np.zeros(rows.shape, dtype=bool)
        place = np.minimum(np.searchsorted(self.dead, rows), len(self.dead) - 1)
        return np.equal(self.dead[place], rows)


def _behind(distances: NDArray[np.int32], rows: Rows, start: tuple[int, int] | None) -> NDArray[np.bool_]:
    """Which results lie behind the page's start."""
    if start is None:
        return np.ones(rows.shape, dtype=bool)
    return np.asarray((distances > start[0]) | ((distances == start[0]) & (rows >= start[1])))


@dataclass(frozen=True, eq=False)
class Part:
    """Some merged items in id order: keys (n,), codes (n, B), and IVF lists (n,), -1 where unknown."""

    keys: Keys
    codes: CodeArray
    lists: NDArray[np.int32]


def merged_parts(segments: Sequence[Segment]) -> Iterator[Part]:
    """Yield the living items of all segments in id order, some thousands at a time.

    Each part covers a range of ids, which is a run of rows in every segment, so the memory needed does not
    grow with the segments.
    """
    bounds = sorted({s.ids.key(row) for s in segments for row in range(_PART_ROWS, len(s.ids), _PART_ROWS)})
    done = [0] * len(segments)
    for bound in [*bounds, None]:
        ends = [len(s.ids) if bound is None else s.ids.bisect(bound) for s in segments]
        pieces = [_piece(s, lo, hi) for s, lo, hi in zip(segments, done, ends, strict=True) if hi > lo]
        done = ends
        if pieces:
            part = _joined(pieces)
            if len(part.keys):
                yield part


def _piece(segment: Segment, start: int, stop: int) -> Part:
    """Living rows of one segment from start to stop."""
    engine = segment.engine
    lists = engine.lists[start:stop] if isinstance(engine, IvfEngine) else np.full(stop - start, -1, np.int32)
    keys, codes = segment.ids.keys(start, stop), engine.codes[start:stop]
    first, last = np.searchsorted(segment.dead, [start, stop])
    if last == first:
        return Part(keys, codes, lists)
    alive = np.ones(stop - start, dtype=bool)
    alive[segment.dead[first:last] - start] = False
    return Part(keys[alive], codes[alive], lists[alive])


def _joined(pieces: Sequence[Part]) -> Part:
    """Join pieces, each in id order, into one in id order. The result owns its memory."""
    keys = np.concatenate([piece.keys for piece in pieces])
    order = np.argsort(keys, kind="stable")  # merges runs that are sorted already
    codes = np.concatenate([piece.codes for piece in pieces])
    lists = np.concatenate([piece.lists for piece in pieces])
    return Part(keys[order], codes[order], lists[order])
