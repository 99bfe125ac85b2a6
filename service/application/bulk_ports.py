"""What taking in and giving out codes by the million needs from the outside.

`ports.py` and `life_cycle_ports.py` have what the rest needs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from service.application.ports import CodeArray
from service.application.types import Side

CONTENT_BYTES = 16
"""Bytes of the SHA-256 of a content that travel with its code; all zero where there is no content."""

ContentArray = NDArray[np.uint8]


class CodedContent(NamedTuple):
    """A valid code, and what it was made of: the image's SHA-256 (hex) or the text; None for a bare code."""

    id: str
    code: bytes
    content: str | None


class BulkRepository(Protocol):
    """Codes of the catalog by the hundred thousand."""

    def put(
        self, ids: Sequence[str], codes: Mapping[Side, CodeArray], model_digest: str, now: datetime
    ) -> tuple[int, int, int]:
        """Give distinct ids these codes (n, bits / 8) of a model, in one transaction.

        An id that is not there becomes an item with neither image nor text; one that is there keeps what it
        has, but for these codes. Every id has its place in the log of changes. Returns the number of new
        items and the sequence numbers taken (inclusive).
        """
        ...

    def coded(self, model_digest: str, side: Side) -> Iterator[list[CodedContent]]:
        """All valid codes of a model on one side in the order of ids, page by page, from one state."""
        ...


@dataclass(frozen=True)
class ReadyCodes:
    """Codes that were computed elsewhere: n distinct ids in order, and codes (n, bits / 8) by side."""

    ids: Sequence[str]
    codes: Mapping[Side, CodeArray]


@dataclass(frozen=True)
class ExportHead:
    """Whose codes an export holds; `counts` by side, `created` ISO 8601 with an offset."""

    model_name: str
    model_version: str
    model_digest: str
    preprocessing_digest: str
    bits: int
    created: str
    snapshot_seq: int
    counts: Mapping[Side, int]


class ExportRows(Protocol):
    """Some rows of one side in the order of ids."""

    @property
    def ids(self) -> Sequence[str]:
        """Ids (n)."""
        ...

    @property
    def codes(self) -> CodeArray:
        """Codes (n, bits / 8)."""
        ...

    @property
    def contents(self) -> ContentArray:
        """What each code was made of (n, CONTENT_BYTES)."""
        ...


class ExportFile(Protocol):
    """An export that was read and proven whole."""

    @property
    def head(self) -> ExportHead:
        """Whose codes these are."""
        ...

    def rows(self, side: Side, count: int) -> Iterator[ExportRows]:
        """The rows of one side in the order of ids, at most `count` at a time."""
        ...


class ExportFiles(Protocol):
    """Reads and writes exports."""

    def write(
        self,
        target: Path,
        head: ExportHead,
        sides: Mapping[Side, Iterator[tuple[list[str], CodeArray, bytes]]],
    ) -> Mapping[Side, int]:
        """Write an export all at once or not at all, from pages of (ids, codes, contents end to end).

        `head.counts` is not looked at; the counts of what was written come back. Raises `Conflict` when
        `target` is there.
        """
        ...

    def open(self, folder: Path) -> ExportFile:
        """An export, every digest checked. Raises `InvalidInput` when it is damaged or none."""
        ...
