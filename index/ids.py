"""Ids by the million: sorted, immutable and compact.

A Python string costs some 60 bytes; ten million of them would weigh more than their codes. An `IdTable`
keeps the UTF-8 bytes of its ids in one array, in order, and makes a string only for the ids that are
asked for. Two layouts, whichever is smaller: rows of one width (ids of equal or nearly equal length, which
NumPy can search directly), or one blob with the starts of its ids.

A *key* is an id as NumPy bytes (dtype "S"). NumPy compares these like memcmp and drops trailing zero
bytes, which is exact here because an id has no NUL.
"""

from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import overload

import numpy as np
from numpy.typing import NDArray

from index.codes import CodeArray, check_codes
from index.errors import BadCodes, BadId, DuplicateId

MAX_ID_BYTES = 200
"""Longest id in UTF-8 bytes; one byte holds the length of an id on disk."""
_BLOCK = 8192  # rows that are laid out as keys at once
_FEW = 32  # up to this many ids are looked up one by one
_FIXED_SLACK = 1.25  # rows of one width may be this much larger, being several times as fast

Keys = NDArray[np.bytes_]
Rows = NDArray[np.int64]


def key_bytes(key: object) -> bytes | None:
    """Return the UTF-8 bytes of an id, or None when it is none that could be stored."""
    if not isinstance(key, str) or not key or "\0" in key:
        return None
    try:
        encoded = key.encode()
    except UnicodeEncodeError:  # a lone surrogate
        return None
    return encoded if len(encoded) <= MAX_ID_BYTES else None


def keys_of(ids: Sequence[str]) -> Keys:
    """Return the ids as keys (n,) in the order given.

    Raises BadId for the first id that cannot be stored, DuplicateId when one comes twice.
    """
    encoded = [key_bytes(each) for each in ids]
    if None in encoded:
        wrong = ids[encoded.index(None)]
        raise BadId(f"id: wanted 1 to {MAX_ID_BYTES} UTF-8 bytes without NUL, got {wrong!r:.300}")
    if len(set(encoded)) != len(encoded):
        seen: set[str] = set()
        twice = next(each for each in ids if each in seen or seen.add(each))  # type: ignore[func-returns-value]
        raise DuplicateId(f"ids: wanted distinct ones, got {twice!r} twice")
    return np.array(encoded, dtype=np.bytes_) if encoded else np.zeros(0, dtype="S1")


def check_items(ids: Sequence[str], codes: object, bits: int) -> tuple[Keys, CodeArray]:
    """Return what `BinaryIndex.add` was given as keys and codes. Raises BadCodes, BadId, DuplicateId."""
    checked = check_codes(codes, bits)
    if len(ids) != len(checked):
        raise BadCodes(f"codes: wanted one row for each of {len(ids)} ids, got {len(checked)}")
    if isinstance(ids, IdTable):  # its ids are distinct and storable
        return ids.keys(0, len(ids)), checked
    return keys_of(ids), checked


def known_keys(ids: Collection[str]) -> Keys:
    """Return the distinct storable ids among `ids` as sorted keys; the others can be in no table."""
    encoded = {each for each in map(key_bytes, ids) if each is not None}
    return np.sort(np.array(list(encoded), dtype=np.bytes_)) if encoded else np.zeros(0, dtype="S1")


class IdTable(Sequence[str]):
    """Sorted distinct ids; row i is the i-th in the order of UTF-8 bytes. Immutable, safe for threads."""

    __slots__ = ("_blob", "_fixed", "_size", "_starts", "bytes_total")

    def __init__(self, blob: NDArray[np.uint8], lengths: NDArray[np.uint8]) -> None:
        """Take the ids' bytes end to end, and the length of each; they must be sorted (not checked)."""
        self._size = len(lengths)
        self.bytes_total = len(blob)
        """UTF-8 bytes of all ids together."""
        self._fixed: Keys | None = None
        self._blob, self._starts = blob, np.zeros(0, dtype=np.int64)
        width = int(lengths.max(initial=1))
        if self._size * width <= _FIXED_SLACK * (len(blob) + 4 * self._size):
            rows = blob if self._size * width == len(blob) else _padded(blob, lengths, width)
            self._fixed, self._blob = rows.view(f"S{width}"), rows[:0]
            return
        kind = np.uint32 if len(blob) < 1 << 32 else np.int64
        self._starts = np.zeros(self._size + 1, dtype=kind)
        np.cumsum(lengths, out=self._starts[1:])

    @classmethod
    def from_keys(cls, blocks: Iterable[Keys]) -> "IdTable":
        """Join blocks of keys that are already in order."""
        blobs, lengths = [np.zeros(0, dtype=np.uint8)], [np.zeros(0, dtype=np.uint8)]
        for keys in blocks:
            blob, sizes = split_keys(keys)
            blobs.append(blob)
            lengths.append(sizes)
        return cls(np.concatenate(blobs), np.concatenate(lengths))

    def __len__(self) -> int:
        """Number of ids."""
        return self._size

    @overload
    def __getitem__(self, row: int) -> str: ...

    @overload
    def __getitem__(self, row: slice) -> list[str]: ...

    def __getitem__(self, row: int | slice) -> str | list[str]:
        """Return the id of a row, or the ids of a slice of rows. Raises IndexError."""
        if isinstance(row, slice):
            start, stop, step = row.indices(self._size)
            if step != 1 or stop <= start:
                return [self.key(each).decode() for each in range(start, stop, step)]
            # An id has no NUL: all are decoded at once, several times as fast as one by one.
            return b"\0".join(self.keys(start, stop).tolist()).decode().split("\0")
        if not -self._size <= row < self._size:
            raise IndexError(f"row: wanted one of {self._size}, got {row}")
        return self.key(row % self._size).decode()

    def __iter__(self) -> Iterator[str]:
        """All ids in order, made block by block."""
        for start in range(0, self._size, _BLOCK):
            for key in self.keys(start, min(start + _BLOCK, self._size)).tolist():
                yield key.decode()

    @property
    def nbytes(self) -> int:
        """Bytes of memory that the ids take."""
        return self._blob.nbytes + self._starts.nbytes + (0 if self._fixed is None else self._fixed.nbytes)

    def key(self, row: int) -> bytes:
        """UTF-8 bytes of one row."""
        if self._fixed is not None:
            return self._fixed.item(row)
        return self._blob[self._starts[row] : self._starts[row + 1]].tobytes()

    def keys(self, start: int, stop: int) -> Keys:
        """Rows start to stop as keys; a view without a copy where the layout allows it."""
        if self._fixed is not None:
            return self._fixed[start:stop]
        starts = self._starts[start : stop + 1]
        lengths = np.diff(starts).astype(np.uint8)
        width = int(lengths.max(initial=1))
        return _padded(self._blob[starts[0] : starts[-1]], lengths, width).view(f"S{width}")

    def bisect(self, key: bytes, *, right: bool = False) -> int:
        """Number of ids before `key` in the order of bytes; with `right`, an equal id counts too."""
        low, high = 0, self._size
        while low < high:
            middle = (low + high) // 2
            found = self.key(middle)
            if found < key or (right and found == key):
                low = middle + 1
            else:
                high = middle
        return low

    def row(self, key: bytes) -> int:
        """Row of an id given by its bytes, -1 when it is not there."""
        row = self.bisect(key)
        return row if row < self._size and self.key(row) == key else -1

    def rows(self, keys: Keys) -> Rows:
        """Rows, ascending, of those among the sorted distinct `keys` (m,) that are there."""
        if len(keys) <= _FEW:
            found = np.array([self.row(key) for key in keys.tolist()], dtype=np.int64)
            return found[found >= 0]
        if self._fixed is not None:
            return _match(self._fixed, keys)
        parts = [np.zeros(0, dtype=np.int64)]
        first = 0
        for start in range(0, self._size, _BLOCK):
            stop = min(start + _BLOCK, self._size)
            last = first + int(np.searchsorted(keys[first:], self.key(stop - 1), side="right"))
            if last > first:
                parts.append(_match(self.keys(start, stop), keys[first:last]) + start)
            first = last
        return np.concatenate(parts)


def _match(table: Keys, keys: Keys) -> Rows:
    """Rows of the sorted `table` that hold one of the sorted `keys`.

    Keys longer than the table's width cannot be in it and are dropped, so that the rest can be cast to
    that width; NumPy would otherwise widen, that is copy, the whole table.
    """
    if keys.itemsize > table.itemsize:
        keys = keys[np.char.str_len(keys) <= table.itemsize]
    keys = keys.astype(table.dtype)
    rows = np.searchsorted(table, keys)
    inside = rows < len(table)
    rows, keys = rows[inside], keys[inside]
    matching: Rows = rows[table[rows] == keys].astype(np.int64, copy=False)
    return matching


def split_keys(keys: Keys) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Return keys as their bytes end to end and the length of each, both uint8."""
    lengths = np.char.str_len(keys).astype(np.uint8)
    raw = np.ascontiguousarray(keys).view(np.uint8).reshape(len(keys), -1 if len(keys) else keys.itemsize)
    return raw[np.arange(keys.itemsize) < lengths[:, None]], lengths


def _padded(blob: NDArray[np.uint8], lengths: NDArray[np.uint8], width: int) -> NDArray[np.uint8]:
    """Lay out ids end to end as rows of `width` bytes, filled up with zeros; uint8 (n * width,)."""
    out = np.zeros((len(lengths), width), dtype=np.uint8)
    place = np.arange(width)
    done = 0
    for start in range(0, len(lengths), _BLOCK):
        sizes = lengths[start : start + _BLOCK]
        used = int(sizes.sum(dtype=np.int64))
        out[start : start + _BLOCK][place < sizes[:, None]] = blob[done : done + used]
        done += used
    return out.reshape(-1)
