"""What an importer is: something that reads a source and yields what it found and what it refused.

An importer only reads annotations; images are opened by `model.data.importers.writer`, which also
checks every field. Nothing is skipped in silence: a record that cannot be taken is yielded as `Refused`.
A source that is not of the format at all (a missing file, lists of different lengths) is a DataError.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from model.data.lines import MetadataValue
from model.errors import DataError

MAX_LINE_CHARS = 1 << 20


@dataclass(frozen=True)
class Found:
    """One record of a source, not yet checked.

    `record` names it for people ("captions.txt line 7"); `image` is relative to `root`, which is
    resolved and which no image may leave; `split` is the source's own, if it has one.
    """

    record: str
    id: str
    root: Path
    image: str | None = None
    texts: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    split: str | None = None
    metadata: Mapping[str, MetadataValue] = field(default_factory=dict)


@dataclass(frozen=True)
class Refused:
    """A record that was not taken, and why."""

    record: str
    reason: str


Entry = Found | Refused


class Importer(Protocol):
    """A frozen value with one importer's options."""

    def entries(self, source: Path) -> Iterator[Entry]:
        """Read `source`, record by record. Raises DataError when it is not of this format."""
        ...


def numbered_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Lines of a text file with their numbers, without line ends; blank lines are left out.

    Bytes that are no UTF-8 come as lone surrogates, which the check of the fields names later, so
    that one bad byte costs one record and not the file. Raises DataError when there is no such regular
    file (a pipe would block its reader), or when a line has no end within `MAX_LINE_CHARS`.
    """
    if not path.is_file():
        raise DataError(f"wanted the file {path.name} in {path.parent}")
    number = 0
    with path.open(encoding="utf-8-sig", errors="surrogateescape") as handle:
        while line := handle.readline(MAX_LINE_CHARS):
            number += 1
            if len(line) == MAX_LINE_CHARS:
                raise DataError(f"{path.name} line {number} is longer than {MAX_LINE_CHARS} characters")
            if line.strip():
                yield number, line.rstrip("\r\n")


def first_existing(root: Path, candidates: tuple[str, ...], what: str) -> Path:
    """The first of `candidates` that exists below `root`; raises DataError that lists them all."""
    for candidate in candidates:
        if (root / candidate).exists():
            return root / candidate
    raise DataError(f"no {what} in {root}: looked for {', '.join(candidates)}")
