"""The embedded default: Faiss over immutable segments, exact or with an inverted file.

Reading takes the current tuple of segments and needs no lock; writing makes another tuple under a lock and
publishes it by one assignment. A search therefore sees all of a call of `add` or `remove` or nothing of
it, and neither side waits for the other. Faiss and NumPy release the interpreter's lock in what is slow.
"""

import threading
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Self

import numpy as np

from index.backends.engines import Found
from index.backends.ivf import IvfEngine
from index.backends.layout import FaissOptions, build_segment, inverted_segment, settle
from index.backends.segment import Segment, merged_parts
from index.codes import MAX_BITS, CodeArray, check_bits, check_codes
from index.core import Hit, SearchOptions
from index.errors import CorruptIndex
from index.ids import IdTable, check_items, key_bytes, known_keys
from index.saved import SavedIndex, write_index

_ADD_ROWS = 1 << 18  # rows that become a segment at once in a bulk add
_RESULTS = 1 << 20  # results (queries x k) asked of Faiss at once


class FaissIndex:
    """A `BinaryIndex` over Faiss; the options are those of FaissOptions."""

    def __init__(self, bits: int, **options: object) -> None:
        """Make an empty index. Raises BadCodes on a bad width, UnknownOption, Unsupported."""
        self.bits = check_bits(bits)
        self.options = FaissOptions.of(options)
        self._segments: tuple[Segment, ...] = ()
        self._writing = threading.Lock()

    @property
    def exact(self) -> bool:
        """False while an inverted file answers that does not open all its lists."""
        return all(segment.engine.exact for segment in self._segments)

    def __len__(self) -> int:
        """Number of items."""
        return sum(segment.alive for segment in self._segments)

    def __contains__(self, key: object) -> bool:
        """True when an item of this id is there."""
        encoded = key_bytes(key)
        return encoded is not None and any(segment.has(encoded) for segment in self._segments)

    def add(self, ids: Sequence[str], codes: CodeArray) -> None:
        """Insert or replace items; see BinaryIndex.add."""
        keys, codes = check_items(ids, codes, self.bits)
        with self._writing:
            segments = self._segments
            for start in range(0, len(keys), _ADD_ROWS):
                part = keys[start : start + _ADD_ROWS]
                order = np.argsort(part, kind="stable")
                part = part[order]
                table = IdTable.from_keys([part])
                fresh = build_segment(table, codes[start : start + _ADD_ROWS][order], self.options)
                kept = [segment.without(part) for segment in segments]
                segments = settle([*kept, fresh], self.options)
            self._segments = segments

    def remove(self, ids: Sequence[str]) -> int:
        """Remove items and count them; see BinaryIndex.remove."""
        keys = known_keys(ids)
        with self._writing:
            before = len(self)
            self._segments = settle([segment.without(keys) for segment in self._segments], self.options)
            return before - len(self)

    def search(
        self, queries: CodeArray, options: SearchOptions, *, allow: Collection[str] | None = None
    ) -> list[list[Hit]]:
        """Return the nearest items; see BinaryIndex.search."""
        queries = check_codes(queries, self.bits)
        allowed = None if allow is None else known_keys(allow)
        segments = self._segments
        step = max(1, _RESULTS // options.k)
        answers: list[list[Hit]] = []
        for start in range(0, len(queries), step):
            block = queries[start : start + step]
            found = [segment.search(block, options.k, options.after, allowed) for segment in segments]
            for each in range(len(block)):
                per_segment = [(s.ids, f[each]) for s, f in zip(segments, found, strict=True)]
                answers.append(_merged(per_segment, options))
        return answers

    def codes(self) -> tuple[Sequence[str], CodeArray]:
        """Return all ids in order and their codes, as a copy."""
        parts = list(merged_parts(self._segments))
        table = IdTable.from_keys(part.keys for part in parts)
        return table, np.concatenate(
            [np.zeros((0, self.bits // 8), dtype=np.uint8), *(part.codes for part in parts)]
        )

    def save(self, folder: Path) -> None:
        """Write the index; see BinaryIndex.save. An inverted file's centroids and lists are kept."""
        segments = self._segments
        extra = {}
        for segment in segments:
            if isinstance(segment.engine, IvfEngine):
                extra["centroids"] = segment.engine.centroids
                extra["lists"] = np.concatenate([part.lists for part in merged_parts(segments)])
        write_index(
            folder,
            self.bits,
            sum(segment.alive for segment in segments),
            sum(_living_bytes(segment) for segment in segments),
            ((part.keys, part.codes) for part in merged_parts(segments)),
            extra,
        )

    @classmethod
    def load(cls, folder: Path, bits: int, **options: object) -> Self:
        """Read a saved index; see BinaryIndex.load."""
        index = cls(bits, **options)
        saved = SavedIndex(folder, bits)
        segments: list[Segment] = []
        if index.options.ivf_from is not None and saved.has("lists") and saved.count:
            segments.append(index._read_inverted(saved))
        else:
            segments.extend(
                build_segment(table, codes, index.options)
                for table, codes in saved.chunks(index.options.segment_rows)
            )
        index._segments = settle(segments, index.options)
        return index

    def _read_inverted(self, saved: SavedIndex) -> Segment:
        """Rebuild an inverted file from saved centroids and lists. Raises CorruptIndex."""
        centroids = saved.array("centroids", "|u1", self.bits // 8)
        lists = saved.array("lists", "<i4")
        if len(lists) != saved.count or not len(centroids):
            raise CorruptIndex(f"lists: wanted {saved.count} rows and centroids, got {len(lists)} rows")
        if not -1 <= lists.min() <= lists.max() < len(centroids):
            raise CorruptIndex(f"lists: wanted -1..{len(centroids) - 1}, got {lists.min()}..{lists.max()}")
        [(table, codes)] = list(saved.chunks(saved.count))
        return inverted_segment(table, codes, centroids, lists, self.options)


def _living_bytes(segment: Segment) -> int:
    """UTF-8 bytes of the ids of a segment's living rows."""
    return segment.ids.bytes_total - sum(len(segment.ids.key(row)) for row in segment.dead.tolist())


def _merged(found: Sequence[tuple[IdTable, Found]], options: SearchOptions) -> list[Hit]:
    """Merge the results of segments, each in order, into the first k hits in the contract's order.

    Ids become strings only for results that are not farther than the k-th of all.
    """
    distances = np.concatenate([np.zeros(0, dtype=np.int32), *(d for _, (d, _) in found)])
    limit = MAX_BITS if options.max_distance is None else options.max_distance
    if len(distances) > options.k:
        limit = min(limit, int(np.partition(distances, options.k - 1)[options.k - 1]))
    hits = []
    for ids, (near, rows) in found:
        if not len(near) or near[0] > limit:
            continue
        end = int(np.searchsorted(near, limit, side="right"))
        pairs = zip(rows[:end].tolist(), near[:end].tolist(), strict=True)
        hits.extend([Hit(ids[row], distance) for row, distance in pairs])
    if len(found) > 1:
        hits.sort(key=lambda hit: (hit.distance, hit.id))
    return hits[: options.k]
