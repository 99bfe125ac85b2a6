"""A CSV file with a header: one row an item, columns by option, everything else metadata.

Image paths are relative to the file's own folder or to `images`. Cells of unnamed columns become
metadata as strings ("007" stays what it is); empty ones are left out.
"""

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model.data.importers.base import Entry, Found, Refused
from model.data.paths import existing_folder
from model.errors import DataError


@dataclass(frozen=True)
class Table:
    """Which column is what; a column that the options name must be in the header.

    `text_columns` gives an item several texts; `label_separator` splits the labels' cell; `None` means
    that there is no such column. `images` is the folder that image paths are relative to.
    """

    id_column: str = "id"
    image_column: str | None = "image"
    text_columns: tuple[str, ...] = ("text",)
    labels_column: str | None = None
    split_column: str | None = None
    label_separator: str = ";"
    delimiter: str = ","
    images: Path | None = None

    def entries(self, source: Path) -> Iterator[Entry]:
        """Every row of the file."""
        if len(self.delimiter) != 1 or self.delimiter in '\r\n"' or not self.label_separator:
            raise DataError("wanted one character as delimiter (no quote, no line end) and a label separator")
        root = existing_folder(source.parent if self.images is None else self.images)
        try:
            with source.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as handle:
                yield from self._rows(csv.DictReader(handle, delimiter=self.delimiter, strict=True), root)
        except OSError as error:
            raise DataError(f"wanted a CSV file, got {source} ({error.strerror})") from error
        except csv.Error as error:
            raise DataError(f"{source.name} is no CSV file as wanted: {error}") from error

    def _rows(self, reader: "csv.DictReader[str]", root: Path) -> Iterator[Entry]:
        header = list(reader.fieldnames or ())
        missing = [column for column in self._named() if column not in header]
        if missing or len(set(header)) != len(header):
            raise DataError(f"wanted each of the columns {self._named()} once, got the header {header[:20]}")
        for row in reader:
            record = f"line {reader.line_num}"
            # DictReader files surplus cells under the key None and gives None for missing ones.
            if None in row or None in row.values():
                yield Refused(record, f"wanted {len(header)} cells")
            else:
                yield self._found(record, row, root)

    def _found(self, record: str, row: dict[str, Any], root: Path) -> Found:
        named = self._named()
        labels = row[self.labels_column].split(self.label_separator) if self.labels_column else []
        return Found(
            record=record,
            id=row[self.id_column].strip(),
            root=root,
            image=(row[self.image_column].strip() or None) if self.image_column else None,
            texts=tuple(row[column].strip() for column in self.text_columns if row[column].strip()),
            labels=tuple(label.strip() for label in labels if label.strip()),
            split=(row[self.split_column].strip() or None) if self.split_column else None,
            metadata={key: cell for key, cell in row.items() if key not in named and cell.strip()},
        )

    def _named(self) -> tuple[str, ...]:
        optional = (self.image_column, self.labels_column, self.split_column)
        return (self.id_column, *self.text_columns, *(column for column in optional if column))
