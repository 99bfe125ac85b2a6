"""From an importer's entries to a manifest folder: every field checked, every image decoded and copied.

The folder appears in one step when all went well. What was refused is counted, named in the report, and
kept in `import.json` beside `pairs.jsonl`; `strict` makes the first refusal an error instead.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from model.data.folders import ManifestWriter, new_folder, write_json
from model.data.importers.base import Entry, Found, Refused
from model.data.lines import Fields, Split, check_fields
from model.data.manifest import PAIRS, Progress, split_of
from model.data.paths import locate, read_image_bytes
from model.data.pictures import SIDES, check_picture, squared, suffix_of
from model.errors import DataError, ImageError


@dataclass(frozen=True)
class PaperSplit:
    """The papers' split: `queries` drawn at random, `train` of the rest, everything else database."""

    queries: int
    train: int
    seed: int = 0


@dataclass(frozen=True)
class ImportOptions:
    """How records become items.

    `link` hard-links images instead of copying them; `size` squashes them to that many pixels square
    (JPEG) instead of leaving their bytes unchanged; `strict` refuses to refuse; `need_text` and
    `need_labels` refuse records without; `protocol` overrides the source's own splits.
    """

    link: bool = False
    size: int | None = None
    strict: bool = False
    need_text: bool = False
    need_labels: bool = False
    protocol: PaperSplit | None = None


@dataclass(frozen=True)
class ImportReport:
    """What an import did: items per split, distinct labels, texts, and every record it refused."""

    items: int
    splits: Mapping[str, int]
    labels: int
    texts: int
    refused: tuple[Refused, ...]

    def as_json(self) -> dict[str, Any]:
        """The report as plain JSON values."""
        return asdict(self)


def write_import(
    entries: Iterable[Entry], out: Path, options: ImportOptions, progress: Progress | None = None
) -> ImportReport:
    """Write a manifest folder from `entries`; `progress` gets (records seen, 0), as no source knows its end.

    Raises DataError when `out` is not new or empty, nothing could be taken, the protocol asks for
    more items than there are, or `strict` met a record that cannot be taken.
    """
    _check_options(options)
    with new_folder(out) as folder:
        with ManifestWriter(folder) as writer:
            intake = _Intake(writer, options)
            for done, entry in enumerate(entries, 1):
                intake.take(entry)
                if progress:
                    progress(done, 0)
        if not intake.splits:
            raise DataError(
                f"nothing to import: {len(intake.refused)} records, all refused{intake.example()}"
            )
        if options.protocol:
            _resplit(folder, intake.splits, options.protocol)
        report = intake.report()
        write_json(folder / "import.json", report.as_json())
    return report


class _Intake:
    """Takes entries one by one into a manifest writer and keeps count."""

    def __init__(self, writer: ManifestWriter, options: ImportOptions) -> None:
        self._writer = writer
        self._options = options
        self._labels: set[str] = set()
        self._texts = 0
        self.splits: dict[str, Split] = {}
        self.refused: list[Refused] = []

    def take(self, entry: Entry) -> None:
        """Write one entry, or note why not."""
        if isinstance(entry, Found):
            try:
                self._write(entry)
            except (DataError, ImageError) as error:
                entry = Refused(entry.record, str(error))
        if isinstance(entry, Refused):
            if self._options.strict:
                raise DataError(f"strict: {entry.record}: {entry.reason}")
            self.refused.append(entry)

    def report(self) -> ImportReport:
        """The counts so far."""
        splits: dict[str, int] = dict(sorted(Counter(self.splits.values()).items()))
        return ImportReport(len(self.splits), splits, len(self._labels), self._texts, tuple(self.refused))

    def example(self) -> str:
        """The first refusal, for a message about all of them."""
        return f" (the first, {self.refused[0].record}: {self.refused[0].reason})" if self.refused else ""

    def _write(self, found: Found) -> None:
        fields = self._fields(found)
        image = self._image(found) if found.image is not None else None
        split = fields.split or split_of(fields.id)
        self._writer.write(replace(fields, image=image, split=split))
        self.splits[fields.id] = split
        self._labels.update(fields.labels)
        self._texts += len(fields.texts)

    def _fields(self, found: Found) -> Fields:
        fields, faults = check_fields(
            {
                "id": found.id,
                "image": found.image,
                "texts": list(found.texts),
                "labels": list(found.labels),
                "split": found.split,
                "metadata": dict(found.metadata),
            }
        )
        if fields is None:
            raise DataError("; ".join(faults))
        if fields.id in self.splits:
            raise DataError(f"id {fields.id} was taken already")
        if self._options.need_text and not fields.texts:
            raise DataError("no text, and texts were asked for")
        if self._options.need_labels and not fields.labels:
            raise DataError("no label, and labels were asked for")
        return fields

    def _image(self, found: Found) -> str:
        source = locate(found.root, found.image or "")
        data = read_image_bytes(source)
        if self._options.size is not None:
            return self._writer.write_image(found.id, ".jpg", squared(data, self._options.size))
        check_picture(data)
        if self._options.link:
            return self._writer.link_image(found.id, suffix_of(data), source)
        return self._writer.write_image(found.id, suffix_of(data), data)


def _check_options(options: ImportOptions) -> None:
    if options.size is not None and options.size not in SIDES:
        raise DataError(f"wanted a size of {SIDES[0]} to {SIDES[-1]} pixels, got {options.size}")
    if options.link and options.size is not None:
        raise DataError("an image is either linked unchanged or shrunk, not both")
    if options.protocol and min(options.protocol.queries, options.protocol.train) < 1:
        raise DataError("wanted at least one query and one training item")


def _resplit(folder: Path, splits: dict[str, Split], protocol: PaperSplit) -> None:
    """Write the protocol's splits into `pairs.jsonl` and `splits`.

    Items are drawn by the SHA-256 of seed and id, so the draw depends neither on the order in which
    a source lists them nor on a library's generator.
    """
    wanted = protocol.queries + protocol.train
    if wanted > len(splits):
        raise DataError(f"the protocol wants {wanted} items beside the database, got {len(splits)} in all")
    drawn = sorted(splits, key=lambda item: hashlib.sha256(f"{protocol.seed}:{item}".encode()).digest())
    splits.update(dict.fromkeys(drawn, "database"))
    splits.update(dict.fromkeys(drawn[protocol.queries : wanted], "train"))
    splits.update(dict.fromkeys(drawn[: protocol.queries], "query"))
    rewritten = folder / f"{PAIRS}.new"
    with (folder / PAIRS).open(encoding="utf-8") as old, rewritten.open("w", encoding="utf-8") as new:
        for line in old:
            value = json.loads(line)
            new.write(json.dumps({**value, "split": splits[value["id"]]}, ensure_ascii=False) + "\n")
    rewritten.replace(folder / PAIRS)
