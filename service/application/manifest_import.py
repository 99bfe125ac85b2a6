"""Brings a manifest folder (`pairs.jsonl` + images) into the catalog: `hashguard index build`.

The service reads the format itself, minimally: a line is an object with `id`, `image` (a path inside the
folder, or null), `texts` (the first one becomes the item's text), `metadata`, and optionally `labels`,
which go into the metadata under `labels` unless the metadata have that key. A bad line is counted and named
and the others come in. Importing again does no harm: what is there unchanged is passed over, so an import
that was interrupted goes on where it stopped.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

from service.application.encoding import lacks_codes
from service.application.errors import InvalidInput, NotFound, ServiceError
from service.application.ports import BlobStore, Clock, CodeRepository, Encoder, ItemRepository
from service.application.types import Item, ItemDraft
from service.application.validation import Limits, check_draft, check_id
from service.application.writing import encode_drafts, store_blobs

PAIRS = "pairs.jsonl"
_MAX_LINE = 4 * 1024 * 1024  # bytes
_MAX_NAMED = 100


@dataclass
class ImportReport:
    """What an import did; `problems` names the first of the lines that did not come in."""

    created: int = 0
    replaced: int = 0
    unchanged: int = 0
    failed: int = 0
    problems: list[str] = field(default_factory=list)

    @property
    def done(self) -> int:
        """Lines that were dealt with."""
        return self.created + self.replaced + self.unchanged + self.failed

    def fail(self, line: int, detail: str) -> None:
        """Count a line that did not come in."""
        self.failed += 1
        if len(self.problems) < _MAX_NAMED:
            self.problems.append(f"line {line}: {detail}")


@dataclass(frozen=True)
class Importer:
    """Imports manifest folders; items get the codes of `encoder` at once."""

    items: ItemRepository
    codes: CodeRepository
    blobs: BlobStore
    encoder: Encoder
    limits: Limits
    clock: Clock
    batch_size: int

    def run(
        self,
        folder: Path,
        progress: Callable[[int, int], None] | None = None,
        splits: Collection[str] | None = None,
    ) -> ImportReport:
        """Import every line (of `splits`, when given); `progress` hears (lines done, lines in all).

        Raises `NotFound` when there is no `pairs.jsonl`, `Unavailable` when model or catalog cannot work.
        """
        path = folder / PAIRS
        if not path.is_file():
            raise NotFound(f"there is no {PAIRS} in {folder}", code="manifest_not_found")
        total = _count_lines(path)
        report = ImportReport()
        batch: list[tuple[int, ItemDraft]] = []
        seen = 0
        for seen, line in _lines(path):
            try:
                draft = _draft(folder, line, splits, self.limits)
            except ServiceError as error:
                report.fail(seen, error.detail)
                continue
            if draft is None:
                continue
            if any(draft.id == other.id for _, other in batch) or len(batch) == self.batch_size:
                self._write(batch, report)
                batch = []
                _tell(progress, seen - 1, total)
            batch.append((seen, draft))
        self._write(batch, report)
        self.items.collect_blobs(self.blobs.remove)
        _tell(progress, seen, total)
        return report

    def _write(self, batch: Sequence[tuple[int, ItemDraft]], report: ImportReport) -> None:
        fresh = self._changed(batch)
        report.unchanged += len(batch) - len(fresh)
        if not fresh:
            return
        encoded = encode_drafts(self.encoder, [draft for _, draft in fresh], self.clock())
        for (line, draft), failure in zip(fresh, encoded.failures, strict=True):
            if failure is not None:
                report.fail(line, f"{draft.id}: {failure.detail}")
        if encoded.records:
            store_blobs(self.blobs, encoded)
            written = self.items.put(encoded.records, lambda: store_blobs(self.blobs, encoded, True))
            report.created += sum(written.created)
            report.replaced += len(written.created) - sum(written.created)

    def _changed(self, batch: Sequence[tuple[int, ItemDraft]]) -> list[tuple[int, ItemDraft]]:
        """The drafts that differ from what is there, or whose item lacks a code of this model."""
        ids = [draft.id for _, draft in batch]
        known = self.items.get(ids)
        versions = self.codes.versions(ids, self.encoder.digest)
        return [
            (line, draft)
            for line, draft in batch
            if draft.id not in known
            or not _same(draft, known[draft.id])
            or draft.id not in versions
            or lacks_codes(versions[draft.id], self.encoder.modalities)
        ]


def _same(draft: ItemDraft, item: Item) -> bool:
    digest = None if draft.image is None else sha256(draft.image).hexdigest()
    return (digest, draft.text, dict(draft.metadata)) == (item.image_digest, item.text, dict(item.metadata))


def _tell(progress: Callable[[int, int], None] | None, done: int, total: int) -> None:
    if progress is not None:
        progress(done, total)


def _count_lines(path: Path) -> int:
    with path.open("rb") as file:
        return sum(1 for _ in file)


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Numbered lines that are not blank; one that is too long comes cut off, and so fails to parse."""
    with path.open("rb") as file:
        number = 0
        while line := file.readline(_MAX_LINE + 1):
            number += 1
            rest = line
            while len(rest) > _MAX_LINE and not rest.endswith(b"\n"):
                rest = file.readline(_MAX_LINE + 1)
            if line.strip():
                yield number, line


def _draft(folder: Path, line: bytes, splits: Collection[str] | None, limits: Limits) -> ItemDraft | None:
    """The draft of a line, None when it belongs to another split. Raises `InvalidInput`."""
    fields = _parse(line)
    if splits is not None and fields.get("split") not in splits:
        return None
    metadata = fields.get("metadata") or {}
    labels = fields.get("labels")
    if labels and isinstance(metadata, dict) and "labels" not in metadata:
        metadata = {**metadata, "labels": labels}
    texts = fields.get("texts") or []
    if not isinstance(texts, list):
        raise InvalidInput("`texts` is a list of strings")
    image = fields.get("image")
    draft = ItemDraft(
        id=check_id(fields.get("id")),
        image=None if image is None else _read_image(folder, image, limits),
        text=texts[0] if texts else None,
        metadata=metadata,
    )
    check_draft(draft, limits)
    return draft


def _parse(line: bytes) -> dict[str, Any]:
    try:
        fields = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InvalidInput(f"wanted a JSON object, got {line[:40]!r}") from error
    if not isinstance(fields, dict):
        raise InvalidInput(f"wanted a JSON object, got {type(fields).__name__}")
    return fields


def _read_image(folder: Path, image: object, limits: Limits) -> bytes:
    if not isinstance(image, str) or "\0" in image:
        raise InvalidInput("`image` is a path inside the folder, or null")
    path = (folder / image).resolve()
    if not path.is_relative_to(folder.resolve()):
        raise InvalidInput(f"image {image[:80]!r} leaves the folder")
    try:
        if path.stat().st_size > limits.max_image_bytes:
            raise InvalidInput(f"image {image[:80]!r} has more than {limits.max_image_bytes} bytes")
        return path.read_bytes()
    except OSError as error:
        raise InvalidInput(f"image {image[:80]!r} cannot be read: {error.strerror}") from error
