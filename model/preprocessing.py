"""Bytes of a picture to the array a model sees: the same code in training and in serving.

A `Preprocessing` is stored in the artefact with its version and digest; an index built under another one
is refused. Steps: type from the bytes (JPEG, PNG, WebP), size checked in the header before anything is
decoded, decoding, colours to 8-bit RGB (transparency over white), squash to S x S, EXIF orientation. A
picture that is S x S already is not resampled, so a PNG of that size arrives pixel for pixel.

Nothing here depends on Pillow's process-wide settings (`Image.MAX_IMAGE_PIXELS` and its like): the limits
are ours and are checked here.
"""

from __future__ import annotations

import hashlib
import io
import json
import struct
import zlib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.WebPImagePlugin import WebPImageFile

from model.containers import MIME_TYPES, Container, Kind, scan, sniff
from model.errors import ImageError, RecipeError
from model.hashers.options import option, read_options

VERSION = 1
MAX_PIXELS = 40_000_000
# JPEG's own limit, set for all: resampling 40,000,000 x 1 pixels took 4.5 s, 65,535 x 610 takes 0.4 s.
MAX_SIDE = 65_535
# A progressive JPEG is walked over once per scan; the field's encoders write about ten. Past this many
# (and past this many times `max_pixels` in all) a small file would keep the decoder busy for minutes.
MAX_PASSES = 100
PIXEL_PASSES = 16
THUMBNAIL_SIZES = range(16, 1025)

# What Pillow's three decoders raise for damaged bytes (found by fuzzing them, see tests).
DECODER_FAULTS = (
    OSError, SyntaxError, ValueError, EOFError, TypeError, KeyError, IndexError, OverflowError,
    AttributeError, struct.error, zlib.error,
)  # fmt: skip

# Opened by class and not by Image.open, which would try every format, follow a JPEG into a second
# picture, and warn by a process-wide limit.
_READERS: Mapping[Kind, Callable[[io.BytesIO], ImageFile]] = MappingProxyType(
    {"JPEG": JpegImageFile, "PNG": PngImageFile, "WEBP": WebPImageFile}
)
_FILTERS = MappingProxyType({"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC})
_TURNS = MappingProxyType(
    {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_270,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_90,
    }
)


@dataclass(frozen=True)
class Preprocessing:
    """How pictures become arrays. `size` is S in pixels, `resample` bilinear or bicubic (antialiased).

    `version` counts changes of the steps themselves; `max_pixels` is the largest width x height taken.
    """

    size: int = option(64, low=16, high=1024)
    resample: str = "bicubic"
    max_pixels: int = option(MAX_PIXELS, low=1, high=1_000_000_000)
    version: int = option(VERSION, low=VERSION, high=VERSION)

    def digest(self) -> str:
        """SHA-256 (hex) of all fields."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()

    def decode(self, data: bytes) -> NDArray[np.uint8]:
        """The picture as uint8 (S, S, 3) RGB; raises ImageError. The same bytes give the same array."""
        side = (self.size, self.size)
        # libjpeg may decode at 1/2, 1/4 or 1/8; twice the side is left for the resampling filter.
        picture, orientation = _load(data, self.max_pixels, (2 * self.size, 2 * self.size))
        if picture.size != side:
            picture = picture.resize(side, _FILTERS[self.resample])
        turned = _turn(_over_white(picture), orientation)
        return np.array(turned, dtype=np.uint8)


def read_preprocessing(table: Mapping[str, Any]) -> Preprocessing:
    """The preprocessing of a stored JSON table; raises RecipeError."""
    found = read_options(Preprocessing, table, "preprocessing")
    if found.resample not in _FILTERS:
        raise RecipeError(f"preprocessing.resample: wanted bilinear or bicubic, got {found.resample!r}")
    return found


def image_type(data: bytes) -> str:
    """MIME type by the bytes (image/jpeg, image/png, image/webp); raises ImageError."""
    return MIME_TYPES[sniff(data)]


def thumbnail(data: bytes, size: int, max_pixels: int = MAX_PIXELS) -> bytes:
    """The picture upright as a JPEG whose longer side is at most `size` (16 to 1024); raises ImageError.

    Smaller pictures keep their size. Raises ValueError for another `size`.
    """
    if size not in THUMBNAIL_SIZES:
        raise ValueError(f"wanted a thumbnail size of 16 to 1024, got {size}")
    picture, orientation = _load(data, max_pixels, (size, size))
    shrink = min(1.0, size / max(picture.size))
    width, height = (max(1, round(shrink * side)) for side in picture.size)
    if (width, height) != picture.size:
        picture = picture.resize((width, height), Image.Resampling.BICUBIC)
    out = io.BytesIO()
    _turn(_over_white(picture), orientation).save(out, "JPEG", quality=85, optimize=True)
    return out.getvalue()


def _load(data: bytes, max_pixels: int, draft: tuple[int, int]) -> tuple[Image.Image, int]:
    """Decode to mode RGB or RGBA, JPEGs no smaller than `draft`; with the EXIF orientation still to do."""
    container = scan(data)
    _check_header(container, max_pixels)
    try:
        with _READERS[container.kind](io.BytesIO(container.data)) as opened:
            if opened.size != container.size:
                raise ImageError("broken_image", f"two sizes: {container.size} and {opened.size}")
            if isinstance(opened, JpegImageFile):
                opened.draft("RGB", draft)
            opened.load()
            return _to_rgb(opened), container.orientation
    except Image.DecompressionBombError as error:
        raise ImageError("too_many_pixels", str(error)) from error
    except DECODER_FAULTS as error:
        detail = f"the {container.kind} cannot be decoded: {error}"
        raise ImageError("broken_image", detail) from error


def _check_header(container: Container, max_pixels: int) -> None:
    width, height = container.size
    if width < 1 or height < 1:
        raise ImageError("broken_image", f"wanted at least 1 x 1 pixels, got {width} x {height}")
    if width * height > max_pixels or max(width, height) > MAX_SIDE:
        wanted = f"at most {max_pixels} pixels and {MAX_SIDE} a side"
        raise ImageError("too_many_pixels", f"wanted {wanted}, got {width} x {height} = {width * height}")
    if container.animated:
        raise ImageError("animated_image", "wanted a still picture, got an animation")
    most = max(1, min(MAX_PASSES, PIXEL_PASSES * max_pixels // (width * height)))
    if container.passes > most:
        raise ImageError("broken_image", f"wanted at most {most} scans, got {container.passes}")


def _to_rgb(picture: Image.Image) -> Image.Image:
    """Any mode that the three decoders give as RGB, or as RGBA where there is transparency."""
    if picture.mode.startswith("I"):
        # 16-bit grey: Pillow's own conversion clips at 255, so almost everything would come out white.
        wide = np.asarray(picture).astype(np.uint32)
        wide += 128
        wide //= 257
        return Image.fromarray(wide.astype(np.uint8)).convert("RGB")
    return picture.convert("RGBA" if picture.has_transparency_data else "RGB")


def _over_white(picture: Image.Image) -> Image.Image:
    if picture.mode == "RGB":
        return picture
    white = Image.new("RGBA", picture.size, (255, 255, 255, 255))
    return Image.alpha_composite(white, picture).convert("RGB")


def _turn(picture: Image.Image, orientation: int) -> Image.Image:
    return picture.transpose(_TURNS[orientation]) if orientation in _TURNS else picture
