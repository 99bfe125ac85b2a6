"""Multipart forms, however they are cut into chunks, and the many ways in which they can be wrong."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.api.errors import InvalidFields
from service.api.multipart import MAX_FIELD_BYTES, MAX_PARTS, Form, read_form
from service.application.errors import BadRequest, TooLarge

TYPE = "multipart/form-data; boundary=XYZ"


def part(name: str, data: bytes, filename: str | None = None, head: bytes = b"") -> bytes:
    file = f'; filename="{filename}"' if filename is not None else ""
    disposition = f'Content-Disposition: form-data; name="{name}"{file}\r\n'.encode()
    return b"--XYZ\r\n" + disposition + head + b"\r\n" + data + b"\r\n"


def read(body: bytes, content_type: str = TYPE, chunk: int = 7) -> Form:
    async def stream() -> AsyncIterator[bytes]:
        for start in range(0, len(body), chunk):
            yield body[start : start + chunk]

    return asyncio.run(read_form(stream(), content_type))


@given(data=st.binary(max_size=300), chunk=st.integers(1, 400))
def test_any_bytes_arrive_as_they_were_sent(data: bytes, chunk: int) -> None:
    body = part("image", data, "x.jpg") + part("text", "zwölf ☂".encode()) + b"--XYZ--\r\n"
    if b"\r\n--XYZ" in data:
        return
    form = read(body, chunk=chunk)
    assert form == Form(files={"image": data}, fields={"text": "zwölf ☂"})


def test_an_empty_file_is_a_file() -> None:
    assert read(part("image", b"", "") + b"--XYZ--\r\n") == Form(files={"image": b""}, fields={})


@pytest.mark.parametrize(
    ("body", "content_type", "code"),
    [
        (part("a", b"1") + b"--XYZ--\r\n", "multipart/form-data", "missing_boundary"),
        (part("a", b"1") + b"--XYZ--\r\n", "multipart/form-data; boundary=", "missing_boundary"),
        (part("a", b"1"), TYPE, "invalid_multipart"),
        (part("a", b"1")[:30], TYPE, "invalid_multipart"),
        (b"", TYPE, "invalid_multipart"),
        (b"no form at all", TYPE, "invalid_multipart"),
        (part("a", b"1") + b"--XYZ--\r\n", f"multipart/form-data; boundary={'x' * 300}", "invalid_multipart"),
        (b"--XYZ\r\nContent-Type: text/plain\r\n\r\n1\r\n--XYZ--\r\n", TYPE, "bad_request"),
        (b'--XYZ\r\nContent-Disposition: attachment; name="a"\r\n\r\n1\r\n--XYZ--\r\n', TYPE, "bad_request"),
        (b"--XYZ\r\nContent-Disposition: form-data\r\n\r\n1\r\n--XYZ--\r\n", TYPE, "bad_request"),
        (
            part("a", b"1", head=b"X-Long: " + b"x" * 10_000 + b"\r\n") + b"--XYZ--\r\n",
            TYPE,
            "invalid_multipart",
        ),
        (b"".join(part(f"f{n}", b"1") for n in range(MAX_PARTS + 1)), TYPE, "too_many_parts"),
    ],
)
def test_a_form_that_cannot_be_read_is_a_bad_request(body: bytes, content_type: str, code: str) -> None:
    with pytest.raises(BadRequest) as caught:
        read(body, content_type)
    assert caught.value.code == code


@pytest.mark.parametrize(
    ("body", "pointer", "code"),
    [
        (part("k", b"1") + part("k", b"2"), "#/k", "duplicate_field"),
        (part("image", b"1", "a") + part("image", b"2", "b"), "#/image", "duplicate_field"),
        (part("text", b"\xff\xfe") + b"--XYZ--\r\n", "#/text", "invalid_utf8"),
        (
            b'--XYZ\r\nContent-Disposition: form-data; name="\xff"\r\n\r\n1\r\n--XYZ--\r\n',
            "#",
            "invalid_utf8",
        ),
    ],
)
def test_fields_that_do_not_fit_are_named(body: bytes, pointer: str, code: str) -> None:
    with pytest.raises(InvalidFields) as caught:
        read(body)
    assert [(error.pointer, error.code) for error in caught.value.errors] == [(pointer, code)]


def test_a_field_may_not_be_longer_than_any_text() -> None:
    longest = part("text", b"a" * MAX_FIELD_BYTES) + b"--XYZ--\r\n"
    assert len(read(longest, chunk=65_536).fields["text"]) == MAX_FIELD_BYTES
    with pytest.raises(TooLarge, match="'text' is longer than"):
        read(part("text", b"a" * (MAX_FIELD_BYTES + 1)) + b"--XYZ--\r\n", chunk=65_536)


def test_a_file_may_be_longer_than_a_field() -> None:
    data = b"a" * (MAX_FIELD_BYTES + 1)
    assert read(part("image", data, "x") + b"--XYZ--\r\n", chunk=65_536).files["image"] == data
