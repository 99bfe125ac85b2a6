"""Ready codes from files: ids as lines of text, codes as `.npy`; no item costs Python, nothing is believed.

`ids`: one id a line, LF between them, each 1 to 200 characters of `A-Z a-z 0-9 . _ : -` and not `.` or
`..`. `codes`: a NumPy array, uint8 (n, bits/8), C order, format 1.0, as `numpy.save` writes it; row i is the
code of line i, packed as `index/codes.py` says. The lines may come in any order; what is given out is in the
order of ids. Millions of rows go through array operations only: some tenths of a microsecond each.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from index.codes import CodeArray, check_bits
from index.errors import BadCodes, BadId, DuplicateId
from index.ids import MAX_ID_BYTES, IdTable, Keys

ALPHABET = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._:-"
"""Characters of the ids that the service takes (the index itself takes any text)."""
_MAX_TABLE_BYTES = 1 << 34  # n x the longest id: a file of short ids and a long one must not take the memory
_MAGIC = b"\x93NUMPY\x01\x00"
_HEADER = re.compile(
    rb"\{'descr': '\|u1', 'fortran_order': False, 'shape': \((\d{1,12}), (\d{1,4})\), \} *\n"
)
_SHORT = 32
_LF, _DOT = b"\n."


@dataclass(frozen=True)
class ReadyCodes:
    """Items in the order of ids: n ids, and for each side that was given the codes, uint8 (n, bits/8)."""

    ids: IdTable
    codes: Mapping[str, CodeArray]


def read_ready(ids: Path, codes: Mapping[str, Path], bits: int) -> ReadyCodes:
    """Read a file of ids and a file of codes for each side. Raises BadId, DuplicateId, BadCodes."""
    width = check_bits(bits) // 8
    keys = read_ids(ids)
    arrays = {side: read_codes(path, width) for side, path in codes.items()}
    for side, array in arrays.items():
        if len(array) != len(keys):
            raise BadCodes(
                f"{codes[side].name}: wanted one row for each of {len(keys)} ids, got {len(array)}"
            )
    if len(keys) > 1 and not bool((keys[1:] > keys[:-1]).all()):
        order = _order(keys)
        keys = keys[order]
        arrays = {side: array[order] for side, array in arrays.items()}
        twice = np.flatnonzero(keys[1:] == keys[:-1])
        if len(twice):
            raise DuplicateId(f"{ids.name}: wanted distinct ids, got {keys.item(int(twice[0]))!r} twice")
    return ReadyCodes(IdTable.from_keys([keys]), arrays)


def _order(keys: Keys) -> NDArray[np.int64]:
    """Rows of keys in the order of their bytes; long keys by comparing, short ones as numbers (faster).

    Eight bytes, the first one the most significant, are a number whose order is theirs.
    """
    if keys.itemsize > _SHORT:
        return np.argsort(keys, kind="stable")
    padded = np.zeros((len(keys), -(-keys.itemsize // 8) * 8), dtype=np.uint8)
    padded[:, : keys.itemsize] = keys.view(np.uint8).reshape(len(keys), -1)
    numbers = padded.view(">u8").astype(np.uint64)
    return np.lexsort(numbers.T[::-1])


def read_ids(path: Path) -> Keys:
    """Ids (n > 0) in the order of their lines, as keys. Raises BadId with the number of a bad line."""
    data = _whole(path, BadId)
    if not len(data):
        raise BadId(f"{path.name}: wanted one id a line, got an empty file")
    ends = np.flatnonzero(data == _LF)
    if data[-1] != _LF:
        ends = np.append(ends, len(data))
    starts = np.concatenate([np.zeros(1, dtype=np.int64), ends[:-1] + 1])
    lengths = ends - starts
    _check_lines(path, data, starts, lengths)
    width = int(lengths.max())
    if len(lengths) * width > _MAX_TABLE_BYTES:
        raise BadId(
            f"{path.name}: wanted n x longest id <= {_MAX_TABLE_BYTES} bytes, got {len(lengths)} x {width}"
        )
    rows = np.zeros((len(lengths), width), dtype=np.uint8)
    step = max(1, (1 << 24) // width)
    letters = data[data != _LF]
    places = np.arange(width)
    done = 0
    for start in range(0, len(lengths), step):
        sizes = lengths[start : start + step]
        used = int(sizes.sum())
        rows[start : start + step][places < sizes[:, None]] = letters[done : done + used]
        done += used
    return rows.reshape(-1).view(f"S{width}")


def _check_lines(
    path: Path, data: NDArray[np.uint8], starts: NDArray[np.int64], lengths: NDArray[np.int64]
) -> None:
    """Raise BadId for the first line that is no id."""
    known = np.zeros(256, dtype=bool)
    known[np.frombuffer(ALPHABET, dtype=np.uint8)] = True
    known[_LF] = True
    foreign = np.flatnonzero(~known[data])
    faults = [int(np.searchsorted(starts, foreign[0], side="right")) - 1] if len(foreign) else []
    bad = (lengths < 1) | (lengths > MAX_ID_BYTES)
    dots = (lengths > 0) & (lengths <= 2)  # `.` and `..` cannot stand in a URL's path
    dots[dots] = (data[starts[dots]] == _DOT) & (data[starts[dots] + lengths[dots] - 1] == _DOT)
    bad |= dots
    if bad.any():
        faults.append(int(np.flatnonzero(bad)[0]))
    if faults:
        row = min(faults)
        got = data[starts[row] : starts[row] + min(int(lengths[row]), 60)].tobytes()
        raise BadId(
            f"{path.name}, line {row + 1}: wanted an id of 1 to {MAX_ID_BYTES} characters of "
            f"A-Z a-z 0-9 . _ : - (not . or ..), got {got!r} ({int(lengths[row])} bytes)"
        )


def read_codes(path: Path, width: int) -> CodeArray:
    """Codes uint8 (n, width) of a `.npy` file. Raises BadCodes; nothing is allocated for a size that lies.

    The header is compared with the one form that NumPy writes for such an array, because NumPy's own reader
    lets several kinds of exception through on hostile text.
    """
    try:
        with path.open("rb") as file:
            prefix = file.read(len(_MAGIC) + 2)
            header = file.read(int.from_bytes(prefix[len(_MAGIC) :], "little"))
            found = _HEADER.fullmatch(header)
            if not prefix.startswith(_MAGIC) or found is None:
                raise BadCodes(
                    f"{path.name}: wanted a .npy file of uint8 (n, {width}) in C order, got another"
                )
            shape = int(found[1]), int(found[2])
            if shape[1] != width:
                raise BadCodes(f"{path.name}: wanted shape (n, {width}) for {width * 8} bits, got {shape}")
            size, wanted = os.fstat(file.fileno()).st_size, file.tell() + shape[0] * width
            if size != wanted:
                raise BadCodes(f"{path.name}: wanted {wanted} bytes for {shape}, got {size}")
            return np.fromfile(file, dtype=np.uint8, count=shape[0] * width).reshape(shape)
    except OSError as error:
        raise BadCodes(f"{path.name}: wanted a readable file, got {error.strerror}") from error


def _whole(path: Path, kind: type[BadId]) -> NDArray[np.uint8]:
    """The bytes of a file."""
    try:
        return np.fromfile(path, dtype=np.uint8)
    except OSError as error:
        raise kind(f"{path.name}: wanted a readable file, got {error.strerror}") from error
