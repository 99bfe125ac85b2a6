"""Pictures of a report: PNGs in base64 read back, and the change between two of them made visible."""

from __future__ import annotations

import base64
import binascii
import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from model.errors import DataError

FACTOR = 10
GREY = 128
MAX_SIDE = 4096
"""Longest side of a picture in a report, pixels."""

Pixels = NDArray[np.uint8]


def read_png(text: str) -> Pixels:
    """The pixels, uint8 (H, W, 3), of a PNG in base64. Raises DataError for anything else."""
    try:
        data = base64.b64decode(text, validate=True)
        with Image.open(io.BytesIO(data), formats=("PNG",)) as picture:
            if max(picture.size) > MAX_SIDE:
                raise DataError(f"picture: wanted at most {MAX_SIDE} pixels a side, got {picture.size}")
            return np.asarray(picture.convert("RGB"))
    except (binascii.Error, UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        raise DataError(f"picture: wanted a PNG in base64, got {text[:20]!r} ({error})") from error


def png_uri(pixels: Pixels) -> str:
    """A `data:` address with the pixels, uint8 (H, W, 3), as PNG: what a page shows without loading."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def magnified(clean: Pixels, attacked: Pixels, factor: int = FACTOR) -> Pixels:
    """The change times `factor` around mid-grey, clipped to 0..255. Raises DataError on unlike shapes."""
    if clean.shape != attacked.shape:
        raise DataError(f"change: wanted pictures of one shape, got {clean.shape} and {attacked.shape}")
    change = attacked.astype(np.int64) - clean.astype(np.int64)
    return np.clip(GREY + factor * change, 0, 255).astype(np.uint8)
