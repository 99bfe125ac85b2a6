"""The oracle: an index that is obviously right, against which the other backends are tested.

Every search computes all distances and sorts them. Use it for tests and tiny corpora.
"""

import threading
from collections.abc import Collection, Sequence
from itertools import islice
from pathlib import Path
from typing import Self

import numpy as np

from index.codes import CodeArray, check_bits, check_codes, hamming
from index.core import Hit, SearchOptions
from index.errors import UnknownOption
from index.ids import check_items, keys_of
from index.saved import SavedIndex, write_index

_State = tuple[list[str], CodeArray]


class MemoryIndex:
    """A sorted list of ids and an array of their codes, replaced as a pair by each change."""

    exact = True

    def __init__(self, bits: int, **options: object) -> None:
        """Make an empty index. Raises BadCodes on a bad width, UnknownOption on any option."""
        if options:
            raise UnknownOption(f"memory: wanted no options, got {', '.join(sorted(options))}")
        self.bits = check_bits(bits)
        self._state: _State = ([], np.zeros((0, bits // 8), dtype=np.uint8))
        self._writing = threading.Lock()

    def __len__(self) -> int:
        """Number of items."""
        return len(self._state[0])

    def __contains__(self, key: object) -> bool:
        """True when an item of this id is there."""
        return key in self._state[0]

    def add(self, ids: Sequence[str], codes: CodeArray) -> None:
        """Insert or replace items; see BinaryIndex.add."""
        _, codes = check_items(ids, codes, self.bits)
        with self._writing:
            items = dict(zip(*self._state, strict=True))
            items.update(zip(ids, codes, strict=True))
            self._replace(items)

    def remove(self, ids: Sequence[str]) -> int:
        """Remove items and count them; see BinaryIndex.remove."""
        with self._writing:
            items = dict(zip(*self._state, strict=True))
            before = len(items)
            for each in ids:
                items.pop(each, None)
            self._replace(items)
            return before - len(items)

    def _replace(self, items: dict[str, CodeArray]) -> None:
        """Publish a new state. Python orders text by code point, which is the order of UTF-8 bytes."""
        ids = sorted(items)
        rows = [items[each] for each in ids]
        self._state = (ids, np.array(rows, dtype=np.uint8).reshape(len(ids), self.bits // 8))

    def search(
        self, queries: CodeArray, options: SearchOptions, *, allow: Collection[str] | None = None
    ) -> list[list[Hit]]:
        """Sort all items for each query; see BinaryIndex.search."""
        ids, codes = self._state
        allowed = None if allow is None else set(allow)
        answers = []
        for query in check_codes(queries, self.bits):
            distances = hamming(query[None], codes)[0]
            order = np.argsort(distances, kind="stable")
            ranked = (Hit(ids[row], int(distances[row])) for row in order)
            wanted = (hit for hit in ranked if _wanted(hit, options, allowed))
            answers.append(list(islice(wanted, options.k)))
        return answers

    def codes(self) -> tuple[Sequence[str], CodeArray]:
        """Return all ids in order and their codes."""
        ids, codes = self._state
        return tuple(ids), codes.copy()

    def save(self, folder: Path) -> None:
        """Write the index; see BinaryIndex.save."""
        ids, codes = self._state
        keys = keys_of(ids)
        write_index(folder, self.bits, len(ids), sum(len(each.encode()) for each in ids), [(keys, codes)])

    @classmethod
    def load(cls, folder: Path, bits: int, **options: object) -> Self:
        """Read a saved index; see BinaryIndex.load."""
        index = cls(bits, **options)
        saved = SavedIndex(folder, bits)
        pieces = list(saved.chunks(max(1, saved.count)))
        if pieces:
            table, codes = pieces[0]
            index._state = (list(table), codes)
        return index


def _wanted(hit: Hit, options: SearchOptions, allowed: set[str] | None) -> bool:
    """True when a hit passes the filter, the distance limit and the page's start."""
    if allowed is not None and hit.id not in allowed:
        return False
    if options.max_distance is not None and hit.distance > options.max_distance:
        return False
    after = options.after
    return after is None or (hit.distance, hit.id) > (after.distance, after.id)
