"""Image bytes in a content-addressed store on fsspec: a local folder by default, object storage by URL.

A blob lies at `ab/cd/<sha256>`: two levels of folders keep each below a few hundred entries. On a local
disk it is written beside its place, fsynced and renamed, so that a kill leaves no half blob behind a
whole name; object stores show an object only when it is whole.
"""

from __future__ import annotations

import hashlib
import os
import re
import uuid
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

from service.application.errors import Damaged
from service.application.inspection_ports import BlobEntry

_DIGEST = re.compile(r"[0-9a-f]{64}")


def digest_of(data: bytes) -> str:
    """SHA-256 of the bytes, in hex."""
    return hashlib.sha256(data).hexdigest()


class FsspecBlobs:
    """Blobs under one fsspec URL, for example `file:///srv/blobs` or `s3://bucket/blobs`."""

    def __init__(self, url: str) -> None:
        filesystem, root = fsspec.core.url_to_fs(url)
        self._files: Any = filesystem
        self._root: str = root
        self._local = isinstance(filesystem, LocalFileSystem)

    def ensure(self, digest: str, data: bytes, checked: bool = False) -> None:
        """Make sure that `data`, whose SHA-256 is `digest`, is stored; a damaged blob is replaced.

        The digest of `data` is the caller's word, `read` checks it. What lies there already is read once and
        compared with it, so that a PUT mends a blob. With `checked` its size is enough: a caller that has
        called without that a moment ago only asks whether the blob has gone since.
        """
        path = self._path(digest)
        if self._size(path) == len(data) and (checked or self._is_whole(path, digest)):
            return
        if self._local:
            _write_local(Path(path), data)
        else:
            self._files.pipe_file(path, data)

    def read(self, digest: str) -> bytes:
        """The bytes. Raises `Damaged` when they are missing or no longer match their digest."""
        try:
            data: bytes = self._files.cat_file(self._path(digest))
        except FileNotFoundError as error:
            raise Damaged(f"blob {digest} is missing from the store", code="blob_missing") from error
        found = digest_of(data)
        if found != digest:
            raise Damaged(f"blob {digest} is damaged: its bytes have SHA-256 {found}", code="blob_damaged")
        return data

    def remove(self, digest: str) -> None:
        """Remove the bytes; nothing happens when they are not there, as nothing is whose digest is none.

        A row of the catalog can hold such a one after damage, and its item must be able to go.
        """
        if _DIGEST.fullmatch(digest) is not None:
            self.discard(self._path(digest))

    def entries(self) -> Iterator[BlobEntry]:
        """All that lies in the store, whole blobs and anything else."""
        for folder, _, names in self._files.walk(self._root):
            for name in names:
                path = f"{folder}/{name}"
                blob = _DIGEST.fullmatch(name) is not None and self._path(name) == path
                yield BlobEntry(path, name if blob else None)

    def modified(self, path: str) -> datetime | None:
        """When a file of the store was written, UTC; None when it has gone meanwhile."""
        try:
            found: datetime = self._files.modified(path)
        except FileNotFoundError:
            return None
        return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)

    def discard(self, path: str) -> None:
        """Remove a file of the store; nothing happens when it has gone."""
        with suppress(FileNotFoundError):
            self._files.rm_file(path)

    def _size(self, path: str) -> int | None:
        try:
            size: int = self._files.size(path)
        except FileNotFoundError:
            return None
        return size

    def _is_whole(self, path: str, digest: str) -> bool:
        """Whether the bytes there can be read and are those of the digest."""
        try:
            return digest_of(self._files.cat_file(path)) == digest
        except OSError:
            return False  # gone meanwhile, or a bad sector: writing it anew mends both, or says what is wrong

    def _path(self, digest: str) -> str:
        if _DIGEST.fullmatch(digest) is None:
            raise ValueError(f"blob: wanted a SHA-256 in lower-case hex, got {digest[:80]!r}")
        return f"{self._root}/{digest[:2]}/{digest[2:4]}/{digest}"


def _write_local(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        with partial.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
