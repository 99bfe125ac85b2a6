"""The saved form of an index, the same for all embedded backends.

A folder with `codes.npy` (uint8 (n, bits/8), rows in the order of ids), `id_bytes.npy` (the ids' UTF-8
bytes end to end), `id_lengths.npy` (uint8 (n,)), perhaps arrays of a backend's own, and `index.json`, written
last: format, bits, count, id_bytes, shapes of the extra arrays, and the SHA-256 of each file. Whoever knows
the digest of `index.json` (a generation's META.json does) has the digest of everything.

Reading goes piece by piece and believes nothing: sizes before allocation, digests at the end, ids valid and
in order. Searching structures are rebuilt from the codes, which is about as fast as copying memory.
"""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from index.codes import CodeArray
from index.errors import CorruptIndex, HashIndexError
from index.files import ArrayReader, ArrayWriter, fsync_folder, read_json, write_json
from index.ids import MAX_ID_BYTES, IdTable, Keys, split_keys

FORMAT = 1
REFERENCE_FORMAT = "reference-1"
"""Format of the header of an index whose codes lie in an engine elsewhere (index/backends/clients.py)."""
HEADER = "index.json"
MAX_COUNT = 1 << 40
_CHECK_ROWS = 65536


def write_index(
    folder: Path,
    bits: int,
    count: int,
    id_bytes: int,
    parts: Iterable[tuple[Keys, CodeArray]],
    extra: Mapping[str, NDArray[Any]] | None = None,
) -> None:
    """Write `count` items, whose ids have `id_bytes` bytes together, from parts in the order of ids.

    `folder` is made; it must not hold files. `extra` arrays are written beside. Raises HashIndexError when
    the folder is not empty, OSError when the disk refuses.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise HashIndexError(f"{folder.name}: wanted an empty folder")
    writers = {
        "codes": ArrayWriter(folder / "codes.npy", "|u1", (count, bits // 8)),
        "id_bytes": ArrayWriter(folder / "id_bytes.npy", "|u1", (id_bytes,)),
        "id_lengths": ArrayWriter(folder / "id_lengths.npy", "|u1", (count,)),
    }
    with writers["codes"], writers["id_bytes"], writers["id_lengths"]:
        for keys, codes in parts:
            blob, lengths = split_keys(keys)
            writers["codes"].append(codes)
            writers["id_bytes"].append(blob)
            writers["id_lengths"].append(lengths)
    described = {}
    for name, array in (extra or {}).items():
        writers[name] = ArrayWriter(folder / f"{name}.npy", array.dtype.str, array.shape)
        with writers[name] as writer:
            writer.append(array)
        described[name] = {"dtype": array.dtype.str, "shape": list(array.shape)}
    files = {name: writer.sha256 for name, writer in writers.items()}
    header = {"format": FORMAT, "bits": bits, "count": count, "id_bytes": id_bytes}
    write_json(folder / HEADER, {**header, "extra": described, "files": files})
    fsync_folder(folder)


class SavedIndex:
    """A saved index, opened for reading; the header is checked at once. Raises CorruptIndex."""

    def __init__(self, folder: Path, bits: int) -> None:
        """Read and check the header of `folder`, which must hold codes of `bits` bits."""
        header = read_json(folder / HEADER)
        if header.get("format") == REFERENCE_FORMAT:
            raise CorruptIndex(
                f"{HEADER}: wanted the codes themselves, got a reference to {header.get('backend')!r:.80}: "
                "export the index first"
            )
        if header.get("format") != FORMAT:
            raise CorruptIndex(f"{HEADER}: wanted format {FORMAT}, got {header.get('format')!r:.80}")
        if header.get("bits") != bits:
            raise CorruptIndex(f"{HEADER}: wanted {bits} bits, got {header.get('bits')!r:.80}")
        self.bits = bits
        self.count = _natural(header, "count", MAX_COUNT)
        self._id_bytes = _natural(header, "id_bytes", MAX_COUNT * MAX_ID_BYTES)
        self._files = _object(header, "files")
        self._extra = _object(header, "extra")
        self._folder = folder

    def has(self, name: str) -> bool:
        """True when the extra array `name` was saved."""
        return name in self._extra

    def array(self, name: str, dtype: str, columns: int | None = None) -> NDArray[Any]:
        """Return an extra array of a given type, (n,) or with `columns` (n, columns)."""
        described = _object(self._extra, name)
        shape = described.get("shape")
        tail = [] if columns is None else [columns]
        if not isinstance(shape, list) or len(shape) != 1 + len(tail) or shape[1:] != tail:
            raise CorruptIndex(f"{name}: wanted a shape (n, {tail}), got {shape!r:.80}")
        rows = _natural({"shape[0]": shape[0]}, "shape[0]", MAX_COUNT)
        with self._reader(name, dtype, (rows, *tail)) as reader:
            array = reader.read(rows)
            reader.finish()
        return array

    def chunks(self, rows: int) -> Iterator[tuple[IdTable, CodeArray]]:
        """Yield the items in the order of ids, at most `rows` at a time.

        Keep the pieces out of sight until the iterator has ended: the digests are known only then.
        """
        with (
            self._reader("codes", "|u1", (self.count, self.bits // 8)) as codes,
            self._reader("id_bytes", "|u1", (self._id_bytes,)) as blobs,
            self._reader("id_lengths", "|u1", (self.count,)) as sizes,
        ):
            last, left = b"", self._id_bytes
            for start in range(0, self.count, rows):
                lengths = sizes.read(min(rows, self.count - start))
                used = int(lengths.sum(dtype=np.int64))
                left -= used
                if left < 0:
                    raise CorruptIndex(f"id_bytes: wanted {self._id_bytes} bytes, got longer ids")
                table = _checked_table(blobs.read(used), lengths, last)
                last = table.key(len(table) - 1)
                yield table, codes.read(len(lengths))
            if left:
                raise CorruptIndex(f"id_bytes: wanted {self._id_bytes} bytes of ids, got {left} fewer")
            for reader in (codes, blobs, sizes):
                reader.finish()

    def _reader(self, name: str, dtype: str, shape: tuple[int, ...]) -> ArrayReader:
        """Open one array, with the digest that the header gives."""
        digest = self._files.get(name)
        if not isinstance(digest, str):
            raise CorruptIndex(f"{HEADER}: wanted the SHA-256 of {name}, got {digest!r:.80}")
        return ArrayReader(self._folder / f"{name}.npy", dtype, shape, digest)


def _checked_table(blob: NDArray[np.uint8], lengths: NDArray[np.uint8], last: bytes) -> IdTable:
    """Build a table from unproven bytes: valid ids, strictly ascending, all after `last`."""
    if not (lengths.min() >= 1 and lengths.max() <= MAX_ID_BYTES):
        raise CorruptIndex(f"id_lengths: wanted 1 to {MAX_ID_BYTES}, got {lengths.min()}..{lengths.max()}")
    if not blob.all():
        raise CorruptIndex("id_bytes: wanted ids without NUL, got one")
    if (blob >= 0x80).any():
        starts = np.cumsum(lengths, dtype=np.int64) - lengths
        try:
            blob.tobytes().decode()
        except UnicodeDecodeError as error:
            raise CorruptIndex(f"id_bytes: wanted UTF-8, got {error.reason}") from error
        if ((blob[starts] & 0xC0) == 0x80).any():
            raise CorruptIndex("id_bytes: wanted each id to be UTF-8, got one that starts inside a character")
    table = IdTable(blob, lengths)
    for start in range(0, len(table), _CHECK_ROWS):
        keys = table.keys(start, min(start + _CHECK_ROWS + 1, len(table)))
        if not bool((keys[1:] > keys[:-1]).all()):
            raise CorruptIndex("id_bytes: wanted ids in ascending order, got them out of order or twice")
    if not last < table.key(0):
        raise CorruptIndex("id_bytes: wanted ids in ascending order, got them out of order or twice")
    return table


def _natural(content: Mapping[str, Any], name: str, limit: int) -> int:
    """Return a whole number from 0 to `limit`. Raises CorruptIndex."""
    value = content.get(name)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= limit:
        raise CorruptIndex(f"{HEADER}: wanted {name} from 0 to {limit}, got {value!r:.80}")
    return value


def _object(content: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return a JSON object. Raises CorruptIndex."""
    value = content.get(name)
    if not isinstance(value, dict):
        raise CorruptIndex(f"{HEADER}: wanted an object {name}, got {value!r:.80}")
    return value
