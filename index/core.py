"""What a backend is: the value types of a search and the protocol that all backends keep.

The order of results is part of the contract and the same on every backend: by Hamming distance, then by
the id's UTF-8 bytes. Python compares `str` by code point, which is the same order, because UTF-8 keeps
the order of code points.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, Self

from index.codes import CodeArray
from index.errors import BadOptions

MAX_K = 10_000
"""Largest `k` of one search; the HTTP contract allows 1,000, the rest is head room for tools."""


@dataclass(frozen=True, slots=True)
class Hit:
    """One result: the item's id and its Hamming distance to the query in bits."""

    id: str
    distance: int


@dataclass(frozen=True, slots=True)
class SearchOptions:
    """What is asked of a search.

    k: number of hits wanted, 1 to MAX_K.
    max_distance: hits farther than this many bits are left out (None: no limit).
    after: continue strictly after this (distance, id) in the contract's order; the item itself need not
        exist any more, so a page survives the deletion of its last hit.
    """

    k: int
    max_distance: int | None = None
    after: Hit | None = None

    def __post_init__(self) -> None:
        """Raise BadOptions when a value is out of its range."""
        if not _is_int(self.k) or not 1 <= self.k <= MAX_K:
            raise BadOptions(f"k: wanted a whole number from 1 to {MAX_K}, got {self.k!r}")
        if self.max_distance is not None and (not _is_int(self.max_distance) or self.max_distance < 0):
            raise BadOptions(f"max_distance: wanted a whole number >= 0, got {self.max_distance!r}")
        if self.after is not None and (not _is_int(self.after.distance) or self.after.distance < 0):
            raise BadOptions(f"after: wanted a distance >= 0, got {self.after.distance!r}")


def _is_int(value: object) -> bool:
    """True for an int that is not a bool (a bool is an int in Python, but no count)."""
    return isinstance(value, int) and not isinstance(value, bool)


class BinaryIndex(Protocol):
    """Binary codes by id, searchable by Hamming distance.

    Safe for threads: searches may run beside each other and beside `add` and `remove`; a search sees one
    state of the index, never half of a call.
    """

    @property
    def bits(self) -> int:
        """Width of the codes: a multiple of 8 from 16 to 256."""
        ...

    @property
    def exact(self) -> bool:
        """True when a search cannot miss a hit; False while an approximate structure answers."""
        ...

    def __len__(self) -> int:
        """Number of items."""
        ...

    def __contains__(self, key: object) -> bool:
        """True when an item of the id `key` is there."""
        ...

    def add(self, ids: Sequence[str], codes: CodeArray) -> None:
        """Insert items, or replace the codes of ids that are there.

        ids: n distinct strings. codes: uint8 (n, bits/8), row i belongs to ids[i].
        Raises BadCodes, BadId or DuplicateId; then nothing was changed.
        """
        ...

    def remove(self, ids: Sequence[str]) -> int:
        """Remove items; return how many were there. Unknown ids are ignored."""
        ...

    def search(
        self, queries: CodeArray, options: SearchOptions, *, allow: Collection[str] | None = None
    ) -> list[list[Hit]]:
        """Return for each query at most `options.k` hits in the contract's order.

        queries: uint8 (q, bits/8). allow: when given, only these ids may be hits; unknown ids in it are
        ignored, and the answer is exact whatever the structure. A batch answers what its queries would
        answer one by one. Raises BadCodes.
        """
        ...

    def codes(self) -> tuple[Sequence[str], CodeArray]:
        """Return all ids in the order of their UTF-8 bytes, and their codes uint8 (n, bits/8)."""
        ...

    def save(self, folder: Path) -> None:
        """Write the index into `folder`, which must not exist or be empty; files are fsynced."""
        ...

    @classmethod
    def load(cls, folder: Path, bits: int, **options: object) -> Self:
        """Read an index that `save` wrote. Raises CorruptIndex; no byte is believed unchecked."""
        ...
