"""Stored images and their thumbnails; thumbnails are kept in a cache folder that may vanish at any time."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from pathlib import Path

from service.application.errors import InvalidInput
from service.application.ports import BlobStore, Thumbnailer

THUMBNAIL_SIZES = (32, 64, 96, 128, 192, 256, 384, 512, 768, 1024)
"""Sizes that are made, in pixels: a fixed few, so that nobody can fill the disk by asking for each size."""

_SIGNATURES = ((b"\xff\xd8\xff", "image/jpeg"), (b"\x89PNG\r\n\x1a\n", "image/png"))
_SUFFIXES = {"image/jpeg": "jpg", "image/png": "png", "image/webp": "webp"}


def media_type(data: bytes) -> str:
    """Media type of image bytes that were decoded before, from their first bytes. Raises `InvalidInput`."""
    for signature, found in _SIGNATURES:
        if data.startswith(signature):
            return found
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "image/webp"
    raise InvalidInput("wanted the bytes of a JPEG, PNG or WebP image", code="unsupported_image")


@dataclass(frozen=True)
class Thumbnails:
    """Thumbnails of blobs."""

    blobs: BlobStore
    make: Thumbnailer
    folder: Path

    def get(self, digest: str, size: int) -> tuple[bytes, str]:
        """Thumbnail bytes and media type; both sides have at most `size` pixels.

        The size made is the largest of `THUMBNAIL_SIZES` that is not above `size`. Raises `InvalidInput`
        for a size that is too small or too large, `Damaged` when the image is.
        """
        if not THUMBNAIL_SIZES[0] <= size <= THUMBNAIL_SIZES[-1]:
            raise InvalidInput(
                f"size is {THUMBNAIL_SIZES[0]} to {THUMBNAIL_SIZES[-1]} pixels, got {size}", code="bad_size"
            )
        made = max(one for one in THUMBNAIL_SIZES if one <= size)
        for found in self._cached(digest, made):
            return found
        data, kind = self.make(self.blobs.read(digest), made)
        self._keep(digest, made, data, kind)
        return data, kind

    def forget(self, digest: str) -> None:
        """Drop the thumbnails of a blob that was removed."""
        for path in self._place(digest).glob(f"{digest}-*"):
            path.unlink(missing_ok=True)

    def _cached(self, digest: str, size: int) -> list[tuple[bytes, str]]:
        for kind, suffix in _SUFFIXES.items():
            try:
                return [((self._place(digest) / f"{digest}-{size}.{suffix}").read_bytes(), kind)]
            except FileNotFoundError:
                continue
        return []

    def _keep(self, digest: str, size: int, data: bytes, kind: str) -> None:
        path = self._place(digest) / f"{digest}-{size}.{_SUFFIXES[kind]}"
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{uuid.uuid4().hex}")
        partial.write_bytes(data)
        partial.replace(path)

    def _place(self, digest: str) -> Path:
        return self.folder / digest[:2]
