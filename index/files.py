"""Reading and writing of the index's own files, with digests, and nothing believed unread.

Arrays are plain `.npy` files. Their header must be, byte for byte, that of the shape and type that the
reader wants, and the file's size must fit, before anything is allocated; no pickle is ever read.
Faiss's own file format is not used, because its reader trusts its input and can take the process down.
"""

import hashlib
import io
import json
import math
import os
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from index.errors import CorruptIndex

MAX_JSON_BYTES = 1 << 20
_HASH_BLOCK = 1 << 20


def fsync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_bytes(path: Path, data: bytes) -> str:
    """Write a new file durably; return its SHA-256 as hexadecimal text."""
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    return hashlib.sha256(data).hexdigest()


def write_json(path: Path, content: dict[str, Any]) -> str:
    """Write a new JSON file durably, keys sorted; return its SHA-256."""
    return write_bytes(path, (json.dumps(content, indent=1, sort_keys=True) + "\n").encode())


def read_small(path: Path, sha256: str | None = None) -> bytes:
    """Return the bytes of a small file, whose digest must be `sha256` if given. Raises CorruptIndex."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_JSON_BYTES + 1)
    except OSError as error:
        raise CorruptIndex(f"{path.name}: wanted a readable file, got {error.strerror}") from error
    if len(data) > MAX_JSON_BYTES:
        raise CorruptIndex(f"{path.name}: wanted at most {MAX_JSON_BYTES} bytes, got more")
    if sha256 is not None:
        check_digest(path.name, sha256, hashlib.sha256(data).hexdigest())
    return data


def read_json(path: Path, sha256: str | None = None) -> dict[str, Any]:
    """Return the object of a small JSON file. Raises CorruptIndex."""
    try:
        content = json.loads(read_small(path, sha256))
    except (ValueError, RecursionError) as error:
        raise CorruptIndex(f"{path.name}: wanted JSON, got {error}") from error
    if not isinstance(content, dict):
        raise CorruptIndex(f"{path.name}: wanted a JSON object, got {type(content).__name__}")
    return content


def check_digest(name: str, wanted: str, got: str) -> None:
    """Raise CorruptIndex unless the digests agree."""
    if wanted != got:
        raise CorruptIndex(f"{name}: wanted SHA-256 {wanted[:80]}, got {got}")


def sha256_of(path: Path) -> str:
    """SHA-256 of a file of any size. Raises CorruptIndex when it cannot be read."""
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while block := file.read(_HASH_BLOCK):
                digest.update(block)
    except OSError as error:
        raise CorruptIndex(f"{path.name}: wanted a readable file, got {error.strerror}") from error
    return digest.hexdigest()


def npy_header(dtype: np.dtype[Any], shape: tuple[int, ...]) -> bytes:
    """Return the header of a `.npy` file, format 1.0, for a C-ordered array.

    Readers compare these bytes instead of parsing what they find: NumPy's parser lets several kinds of
    exception through on hostile text.
    """
    text = f"{{'descr': '{dtype.str}', 'fortran_order': False, 'shape': {shape!r}, }}".encode()
    text += b" " * (-(len(text) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


class ArrayWriter:
    """Writes one `.npy` file piece by piece; a context manager that leaves a durable file behind.

    Leaving without an exception checks that exactly `shape[0]` rows came, which is a promise of the
    caller (ValueError when broken). `sha256` holds the file's digest afterwards.
    """

    def __init__(self, path: Path, dtype: str, shape: tuple[int, ...]) -> None:
        self.sha256 = ""
        self._dtype, self._shape, self._rows = np.dtype(dtype), shape, 0
        self._digest = hashlib.sha256()
        self._file: io.BufferedWriter = path.open("xb")
        self._write(npy_header(self._dtype, shape))

    def _write(self, data: bytes) -> None:
        self._digest.update(data)
        self._file.write(data)

    def append(self, rows: NDArray[Any]) -> None:
        """Append rows of the promised dtype and row shape."""
        self._rows += len(rows)
        self._write(np.ascontiguousarray(rows, dtype=self._dtype).tobytes())

    def __enter__(self) -> Self:
        """Return the writer."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Flush, fsync and close."""
        with self._file as file:
            if kind is not None:
                return
            if self._rows != self._shape[0]:
                raise ValueError(f"wanted {self._shape[0]} rows, got {self._rows}")
            file.flush()
            os.fsync(file.fileno())
        self.sha256 = self._digest.hexdigest()


class ArrayReader:
    """Reads one `.npy` file piece by piece and compares its digest at the end.

    Until `finish` has returned, what was read is unproven: keep it out of sight.
    """

    def __init__(self, path: Path, dtype: str, shape: tuple[int, ...], sha256: str) -> None:
        """Open the file and check its header and size. Raises CorruptIndex."""
        self._name, self._dtype, self._shape, self._wanted = path.name, np.dtype(dtype), shape, sha256
        self._digest = hashlib.sha256()
        try:
            self._file: io.BufferedReader = path.open("rb")
        except OSError as error:
            raise CorruptIndex(f"{path.name}: wanted a readable file, got {error.strerror}") from error
        try:
            self._check_header(os.fstat(self._file.fileno()).st_size)
        except BaseException:
            self._file.close()
            raise

    def _check_header(self, size: int) -> None:
        """Compare the header with what is wanted, and the file's size with what the header promises."""
        header = npy_header(self._dtype, self._shape)
        if self._file.read(len(header)) != header:
            raise CorruptIndex(f"{self._name}: wanted a .npy header of {self._dtype} {self._shape}")
        expected = len(header) + math.prod(self._shape) * self._dtype.itemsize
        if size != expected:
            raise CorruptIndex(f"{self._name}: wanted {expected} bytes, got {size}")
        self._digest.update(header)

    def read(self, rows: int) -> NDArray[Any]:
        """Return the next `rows` rows. Raises CorruptIndex when the file ends before."""
        shape = (rows, *self._shape[1:])
        wanted = math.prod(shape) * self._dtype.itemsize
        data = bytearray(wanted)
        got = self._file.readinto(data)
        if got != wanted:
            raise CorruptIndex(f"{self._name}: wanted {wanted} more bytes, got {got}")
        self._digest.update(data)
        return np.frombuffer(data, dtype=self._dtype).reshape(shape)

    def finish(self) -> None:
        """Check the digest of the whole file. Raises CorruptIndex."""
        self._digest.update(self._file.read())
        check_digest(self._name, self._wanted, self._digest.hexdigest())

    def __enter__(self) -> Self:
        """Return the reader."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the file."""
        self._file.close()
