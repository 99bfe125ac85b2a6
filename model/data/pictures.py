"""Whether bytes are a picture that training would take, and a smaller copy of one.

Both go through `model.preprocessing`, so that `data check`, the importers, training and serving agree
on what an image is.
"""

import io

from PIL import Image

from model.preprocessing import Preprocessing, image_type

# Decoding to a small side lets libjpeg scale while it decodes: every byte of the file is still read,
# so truncation shows, at less than the cost of a full-size decode.
_PROBE = Preprocessing(size=32)

JPEG_QUALITY = 92

SIDES = range(16, 1025)
"""Pixels that the side of a squashed picture may have: those that a model's input may have."""

_SUFFIXES = {"image/jpeg": ".jpg", "image/png": ".png", "image/webp": ".webp"}


def check_picture(data: bytes) -> None:
    """Decode a picture to its last byte; raises ImageError when training would refuse it."""
    _PROBE.decode(data)


def suffix_of(data: bytes) -> str:
    """The file suffix of a picture by its bytes, whatever it was called; raises ImageError."""
    return _SUFFIXES[image_type(data)]


def squared(data: bytes, size: int) -> bytes:
    """The picture squashed to `size` x `size` pixels, as a JPEG; raises ImageError like `check_picture`."""
    buffer = io.BytesIO()
    Image.fromarray(Preprocessing(size=size).decode(data)).save(buffer, "JPEG", quality=JPEG_QUALITY)
    return buffer.getvalue()
