"""Codes in Milvus: a collection with a BINARY_VECTOR for each index, searched by HAMMING over BIN_FLAT.

Milvus orders by distance alone, and cuts ties as they come. So results are asked for by distance level: all
that is nearer than the k-th is complete, and of the level of the k-th the first ids are taken, however many
tie there (`_level`). What is in a filter is fetched and compared here.

The primary key is the id's UTF-8 bytes as hexadecimal text: it keeps their order, and an expression that
holds only 0-9 and a-f cannot be anything but a comparison. One shard, one message for each change of up to
_ROWS items, and consistency `Session`: a search sees all of such a change or nothing of it, and what this
process wrote; a larger `add` becomes visible piece by piece.
"""

import threading
from bisect import bisect_right
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from index.backends.clients import (
    RemoteOptions,
    is_name,
    new_name,
    read_reference,
    take_announce,
    write_reference,
)
from index.backends.milvus_server import CODE, KEY, MOST, SCHEMES, Collected, collections
from index.backends.scan import scan
from index.codes import CodeArray, check_bits, check_codes
from index.core import Hit, SearchOptions
from index.errors import CorruptIndex, HashIndexError
from index.ids import IdTable, check_items, key_bytes, keys_of, known_keys
from index.saved import SavedIndex

_BACKEND = "milvus"
_ROWS = 8192  # rows that travel at once
_SPARE = 64  # ties at the k-th place that are fetched at once
_RESULTS = 1 << 17  # hits (queries x k) of one call

_Near = tuple[int, str]
"""Distance in bits and the key of an item."""


class MilvusIndex:
    """A `BinaryIndex` in a Milvus collection; the options are those of RemoteOptions."""

    exact = True

    def __init__(self, bits: int, **options: object) -> None:
        """Make an empty collection. Raises BadCodes, UnknownOption, Unsupported, EngineUnavailable."""
        announce = take_announce(options)
        self._open(bits, new_name(), options)
        announce(self._collection.name)
        self._collection.create(bits)

    def _open(self, bits: int, name: str, options: dict[str, object]) -> None:
        """Set the fields; no collection is touched."""
        self.bits = check_bits(bits)
        self.options = RemoteOptions.of(_BACKEND, SCHEMES, options)
        self._collection = Collected(name, self.options)
        self._writing = threading.Lock()

    def __len__(self) -> int:
        """Number of items."""
        return self._collection.count()

    def __contains__(self, key: object) -> bool:
        """True when an item of this id is there."""
        encoded = key_bytes(key)
        return encoded is not None and bool(self._collection.rows(_one_of([encoded.hex()])))

    def add(self, ids: Sequence[str], codes: CodeArray) -> None:
        """Insert or replace items; see BinaryIndex.add."""
        keys, codes = check_items(ids, codes, self.bits)
        with self._writing:
            for start in range(0, len(keys), _ROWS):
                part = zip(keys[start : start + _ROWS].tolist(), codes[start : start + _ROWS], strict=True)
                self._collection.put([{KEY: key.hex(), CODE: code.tobytes()} for key, code in part])

    def remove(self, ids: Sequence[str]) -> int:
        """Remove items and count them; see BinaryIndex.remove."""
        keys = [key.hex() for key in known_keys(ids).tolist()]
        gone = 0
        with self._writing:
            for start in range(0, len(keys), _ROWS):
                present = [row[KEY] for row in self._collection.rows(_one_of(keys[start : start + _ROWS]))]
                self._collection.delete(present)
                gone += len(present)
        return gone

    def search(
        self, queries: CodeArray, options: SearchOptions, *, allow: Collection[str] | None = None
    ) -> list[list[Hit]]:
        """Return the nearest items; see BinaryIndex.search."""
        queries = check_codes(queries, self.bits)
        if allow is not None:
            return self._among(queries, options, [key.hex() for key in known_keys(allow).tolist()])
        high = self.bits if options.max_distance is None else min(self.bits, options.max_distance)
        answers: list[list[Hit]] = []
        step = max(1, _RESULTS // (options.k + _SPARE))
        for start in range(0, len(queries), step):
            block = queries[start : start + step]
            found = (
                self._first(block, options, high)
                if options.after is None
                else [self._behind(query, options, options.after, high) for query in block]
            )
            answers += [[_hit(distance, key) for distance, key in one] for one in found]
        return answers

    def _first(
        self, queries: CodeArray, options: SearchOptions, high: int, low: int = 0
    ) -> list[list[_Near]]:
        """The first k of each query with a distance from `low` to `high`."""
        if low > high or not len(queries):
            return [[] for _ in queries]
        k = options.k
        limit = min(MOST, k + _SPARE)
        found = self._collection.nearest(queries, limit, low, high)
        return [
            self._settled(query, sorted(one), k, complete=len(one) < limit)
            for query, one in zip(queries, found, strict=True)
        ]

    def _settled(self, query: CodeArray, near: list[_Near], k: int, *, complete: bool) -> list[_Near]:
        """Cut sorted results to k; where ties at the k-th place may be missing, fetch that level."""
        if complete or near[-1][0] > near[k - 1][0]:
            return near[:k]
        distance = near[k - 1][0]
        sure = [one for one in near if one[0] < distance]
        return sure + self._level(query, distance, k - len(sure), None)

    def _behind(self, query: CodeArray, options: SearchOptions, after: Hit, high: int) -> list[_Near]:
        """The first k of one query behind a page's end: the rest of its level, then the levels beyond."""
        found: list[_Near] = []
        if after.distance <= high:
            key = after.id.encode(errors="surrogatepass").hex()
            found = self._level(query, after.distance, options.k, key)
        if len(found) < options.k:
            rest = self._first(query[np.newaxis], options, high, after.distance + 1)[0]
            found += rest[: options.k - len(found)]
        return found

    def _level(self, query: CodeArray, distance: int, count: int, after: str | None) -> list[_Near]:
        """The first `count` items at exactly this distance, in the order of keys, behind the key `after`.

        Milvus gives any MOST of them. When there are more, the first `count` of all lie among those up to
        the last of the first `count` found, so the search is repeated there until all fit.
        """
        lower = "" if after is None else f'{KEY} > "{after}"'
        condition = lower
        while True:
            [found] = self._collection.nearest(query[np.newaxis], MOST, distance, distance, condition)
            first = sorted(found)[:count]
            if len(found) < MOST:
                return first
            upper = f'{KEY} <= "{first[-1][1]}"'
            condition = f"{lower} and {upper}" if lower else upper

    def _among(self, queries: CodeArray, options: SearchOptions, keys: list[str]) -> list[list[Hit]]:
        """The first k of each query among the items with these sorted keys."""
        found, codes = self._fetched(keys)
        after = options.after
        limit = self.bits if options.max_distance is None else options.max_distance
        start = 0 if after is None else bisect_right(found, after.id.encode(errors="surrogatepass").hex())

        def keep(distances: NDArray[np.int32], rows: NDArray[np.int64]) -> NDArray[np.bool_]:
            inside = distances <= limit
            if after is not None:
                same = (distances == after.distance) & (rows >= start)
                inside &= (distances > after.distance) | same
            return np.asarray(inside)

        answers = []
        for query in queries:
            distances, rows = scan(codes, query, options.k, None, keep)
            pairs = zip(distances.tolist(), rows.tolist(), strict=True)
            answers.append([_hit(distance, found[row]) for distance, row in pairs])
        return answers

    def _fetched(self, keys: list[str]) -> tuple[list[str], CodeArray]:
        """Those of the sorted keys that are there, in order, and their codes."""
        rows: list[dict[str, Any]] = []
        for start in range(0, len(keys), _ROWS):
            rows += self._collection.rows(_one_of(keys[start : start + _ROWS]))
        return _arrays(rows, self.bits)

    def codes(self) -> tuple[Sequence[str], CodeArray]:
        """Return all ids in order and their codes; changes made meanwhile may be in it or not."""
        rows = [row for block in self._collection.all(_ROWS) for row in block]
        keys, codes = _arrays(rows, self.bits)
        return IdTable.from_keys([keys_of([bytes.fromhex(key).decode() for key in keys])]), codes

    def save(self, folder: Path) -> None:
        """Write a reference to the collection, which goes on changing with this index."""
        write_reference(folder, _BACKEND, self.bits, len(self), self._collection.name)

    @classmethod
    def load(cls, folder: Path, bits: int, **options: object) -> Self:
        """Connect to the collection of a reference, or put what an embedded backend saved into a new one.

        Raises CorruptIndex when the collection is gone or has another width, and what making an index does.
        """
        name = read_reference(folder, _BACKEND, check_bits(bits))
        if name is None:
            return cls._filled(folder, bits, options)
        index = cls.__new__(cls)
        index._open(bits, name, options)
        got = index._collection.connect()
        if got != bits:
            raise CorruptIndex(f"milvus: wanted a collection of {bits} bits, got {got}")
        return index

    @classmethod
    def _filled(cls, folder: Path, bits: int, options: dict[str, object]) -> Self:
        """Fill a new collection from saved codes; it is dropped when they turn out to be damaged."""
        index = cls(bits, **options)
        try:
            for table, codes in SavedIndex(folder, bits).chunks(_ROWS):
                index.add(list(table), codes)
        except HashIndexError:
            index._collection.drop()
            raise
        return index

    @classmethod
    def names(cls, **options: object) -> set[str]:
        """The collections of all indexes there, referred to or not. Raises EngineUnavailable."""
        found = collections(RemoteOptions.of(_BACKEND, SCHEMES, options))
        return {name for name in found if is_name(name)}

    @classmethod
    def discard(cls, folder: Path, **options: object) -> None:
        """Drop the collection of a saved reference; nothing happens when it is gone."""
        name = read_reference(folder, _BACKEND)
        if name is not None:
            Collected(name, RemoteOptions.of(_BACKEND, SCHEMES, options)).drop()


def _one_of(keys: Sequence[str]) -> str:
    """Expression for the items with these hexadecimal keys."""
    return KEY + " in [" + ",".join(f'"{key}"' for key in keys) + "]"


def _hit(distance: int, key: str) -> Hit:
    return Hit(bytes.fromhex(key).decode(), distance)


def _arrays(rows: Sequence[dict[str, Any]], bits: int) -> tuple[list[str], CodeArray]:
    """Rows as sorted keys and their codes, uint8 (n, bits/8)."""
    ordered = sorted((row[KEY], row[CODE][0]) for row in rows)
    packed = np.frombuffer(b"".join(code for _, code in ordered), dtype=np.uint8)
    return [key for key, _ in ordered], packed.reshape(len(ordered), bits // 8)
