"""Elements of the arrays in one large JSON object, one at a time.

COCO's instance file is 450 MB of JSON; read at once it takes gigabytes of Python objects. Here the file
is decoded element by element by the standard library's C decoder, over a buffer that grows only as far
as the longest element.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from model.errors import DataError

_CHUNK = 1 << 20
_ENDS = tuple(" \t\r\n,:]}")
MAX_ELEMENT = 32 << 20
"""Characters that one element may have; a longer one is no annotation."""


def stream_arrays(path: Path, *keys: str) -> Iterator[tuple[str, Any]]:
    """(key, element) for each element of the top-level arrays named by `keys`, in file order.

    Raises DataError when the file is missing, is no UTF-8 JSON object, or ends early.
    """
    try:
        with path.open(encoding="utf-8-sig") as handle:
            yield from _Scanner(handle).elements(keys)
    except OSError as error:
        raise DataError(f"wanted the file {path.name} in {path.parent} ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path.name} is no JSON object as wanted: {str(error)[:200]}") from error


class _Scanner:
    """A cursor over a JSON text that is read as it is needed. Raises ValueError on anything malformed."""

    def __init__(self, handle: TextIO) -> None:
        self._handle = handle
        self._decoder = json.JSONDecoder()
        self._text = ""
        self._at = 0
        self._ended = False

    def elements(self, keys: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
        """Walk the top-level object."""
        self._expect("{")
        more = self._peek() != "}"
        while more:
            key = self._value()
            self._expect(":")
            if self._peek() == "[":
                for element in self._array():
                    if key in keys:
                        yield key, element
            else:
                self._value()
            more = self._separator("}")

    def _array(self) -> Iterator[Any]:
        self._expect("[")
        if self._peek() == "]":
            self._at += 1
            return
        more = True
        while more:
            yield self._value()
            more = self._separator("]")

    def _separator(self, closing: str) -> bool:
        """Whether another element follows: past a comma yes, past `closing` no."""
        found = self._peek()
        if found not in (",", closing):
            raise ValueError(f"wanted ',' or '{closing}', got {found!r}")
        self._at += 1
        return found == ","

    def _expect(self, character: str) -> None:
        found = self._peek()
        if found != character:
            raise ValueError(f"wanted '{character}', got {found!r}")
        self._at += 1

    def _peek(self) -> str:
        """The next character that is no blank, without passing it; empty at the end of the file."""
        while True:
            while self._at < len(self._text) and self._text[self._at] in " \t\r\n":
                self._at += 1
            if self._at < len(self._text):
                return self._text[self._at]
            if self._ended:
                return ""
            self._read()

    def _value(self) -> Any:  # noqa: ANN401 - any JSON value
        self._peek()
        while True:
            try:
                value, end = self._decoder.raw_decode(self._text, self._at)
            except json.JSONDecodeError:
                if self._ended:
                    raise
            else:
                # A number cut by the end of the buffer decodes too, as another number ("-0" of "-0.5"),
                # so what follows must be seen to end it.
                if self._ended or self._text[end : end + 1] in _ENDS:
                    self._at = end
                    return value
            if len(self._text) - self._at > MAX_ELEMENT:
                raise ValueError(f"an element of more than {MAX_ELEMENT} characters")
            self._read()

    def _read(self) -> None:
        """Drop what is behind the cursor and read on; as much again, so that long elements stay linear."""
        rest = self._text[self._at :]
        chunk = self._handle.read(max(_CHUNK, len(rest)))
        self._ended = not chunk
        self._text, self._at = rest + chunk, 0
