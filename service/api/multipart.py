"""Multipart forms, read strictly: UTF-8 or refused, no name twice, few parts, bounded fields, no temp files.

Starlette's own reader guesses Latin-1 where a field is not UTF-8, keeps duplicates and spools files to
disk. The body is already bounded when it comes here (middleware/body_limit.py), so parts stay in memory.
The grammar itself is python-multipart's.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from service.api.errors import FieldError, InvalidFields
from service.application.errors import BadRequest, TooLarge

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

MAX_PARTS = 16
"""More parts than any call of the contract has fields."""

MAX_FIELD_BYTES = 256 * 1024
"""Largest field that is no file, in bytes: above the longest text that the service takes."""


@dataclass(frozen=True)
class Form:
    """A form that was read: `files` are the parts with a file name, `fields` the others."""

    files: dict[str, bytes]
    fields: dict[str, str]


@dataclass
class _Part:
    headers: dict[bytes, bytes] = field(default_factory=dict)
    data: bytearray = field(default_factory=bytearray)
    name: str = ""
    is_file: bool = False


class _FormBuilder:
    """Takes the parser's callbacks and collects the parts."""

    def __init__(self) -> None:
        self.parts: list[_Part] = []
        self.complete = False
        self._name = b""
        self._value = b""

    def on_part_begin(self) -> None:
        if len(self.parts) >= MAX_PARTS:
            raise BadRequest(f"The form has more than {MAX_PARTS} parts.", code="too_many_parts")
        self.parts.append(_Part())

    def on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._name += data[start:end]

    def on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def on_header_end(self) -> None:
        self.parts[-1].headers[self._name.lower()] = self._value
        self._name, self._value = b"", b""

    def on_headers_finished(self) -> None:
        part = self.parts[-1]
        disposition, options = parse_options_header(part.headers.get(b"content-disposition", b""))
        if disposition != b"form-data" or b"name" not in options:
            raise BadRequest("A part of the form has no Content-Disposition: form-data with a name.")
        part.name = _utf8(options[b"name"], "#")
        part.is_file = b"filename" in options
        if any(part.name == other.name for other in self.parts[:-1]):
            raise InvalidFields([_error(part.name, "duplicate_field", "this field was sent more than once")])

    def on_part_data(self, data: bytes, start: int, end: int) -> None:
        part = self.parts[-1]
        part.data += data[start:end]
        if not part.is_file and len(part.data) > MAX_FIELD_BYTES:
            raise TooLarge(f"The form field {part.name!r} is longer than {MAX_FIELD_BYTES} bytes.")

    def on_end(self) -> None:
        self.complete = True


async def read_form(stream: AsyncIterator[bytes], content_type: str) -> Form:
    """Read a `multipart/form-data` body.

    Raises:
        BadRequest: no boundary, broken grammar, or a form that ends before its closing boundary.
        InvalidFields: a name twice, or a field that is not UTF-8.
        TooLarge: a field over `MAX_FIELD_BYTES`.
    """
    _, options = parse_options_header(content_type)
    boundary = options.get(b"boundary", b"")
    if not boundary:
        raise BadRequest("The Content-Type of the form names no boundary.", code="missing_boundary")
    builder = _FormBuilder()
    try:
        parser = MultipartParser(boundary, _callbacks(builder))
        async for chunk in stream:
            parser.write(chunk)
        parser.finalize()
    except FormParserError as error:
        raise BadRequest("The multipart form cannot be read.", code="invalid_multipart") from error
    if not builder.complete:
        raise BadRequest("The form ends before its closing boundary.", code="invalid_multipart")
    return _form(builder.parts)


def _callbacks(builder: _FormBuilder) -> MultipartCallbacks:
    return {
        "on_part_begin": builder.on_part_begin,
        "on_header_field": builder.on_header_field,
        "on_header_value": builder.on_header_value,
        "on_header_end": builder.on_header_end,
        "on_headers_finished": builder.on_headers_finished,
        "on_part_data": builder.on_part_data,
        "on_end": builder.on_end,
    }


def _form(parts: list[_Part]) -> Form:
    files = {part.name: bytes(part.data) for part in parts if part.is_file}
    fields = {part.name: _utf8(part.data, f"#/{part.name}") for part in parts if not part.is_file}
    return Form(files=files, fields=fields)


def _utf8(data: bytes | bytearray, pointer: str) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        detail = "this is not valid UTF-8"
        raise InvalidFields([FieldError("form", pointer, "invalid_utf8", detail)]) from error


def _error(name: str, code: str, detail: str) -> FieldError:
    return FieldError("form", f"#/{name}", code, detail)
