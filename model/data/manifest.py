"""Manifest folders: `pairs.jsonl` plus the images it names, read once and checked line by line.

`read_manifest` looks at every field and at the presence of every file; `check_manifest` also decodes
every image, with the decoder that training and serving use. Both name every bad line, with its number.
Items without a split get one from a hash of their id, so that the same item lies on the same side in
every copy, order and extract of a data set.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from model.data.lines import (
    MAX_LINE_BYTES,
    Fields,
    MetadataValue,
    Split,
    check_fields,
    load_object,
)
from model.data.paths import locate, read_image_bytes
from model.data.pictures import check_picture
from model.errors import DataError, ImageError, ManifestError

PAIRS = "pairs.jsonl"

# Shares of the splits made from a hash: 70 % train, 20 % database, 10 % query.
TRAIN_SHARE, DATABASE_SHARE = 0.7, 0.2

Progress = Callable[[int, int], None]
"""Called with (items done, items in all)."""


@dataclass(frozen=True)
class Record:
    """One item of a manifest folder. `image` is an absolute path below the folder, links followed."""

    id: str
    image: Path | None
    texts: tuple[str, ...]
    labels: tuple[str, ...]
    split: Split
    metadata: Mapping[str, MetadataValue]


@dataclass(frozen=True, order=True)
class Problem:
    """One fault of a manifest; `line` counts from 1, and 0 stands for the file as a whole."""

    line: int
    message: str

    def __str__(self) -> str:
        return f"line {self.line}: {self.message}" if self.line else self.message


@dataclass(frozen=True)
class Manifest:
    """A manifest folder without faults.

    `records` keeps the order of the lines; `label_names` is sorted by code point.
    """

    folder: Path
    records: tuple[Record, ...]
    label_names: tuple[str, ...]

    def of_split(self, *splits: Split) -> tuple[Record, ...]:
        """The records of these splits, in the order of the lines."""
        return tuple(record for record in self.records if record.split in splits)

    def label_matrix(self, records: Iterable[Record]) -> NDArray[np.bool_]:
        """Labels of `records` as bool (n, C), column c standing for `label_names[c]`."""
        column = {name: c for c, name in enumerate(self.label_names)}
        rows = list(records)
        matrix = np.zeros((len(rows), len(column)), dtype=np.bool_)
        for r, record in enumerate(rows):
            matrix[r, [column[name] for name in record.labels]] = True
        return matrix

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 (hex) over ids, texts, labels, splits and image bytes, whatever the order of the lines.

        Reads every image the first time. Raises DataError when one has vanished since.
        """
        digest = hashlib.sha256()
        for record in sorted(self.records, key=lambda record: record.id):
            image = b"" if record.image is None else hashlib.sha256(read_image_bytes(record.image)).digest()
            parts = [record.id.encode(), record.split.encode(), image]
            parts += _counted(record.texts) + _counted(sorted(record.labels))
            for part in parts:
                digest.update(len(part).to_bytes(8, "big") + part)
        return digest.hexdigest()


def split_of(item_id: str) -> Split:
    """The split of an item whose line names none: 70 % train, 20 % database, 10 % query by SHA-256."""
    draw = int.from_bytes(hashlib.sha256(item_id.encode()).digest()[:8], "big") / 2**64
    if draw < TRAIN_SHARE:
        return "train"
    return "database" if draw < TRAIN_SHARE + DATABASE_SHARE else "query"


def read_manifest(folder: Path) -> Manifest:
    """Read a manifest folder; raises ManifestError that names every bad line. Images are not decoded."""
    manifest, problems = _read(folder, decode=False, progress=None)
    if problems:
        raise ManifestError(str(folder), map(str, problems))
    return manifest


def check_manifest(folder: Path, progress: Progress | None = None) -> list[Problem]:
    """Every fault of a manifest folder, in line order; decodes every image."""
    return inspect_manifest(folder, progress)[1]


def inspect_manifest(folder: Path, progress: Progress | None = None) -> tuple[Manifest, list[Problem]]:
    """What is good in a manifest folder, and every fault of it in line order; decodes every image."""
    return _read(folder, decode=True, progress=progress)


def _read(folder: Path, *, decode: bool, progress: Progress | None) -> tuple[Manifest, list[Problem]]:
    root = folder.resolve()
    try:
        lines = list(_lines(root / PAIRS))
    except OSError as error:
        return Manifest(root, (), ()), [Problem(0, f"no readable {PAIRS} in the folder ({error.strerror})")]
    records: list[Record] = []
    problems: list[Problem] = []
    seen: dict[str, int] = {}
    for done, (number, raw) in enumerate(lines):
        record, faults = _record(root, raw, decode=decode)
        if record and seen.setdefault(record.id, number) != number:
            faults = [f"id {record.id} is already on line {seen[record.id]}"]
        problems += [Problem(number, fault) for fault in faults]
        if record and not faults:
            records.append(record)
        if progress:
            progress(done + 1, len(lines))
    if not lines:
        problems.append(Problem(0, f"{PAIRS} holds no item"))
    names = tuple(sorted({label for record in records for label in record.labels}))
    return Manifest(root, tuple(records), names), problems


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Numbered lines without blank ones; a line over the limit comes one byte too long, cut."""
    if path.exists() and not path.is_file():
        raise OSError(0, "no regular file")
    with path.open("rb") as handle:
        number = 0
        while raw := handle.readline(MAX_LINE_BYTES + 1):
            number += 1
            if len(raw) > MAX_LINE_BYTES and not raw.endswith(b"\n"):
                _skip_line(handle)
            text = raw.removeprefix(b"\xef\xbb\xbf") if number == 1 else raw
            if text.strip():
                yield number, text


def _skip_line(handle: BinaryIO) -> None:
    while (rest := handle.readline(MAX_LINE_BYTES)) and not rest.endswith(b"\n"):
        pass


def _record(root: Path, raw: bytes, *, decode: bool) -> tuple[Record | None, list[str]]:
    if len(raw.rstrip(b"\r\n")) >= MAX_LINE_BYTES:
        return None, [f"longer than {MAX_LINE_BYTES} bytes"]
    try:
        fields, faults = check_fields(load_object(raw))
    except ValueError as error:
        return None, [str(error)]
    if fields is None:
        return None, faults
    try:
        image = None if fields.image is None else locate(root, fields.image)
        if image and decode:
            check_picture(read_image_bytes(image))
    except (DataError, ImageError) as error:
        return _of(fields, None), [f"image: {error}"]
    return _of(fields, image), []


def _of(fields: Fields, image: Path | None) -> Record:
    split = fields.split or split_of(fields.id)
    return Record(fields.id, image, fields.texts, fields.labels, split, fields.metadata)


def _counted(strings: Iterable[str]) -> list[bytes]:
    """The strings as bytes, led by their number, so that moving one between two lists shows."""
    encoded = [text.encode() for text in strings]
    return [len(encoded).to_bytes(8, "big"), *encoded]
