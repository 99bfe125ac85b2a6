"""Pictures from strangers: every one becomes the right array or an ImageError with the right code."""

import io
import random
import struct
import time
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from model.containers import JPEG_MARKER, read_orientation, scan, sniff
from model.errors import ImageError, RecipeError
from model.preprocessing import Preprocessing, image_type, read_preprocessing, thumbnail

S = 32
DECODE = Preprocessing(size=S).decode


def noise(height=S, width=S, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def smooth(height=240, width=320):
    y, x = np.mgrid[0:height, 0:width]
    return np.stack([x * 255 // width, y * 255 // height, (x + y) % 256], axis=2).astype(np.uint8)


def encode(picture, kind, **options):
    if isinstance(picture, np.ndarray):
        picture = Image.fromarray(picture)
    out = io.BytesIO()
    picture.save(out, kind, **options)
    return out.getvalue()


def chunk(name, body):
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def png(width, height, depth, colour, raw, extra=b""):
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(raw, 1))
    return b"\x89PNG\r\n\x1a\n" + header + extra + pixels + chunk(b"IEND", b"")


def refused(data, decode=DECODE):
    start = time.perf_counter()
    with pytest.raises(ImageError) as caught:
        decode(data)
    assert time.perf_counter() - start < 2.0
    assert caught.value.detail
    return caught.value.code


def insert_after_signature(data, extra):
    return data[:33] + extra + data[33:]


# --- exactness and determinism ---------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), size=st.sampled_from([16, 32, 64, 96]))
def test_png_of_the_models_size_is_left_pixel_for_pixel(seed, size):
    pixels = noise(size, size, seed)
    assert np.array_equal(Preprocessing(size=size).decode(encode(pixels, "PNG")), pixels)


def test_lossless_webp_of_the_models_size_is_exact_too():
    assert np.array_equal(DECODE(encode(noise(), "WEBP", lossless=True)), noise())


def test_jpeg_of_the_models_size_is_what_pillow_decodes():
    data = encode(noise(), "JPEG", quality=95)
    assert np.array_equal(DECODE(data), np.asarray(Image.open(io.BytesIO(data))))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_decoding_twice_gives_the_same_array(kind):
    data = encode(smooth(), kind)
    first = DECODE(data)
    assert first.shape == (S, S, 3)
    assert first.dtype == np.uint8
    assert first.flags.writeable
    assert np.array_equal(first, DECODE(data))


@pytest.mark.parametrize("progressive", [False, True])
def test_decoding_a_jpeg_at_reduced_scale_changes_little(progressive):
    data = encode(smooth(960, 1280), "JPEG", quality=95, progressive=progressive)
    full = Image.open(io.BytesIO(data)).resize((S, S), Image.Resampling.BICUBIC)
    assert np.abs(DECODE(data).astype(int) - np.asarray(full).astype(int)).mean() < 2.0


def test_bilinear_and_bicubic_are_two_preprocessings():
    bilinear = Preprocessing(size=S, resample="bilinear")
    data = encode(smooth(), "PNG")
    assert not np.array_equal(bilinear.decode(data), DECODE(data))
    assert bilinear.digest() != Preprocessing(size=S).digest()


# --- colour modes ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "colour", "wanted"),
    [
        ("1", 1, (255, 255, 255)),
        ("L", 77, (77, 77, 77)),
        ("P", 3, None),
        ("LA", (80, 128), (167, 167, 167)),
        ("RGBA", (200, 0, 0, 0), (255, 255, 255)),
        ("RGBA", (200, 10, 20, 255), (200, 10, 20)),
        ("RGBA", (255, 0, 0, 128), (255, 127, 127)),
    ],
)
@pytest.mark.parametrize("side", [S, 50])
def test_every_png_mode_becomes_rgb_over_white(mode, colour, wanted, side):
    picture = Image.new(mode, (side, side), colour)
    if mode == "P":
        picture.putpalette([0, 0, 0, 1, 1, 1, 2, 2, 2, 9, 99, 199])
        wanted = (9, 99, 199)
    assert DECODE(encode(picture, "PNG")) == pytest.approx(np.broadcast_to(wanted, (S, S, 3)), abs=1)


def test_palette_entry_declared_transparent_shows_white():
    picture = Image.new("P", (S, S), 1)
    picture.putpalette([0, 0, 0, 200, 100, 50])
    assert (DECODE(encode(picture, "PNG", transparency=1)) == 255).all()
    assert (DECODE(encode(picture, "PNG", transparency=0)) == (200, 100, 50)).all()


@pytest.mark.parametrize(("mode", "colour"), [("RGB", (1, 2, 3)), ("L", 7), ("1", 0)])
def test_colour_declared_transparent_shows_white(mode, colour):
    data = encode(Image.new(mode, (S, S), colour), "PNG", transparency=colour)
    assert (DECODE(data) == 255).all()


@pytest.mark.parametrize("value", [0, 255, 256, 257, 1000, 32768, 65279, 65535])
def test_sixteen_bit_grey_is_scaled_not_clipped(value):
    data = png(S, S, 16, 0, (b"\0" + struct.pack(">H", value) * S) * S)
    assert (DECODE(data) == round(value / 257)).all()


@pytest.mark.parametrize(("colour", "pixel"), [(2, (65535, 32768, 0)), (6, (65535, 32768, 0, 65535))])
def test_sixteen_bit_colour_is_scaled(colour, pixel):
    data = png(S, S, 16, colour, (b"\0" + struct.pack(f">{len(pixel)}H", *pixel) * S) * S)
    assert DECODE(data) == pytest.approx(np.broadcast_to((255, 128, 0), (S, S, 3)), abs=1)


@pytest.mark.parametrize(
    ("ink", "wanted"),
    [((255, 0, 0, 0), (0, 255, 255)), ((0, 0, 0, 255), (0, 0, 0)), ((0, 0, 0, 0), (255, 255, 255))],
)
def test_cmyk_jpeg_with_adobes_inverted_inks(ink, wanted):
    data = encode(Image.new("CMYK", (64, 64), ink), "JPEG", quality=95)
    assert b"Adobe" in data
    assert DECODE(data) == pytest.approx(np.broadcast_to(wanted, (S, S, 3)), abs=3)


def test_grey_jpeg():
    assert DECODE(encode(Image.new("L", (90, 40), 90), "JPEG")) == pytest.approx(90, abs=1)


# --- EXIF ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(kind, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if kind == "WEBP" else {"quality": 100} if kind == "JPEG" else {}
    data = encode(smooth(S, S), kind, exif=exif, **options)
    wanted = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
    assert np.array_equal(DECODE(data), np.asarray(wanted))
    assert scan(data).orientation == orientation


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_impossible_orientation_is_ignored(orientation):
    block = b"II*\0" + struct.pack("<IHHHIHH", 8, 1, 0x0112, 3, 1, orientation, 0)
    assert read_orientation(block) == 1


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("kind", [3, 4])
def test_orientation_in_both_byte_orders_and_types(order, kind):
    value = struct.pack(order + ("HH" if kind == 3 else "I"), *((6, 0) if kind == 3 else (6,)))
    entries = struct.pack(order + "HHI", 0x0110, 2, 1) + b"abc\0"
    entries += struct.pack(order + "HHI", 0x0112, kind, 1) + value
    start = {"<": b"II*\0", ">": b"MM\0*"}[order] + struct.pack(order + "IH", 8, 2)
    assert read_orientation(start + entries) == 6


@given(st.binary(max_size=80), st.sampled_from([b"", b"II*\0\x08\0\0\0", b"MM\0*\0\0\0\x08"]))
def test_no_exif_block_breaks_the_reader(tail, head):
    assert read_orientation(head + tail) in range(1, 9)


@pytest.mark.parametrize("block", [b"", b"II*\0\xff\xff\xff\xff", b"MM\0*\0\0\0\x08\xff\xff" + b"\1" * 99])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_picture_with_corrupt_exif_is_still_a_picture(block, kind):
    data = encode(smooth(S, S), kind, exif=b"Exif\0\0" + block)
    assert np.array_equal(DECODE(data), DECODE(encode(smooth(S, S), kind)))


# --- refusals --------------------------------------------------------------------------------------


def test_no_bytes():
    assert refused(b"") == "empty_file"


@pytest.mark.parametrize(
    "data",
    [
        b"just a text that somebody called photo.jpg",
        b'<svg xmlns="http://www.w3.org/2000/svg"><circle r="9"/></svg>',
        b'\n <?xml version="1.0"?><svg/>',
        b"%PDF-1.7",
        b"\0",
        b"RIFF\0\0\0\0WAVE",
        encode(noise(), "GIF"),
        encode(noise(), "BMP"),
        encode(noise(), "TIFF"),
        encode(noise(), "ICO"),
    ],
)
def test_other_types_are_unsupported(data):
    assert refused(data) == "unsupported_image"


def test_refusal_names_what_came():
    with pytest.raises(ImageError, match="got a GIF"):
        sniff(b"GIF89a")


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_animations_are_refused(kind):
    frames = [Image.fromarray(noise(seed=i)) for i in range(3)]
    data = encode(frames[0], kind, save_all=True, append_images=frames[1:], duration=50)
    assert refused(data) == ("unsupported_image" if kind == "GIF" else "animated_image")


def test_apng_of_one_frame_is_a_still():
    data = insert_after_signature(encode(noise(), "PNG"), chunk(b"acTL", struct.pack(">II", 1, 0)))
    assert np.array_equal(DECODE(data), noise())


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("share", [0.01, 0.3, 0.6, 0.9])
def test_truncated_files_are_broken(kind, share):
    data = encode(noise(128, 128), kind)
    assert refused(data[: max(16, int(len(data) * share))]) == "broken_image"


def test_bomb_is_refused_from_its_header():
    rows = zlib.compress(b"\0" * (2501 * 20000), 9)
    data = encode(noise(), "PNG")[:8] + chunk(b"IHDR", struct.pack(">IIBBBBB", 20000, 20000, 1, 0, 0, 0, 0))
    assert len(rows) < 60_000
    assert refused(data + chunk(b"IDAT", rows) + chunk(b"IEND", b"")) == "too_many_pixels"
    assert refused(data) == "too_many_pixels"  # no pixels behind it at all: nothing was decoded


@pytest.mark.parametrize(("width", "height"), [(65500, 65500), (40_000_001, 1), (65_536, 1), (1, 100_000)])
def test_png_too_large_in_area_or_side(width, height):
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    assert refused(b"\x89PNG\r\n\x1a\n" + header) == "too_many_pixels"


def test_jpeg_too_large():
    data = bytearray(encode(noise(), "JPEG"))
    at = data.index(b"\xff\xc0") + 5
    data[at : at + 4] = struct.pack(">HH", 60000, 60000)
    assert refused(bytes(data)) == "too_many_pixels"


@pytest.mark.parametrize(
    "body",
    [
        b"VP8X" + struct.pack("<I", 10) + b"\0\0\0\0" + b"\xff\xff\xff" + b"\xff\xff\xff",
        b"VP8L" + struct.pack("<I", 5) + b"\x2f" + struct.pack("<I", 0x0FFFFFFF),
        b"VP8 " + struct.pack("<I", 20) + b"\0\0\0\x9d\x01\x2a" + struct.pack("<HH", 0x3FFF, 0x3FFF),
    ],
)
def test_webp_too_large_in_each_of_its_headers(body):
    data = b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body
    assert refused(data) == "too_many_pixels"


def test_limit_is_ours_and_not_pillows(monkeypatch):
    small = Preprocessing(size=S, max_pixels=1000)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    assert refused(encode(noise(40, 40), "PNG"), small.decode) == "too_many_pixels"
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    for kind in ("JPEG", "PNG"):
        assert DECODE(encode(noise(), kind)).shape == (S, S, 3)
    assert refused(encode(noise(), "WEBP")) == "too_many_pixels"  # libwebp's reader asks Pillow's limit


@pytest.mark.parametrize("size", [(0, 5), (5, 0)])
def test_picture_without_pixels(size):
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", *size, 8, 2, 0, 0, 0))
    assert refused(b"\x89PNG\r\n\x1a\n" + header) == "broken_image"


@pytest.mark.parametrize(
    "data",
    [
        b"\xff\xd8\xff",
        b"\xff\xd8\xff\xe0",
        b"\xff\xd8\xff\xe0\0\x04ab00",
        b"\xff\xd8\xff\xff\xff\xff",
        b"\x89PNG\r\n\x1a\n",
        b"\x89PNG\r\n\x1a\n\0\0",
        b"RIFF\0\0\0\0WEBP",
        b"RIFF\0\0\0\0WEBPVP8X\0\0",
        b"RIFF\0\0\0\0WEBPVP8 \0\0",
        b"RIFF\0\0\0\0WEBPVP8L\0\0",
        b"RIFF\0\0\0\0WEBPJUNK\0\0\0\0",
    ],
)
def test_headers_that_end_early(data):
    assert refused(data) == "broken_image"


# --- bombs beside the pixels, and work that must stay bounded --------------------------------------


@pytest.mark.parametrize("name", [b"zTXt", b"iTXt", b"iCCP"])
def test_compressed_texts_and_profiles_are_never_unpacked(name):
    packed = zlib.compress(b"\0" * 50_000_000, 9)
    body = {b"zTXt": b"k\0\0", b"iTXt": b"k\0\1\0\0\0", b"iCCP": b"p\0\0"}[name] + packed
    data = insert_after_signature(encode(noise(), "PNG"), chunk(name, body) * 20)
    start = time.perf_counter()
    assert np.array_equal(DECODE(data), noise())
    assert time.perf_counter() - start < 0.5


def test_jpeg_metadata_is_left_out_and_trailing_bytes_do_not_matter():
    plain = encode(smooth(), "JPEG")
    junk = b"".join(b"\xff" + bytes([code]) + struct.pack(">H", 65535) + b"\xff\xda" * 32766 + b"x"
                    for code in (0xE2, 0xED, 0xFE))  # fmt: skip
    data = plain[:2] + junk + plain[2:] + b"\xff\xda\0\x08" * 100_000
    assert len(scan(data).data) <= len(plain)
    assert scan(data).passes == 1
    assert np.array_equal(DECODE(data), DECODE(plain))


def test_fill_bytes_before_a_marker_are_allowed():
    plain = encode(smooth(), "JPEG")
    assert np.array_equal(DECODE(plain[:2] + b"\xff\xff\xff" + plain[2:]), DECODE(plain))


def test_progressive_jpeg_with_hundreds_of_scans_is_refused():
    plain = encode(smooth(), "JPEG", progressive=True)
    first = plain.index(b"\xff\xda")
    (length,) = struct.unpack_from(">H", plain, first + 2)
    end = JPEG_MARKER.search(plain, first + 2 + length).start()
    assert 1 < scan(plain).passes < 20
    assert refused(plain[:end] + plain[first:end] * 300 + plain[end:]) == "broken_image"


def test_endless_segments_and_chunks_are_refused():
    assert refused(b"\xff\xd8" + b"\xff\xe0\0\2" * 50_000) == "broken_image"
    assert refused(b"\x89PNG\r\n\x1a\n" + b"\0\0\0\0junk\0\0\0\0" * 250_000) == "broken_image"
    jpeg = encode(noise(), "JPEG")[:-2]
    assert refused(jpeg + b"\xff\xfe\0\2" * 50_000) == "broken_image"


@pytest.mark.parametrize("size", [(1, 1), (1, 10_000), (10_000, 1), (3, 65_000)])
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_extreme_shapes(size, kind):
    assert DECODE(encode(Image.new("RGB", size, (10, 200, 30)), kind)) == pytest.approx(
        np.broadcast_to((10, 200, 30), (S, S, 3)), abs=3
    )


def test_two_different_sizes_in_one_webp_are_refused():
    data = bytearray(encode(noise(), "WEBP", lossless=True, exif=b"Exif\0\0II*\0"))
    assert data[12:16] == b"VP8X"
    data[24] ^= 1
    assert refused(bytes(data)) == "broken_image"


def test_second_or_late_png_header_cannot_hide_a_size():
    plain = encode(noise(), "PNG")
    huge = chunk(b"IHDR", struct.pack(">IIBBBBB", 20000, 20000, 8, 2, 0, 0, 0))
    small = chunk(b"tEXt", struct.pack(">IIB", 32, 32, 8) + b"\0" * 40)
    assert refused(insert_after_signature(plain, huge)) == "broken_image"
    assert refused(plain[:8] + small + huge + plain[33:]) == "broken_image"


@pytest.fixture(scope="module")
def seeds():
    exif = Image.Exif()
    exif[0x0112] = 6
    picture = Image.fromarray(smooth(40, 56))
    return [
        encode(picture, "JPEG", exif=exif),
        encode(picture, "JPEG", progressive=True),
        encode(picture.convert("CMYK"), "JPEG"),
        encode(picture, "PNG"),
        encode(picture.convert("P"), "PNG", transparency=3),
        encode(picture.convert("LA"), "PNG"),
        encode(picture, "WEBP"),
        encode(picture.convert("RGBA"), "WEBP", lossless=True, exif=exif),
    ]


@pytest.mark.parametrize("seed", range(8))
def test_damaged_files_give_an_array_or_an_image_error(seeds, seed):
    source = random.Random(seed)
    for _ in range(150):
        data = bytearray(source.choice(seeds))
        if source.random() < 0.3:
            del data[source.randrange(len(data)) :]
        for _ in range(source.choice([1, 1, 2, 5, 30]) if data else 0):
            data[source.randrange(min(len(data), source.choice([40, 200, 10**9])))] = source.randrange(256)
        try:
            shape = DECODE(bytes(data)).shape
        except ImageError:
            continue
        assert shape == (S, S, 3)


@settings(max_examples=200, deadline=None)
@given(
    st.binary(max_size=200),
    st.sampled_from([b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"RIFF1234WEBPVP8X"]),
)
def test_arbitrary_bytes_give_an_image_error(tail, head):
    with pytest.raises(ImageError):
        DECODE(head + tail)


# --- the value itself ------------------------------------------------------------------------------


def test_preprocessing_survives_its_table():
    made = Preprocessing(size=96, resample="bilinear")
    table = {"size": 96, "resample": "bilinear", "max_pixels": 40_000_000, "version": 1}
    assert read_preprocessing(table) == made
    assert read_preprocessing(table).digest() == made.digest()


def test_every_field_is_in_the_digest():
    digests = {
        Preprocessing().digest(),
        Preprocessing(size=65).digest(),
        Preprocessing(resample="bilinear").digest(),
        Preprocessing(max_pixels=9).digest(),
    }
    assert len(digests) == 4


@pytest.mark.parametrize(
    "table",
    [
        {"size": 8},
        {"size": "64"},
        {"size": 64.0},
        {"version": 2},
        {"resample": "nearest"},
        {"crop": 1},
        {"size": True},
    ],
)
def test_bad_tables_are_refused(table):
    with pytest.raises(RecipeError, match="preprocessing"):
        read_preprocessing(table)


# --- thumbnails and types --------------------------------------------------------------------------


def test_image_type_by_bytes():
    assert [image_type(encode(noise(), kind)) for kind in ("JPEG", "PNG", "WEBP")] == [
        "image/jpeg",
        "image/png",
        "image/webp",
    ]
    with pytest.raises(ImageError):
        image_type(b"GIF89a")


def test_thumbnail_keeps_the_aspect_and_stands_upright():
    exif = Image.Exif()
    exif[0x0112] = 6
    made = Image.open(io.BytesIO(thumbnail(encode(smooth(200, 400), "JPEG", exif=exif), 100)))
    assert made.format == "JPEG"
    assert made.size == (50, 100)


def test_thumbnail_of_a_small_or_thin_picture():
    assert Image.open(io.BytesIO(thumbnail(encode(noise(20, 30), "PNG"), 100))).size == (30, 20)
    assert Image.open(io.BytesIO(thumbnail(encode(noise(5000, 1), "PNG"), 100))).size == (1, 100)


def test_thumbnail_shows_white_through_transparency():
    data = encode(Image.new("RGBA", (90, 90), (0, 0, 0, 0)), "PNG")
    assert np.asarray(Image.open(io.BytesIO(thumbnail(data, 16)))).min() >= 254


@pytest.mark.parametrize("size", [0, 15, 1025, -1])
def test_thumbnail_size_is_checked(size):
    with pytest.raises(ValueError, match="16 to 1024"):
        thumbnail(encode(noise(), "PNG"), size)


def test_thumbnail_refuses_what_decode_refuses():
    assert refused(b"", lambda data: thumbnail(data, 64)) == "empty_file"
