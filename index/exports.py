"""The portable form of codes: an exported generation that also says what each code was made of.

An export is a generation in the embedded form (see `index/store.py` and `index/saved.py`): `META.json`, and
for each of `image/` and `text/` the files `index.json`, `codes.npy`, `id_bytes.npy`, `id_lengths.npy`. Beside
them lies `contents.npy`, uint8 (n, 16): the first 16 bytes of the SHA-256 of what row i is the code of (the
image's bytes, the text's UTF-8), all zero where there was nothing but a code. A code depends on the model
and on the content alone, so whoever has both may take it, whatever happened to the items since.

Every backend and `index.transfer` read an export like any exported generation. The digests prove that it is
whole, not who made it.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from index.codes import CodeArray, check_codes
from index.errors import BadCodes, CorruptIndex
from index.files import check_digest, sha256_of
from index.ids import IdTable, keys_of
from index.saved import HEADER, SavedIndex, write_index
from index.store import META, SIDES, Meta, read_meta, write_generation
from index.transfer import EXPORTED

CONTENTS = "contents"
CONTENT_BYTES = 16
"""Bytes of a SHA-256 that say what a code was made of: 128 bits, no two contents share them by chance."""
_FILES = (HEADER, "codes.npy", "id_bytes.npy", "id_lengths.npy", f"{CONTENTS}.npy")
_PART = 16384

ContentArray = NDArray[np.uint8]
"""uint8 (n, CONTENT_BYTES)."""


@dataclass(frozen=True)
class Rows:
    """Some rows of one side in the order of ids: n ids, codes uint8 (n, bits/8), contents uint8 (n, 16)."""

    ids: list[str]
    codes: CodeArray
    contents: ContentArray


def write_export(target: Path, meta: Meta, sides: Mapping[str, Iterable[Rows]]) -> Meta:
    """Write `target`, which must not exist, from rows in the order of ids; it appears all at once, or not.

    Returns what was written (counts and digests filled in). Raises HashIndexError, OSError.
    """
    image, text = (_Side(meta.bits, sides[side]) for side in SIDES)
    folder = write_generation(
        target.parent, target.name, replace(meta, backend=EXPORTED, options={}), image, text
    )
    return read_meta(folder)


class _Side:
    """One side of an export in memory, ready to be saved."""

    def __init__(self, bits: int, blocks: Iterable[Rows]) -> None:
        self.bits = bits
        keys, codes, contents = [], [np.zeros((0, bits // 8), np.uint8)], [_contents([])]
        for block in blocks:
            codes.append(check_codes(block.codes, bits))
            keys.append(keys_of(block.ids))
            contents.append(block.contents)
        self._ids = IdTable.from_keys(keys)
        self._codes, self._contents = np.concatenate(codes), np.concatenate(contents)
        if not len(self._ids) == len(self._codes) == len(self._contents):
            raise BadCodes(f"wanted a code and a content for each of {len(self._ids)} ids")

    def save(self, folder: Path) -> None:
        """Write the saved form with the contents beside it."""
        parts = (
            (self._ids.keys(start, min(start + _PART, len(self._ids))), self._codes[start : start + _PART])
            for start in range(0, len(self._ids), _PART)
        )
        extra = {CONTENTS: self._contents}
        write_index(folder, self.bits, len(self._ids), self._ids.bytes_total, parts, extra)


def _contents(digests: Iterable[bytes]) -> ContentArray:
    """Digests, CONTENT_BYTES each, as an array."""
    return np.frombuffer(b"".join(digests), dtype=np.uint8).reshape(-1, CONTENT_BYTES)


class Export:
    """An export on disk, opened for reading: META.json and both headers are checked at once.

    Call `prove` before anything is done with the rows. Raises CorruptIndex, also for a generation that was
    exported without contents.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        for name in (META, *(f"{side}/{file}" for side in SIDES for file in _FILES)):
            if not (folder / name).is_file():  # a pipe of this name would be waited for
                raise CorruptIndex(f"{folder.name}: wanted an export with the file {name}, got none")
        self.meta = read_meta(folder)
        if self.meta.backend != EXPORTED:
            raise CorruptIndex(f"{META}: wanted the backend {EXPORTED}, got {self.meta.backend!r:.80}")
        for side in SIDES:
            self._opened(side)

    def prove(self) -> None:
        """Read everything once: sizes, ids, digests. Raises CorruptIndex."""
        for side in SIDES:
            for _ in self.rows(side, _PART):
                pass

    def rows(self, side: str, count: int) -> Iterator[Rows]:
        """The rows of one side in the order of ids, at most `count` at a time. Raises CorruptIndex."""
        saved = self._opened(side)
        contents = saved.array(CONTENTS, "|u1", CONTENT_BYTES)
        if len(contents) != saved.count:
            raise CorruptIndex(f"{side}/{CONTENTS}: wanted {saved.count} rows, got {len(contents)}")
        done = 0
        for table, codes in saved.chunks(count):
            yield Rows(table[:], codes, contents[done : done + len(table)])
            done += len(table)

    def _opened(self, side: str) -> SavedIndex:
        name = f"{side}/{HEADER}"
        check_digest(name, self.meta.files[name], sha256_of(self._folder / side / HEADER))
        saved = SavedIndex(self._folder / side, self.meta.bits)
        if saved.count != self.meta.counts[side] or not saved.has(CONTENTS):
            raise CorruptIndex(f"{name}: wanted {self.meta.counts[side]} items with contents, got others")
        return saved
