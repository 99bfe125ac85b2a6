"""What the bytes of a picture say before anything is decoded: type, size, turning, animation.

Everything here is a short walk over headers with bounded work, because the bytes come from strangers. What
the walk hands on to the decoder is the pixels and what they need (tables, palette, transparency): colour
profiles, texts and thumbnails are left out, so a compressed text that unpacks to gigabytes, a damaged
colour profile or a second picture behind the first is never looked at.

Sources: PNG (W3C, third edition), JPEG (ITU-T T.81 annex B), WebP container (Google), EXIF 2.32 section 4.6.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from model.errors import ImageError

Kind = Literal["JPEG", "PNG", "WEBP"]

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
PNG_KEPT = frozenset({b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"})
EXIF_MARK = b"Exif\0\0"
JPEG_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
# Real files have dozens of segments or thousands of chunks; a walk over more is somebody's loop.
MAX_SEGMENTS = 20_000
MAX_CHUNKS = 50_000

MIME_TYPES: Mapping[Kind, str] = MappingProxyType(
    {"JPEG": "image/jpeg", "PNG": "image/png", "WEBP": "image/webp"}
)
# First bytes of what people send by mistake, so that the refusal can name it.
OTHERS = (
    (b"GIF8", "a GIF"),
    (b"BM", "a BMP"),
    (b"II*\0", "a TIFF"),
    (b"MM\0*", "a TIFF"),
    (b"<svg", "an SVG"),
    (b"<?xml", "an XML document (SVG?)"),
    (b"%PDF", "a PDF"),
    (b"\0\0\1\0", "an icon"),
)


@dataclass(frozen=True)
class Container:
    """A picture's header: `data` is what its decoder needs, `size` is (width, height) in pixels.

    `orientation` is EXIF's, 1 to 8 (1: as it is); `passes` is how often the decoder will walk over all
    pixels (scans of a progressive JPEG).
    """

    kind: Kind
    data: bytes
    size: tuple[int, int]
    orientation: int = 1
    animated: bool = False
    passes: int = 1


def sniff(data: bytes) -> Kind:
    """The type by the first bytes; raises ImageError for no bytes and for any other type."""
    if not data:
        raise ImageError("empty_file", "wanted a JPEG, PNG or WebP image, got no bytes")
    if data.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if data.startswith(PNG_SIGNATURE):
        return "PNG"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    start = data[:64].lstrip().lower()
    found = next((name for magic, name in OTHERS if start.startswith(magic.lower())), "something else")
    raise ImageError("unsupported_image", f"wanted a JPEG, PNG or WebP image, got {found}")


def scan(data: bytes) -> Container:
    """Read the header of a JPEG, PNG or WebP image; raises ImageError."""
    kind = sniff(data)
    try:
        return _SCANNERS[kind](data)
    except (struct.error, IndexError) as error:
        raise ImageError("broken_image", f"the {kind} header ends early") from error


def _scan_png(data: bytes) -> Container:
    parts, orientation, frames, position = [PNG_SIGNATURE], 1, 1, len(PNG_SIGNATURE)
    for _ in range(MAX_CHUNKS):
        if position >= len(data):
            break  # no IEND: the decoder decides whether the pixels are all there
        length, name = struct.unpack_from(">I4s", data, position)
        body, end = position + 8, position + 12 + length
        if name in PNG_KEPT:
            parts.append(data[position:end])
        elif name == b"eXIf":
            orientation = read_orientation(data[body : body + length])
        elif name == b"acTL":
            frames = struct.unpack_from(">I", data, body)[0]
        position = len(data) if name == b"IEND" else end
    else:
        raise ImageError("broken_image", f"the PNG has more than {MAX_CHUNKS} chunks")
    size = struct.unpack_from(">II", data, 16)
    return Container("PNG", b"".join(parts), size, orientation, animated=frames > 1)


def _scan_jpeg(data: bytes) -> Container:
    parts, orientation, size, position = [data[:2]], 1, (0, 0), 2
    for _ in range(MAX_SEGMENTS):
        mark, code = data[position], data[position + 1]
        if mark != 0xFF:
            raise ImageError("broken_image", f"the JPEG has no marker at byte {position}")
        if code == 0xFF:  # fill byte
            position += 1
            continue
        (length,) = struct.unpack_from(">H", data, position + 2)
        body, end = position + 4, position + 2 + length
        if code == 0xDA:  # start of scan: pixels from here on
            break
        if code == 0xE1 and data.startswith(EXIF_MARK, body):
            orientation = read_orientation(data[body + len(EXIF_MARK) : end])
        if 0xC0 <= code <= 0xCF and code not in (0xC4, 0xC8, 0xCC):  # start of frame
            height, width = struct.unpack_from(">HH", data, body + 1)
            size = (width, height)
        if not (0xE1 <= code <= 0xEF and code != 0xEE) and code != 0xFE:  # keep JFIF and Adobe
            parts.append(data[position:end])
        position = end
    else:
        raise ImageError("broken_image", f"the JPEG has more than {MAX_SEGMENTS} segments before its pixels")
    passes, end = _walk_scans(data, position)
    parts.append(data[position:end])
    return Container("JPEG", b"".join(parts), size, orientation, passes=passes)


def _walk_scans(data: bytes, position: int) -> tuple[int, int]:
    """Number of scans from the first one at `position`, and where the picture ends.

    What follows the end (a phone's second picture or film) is nobody's business. Between two markers are
    pixels, in which FF is always stuffed with 00 or is a restart mark.
    """
    passes = 0
    for _ in range(MAX_SEGMENTS):
        passes += data[position + 1] == 0xDA
        (length,) = struct.unpack_from(">H", data, position + 2)
        found = JPEG_MARKER.search(data, position + 2 + length)
        if found is None:
            return passes, len(data)  # no end: the decoder decides whether the pixels are all there
        position = found.end() - 2
        if data[position + 1] == 0xD9:
            return passes, position + 2
    raise ImageError("broken_image", f"the JPEG has more than {MAX_SEGMENTS} segments among its pixels")


def _scan_webp(data: bytes) -> Container:
    kind = data[12:16]
    if kind == b"VP8X":
        width = int.from_bytes(_exactly(data, 24, 3), "little") + 1
        height = int.from_bytes(_exactly(data, 27, 3), "little") + 1
        return Container("WEBP", data, (width, height), _webp_orientation(data), bool(data[20] & 2))
    if kind == b"VP8L":
        packed = int.from_bytes(_exactly(data, 21, 4), "little")
        return Container("WEBP", data, ((packed & 0x3FFF) + 1, (packed >> 14 & 0x3FFF) + 1))
    if kind == b"VP8 ":
        width, height = struct.unpack_from("<HH", data, 26)
        return Container("WEBP", data, (width & 0x3FFF, height & 0x3FFF))
    raise ImageError("broken_image", "the WebP starts with no picture")


def _webp_orientation(data: bytes) -> int:
    position = 12
    for _ in range(MAX_SEGMENTS):
        if position + 8 > len(data):
            break
        name, length = struct.unpack_from("<4sI", data, position)
        if name == b"EXIF":
            return read_orientation(data[position + 8 : position + 8 + length].removeprefix(EXIF_MARK))
        position += 8 + length + length % 2
    return 1


def _exactly(data: bytes, start: int, count: int) -> bytes:
    found = data[start : start + count]
    if len(found) < count:
        raise IndexError(start)
    return found


_SCANNERS: Mapping[Kind, Callable[[bytes], Container]] = MappingProxyType(
    {"JPEG": _scan_jpeg, "PNG": _scan_png, "WEBP": _scan_webp}
)


def read_orientation(exif: bytes) -> int:
    """Tag 0x0112 of the first directory of an EXIF block (TIFF header first); 1 when absent or damaged.

    A picture with a damaged EXIF block is still a picture, so this never raises.
    """
    order = {b"II": "<", b"MM": ">"}.get(exif[:2])
    if order is None:
        return 1
    try:
        (start,) = struct.unpack_from(order + "I", exif, 4)
        (count,) = struct.unpack_from(order + "H", exif, start)
        for entry in range(start + 2, start + 2 + 12 * count, 12):
            tag, kind = struct.unpack_from(order + "HH", exif, entry)
            if tag == 0x0112:
                (value,) = struct.unpack_from(order + ("I" if kind == 4 else "H"), exif, entry + 8)
                return value if 1 <= value <= 8 else 1
    except struct.error:
        return 1
    return 1
