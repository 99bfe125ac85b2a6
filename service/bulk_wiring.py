"""The part of the composition root that moves codes by the million: bulk import, export, import.

It joins `service/application/{bulk,transfer}.py` to the files that `index/{bulk,exports}.py` read and write.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from index.bulk import read_ready
from index.errors import HashIndexError
from index.exports import CONTENT_BYTES, Export, Rows, write_export
from index.registry import backend
from index.store import Meta
from service.application.bulk import BulkImport
from service.application.bulk_ports import ExportHead, ReadyCodes
from service.application.errors import Conflict, InvalidInput
from service.application.ports import CodeArray, ModelRef
from service.application.transfer import Transfer
from service.application.types import SIDES, Side
from service.catalog.bulk import SqlBulk
from service.catalog_wiring import utc_now
from service.settings import Settings
from service.wiring import Parts, build_builder


class FolderExports:
    """Exports as folders, an `ExportFiles`."""

    def write(
        self,
        target: Path,
        head: ExportHead,
        sides: Mapping[Side, Iterator[tuple[list[str], CodeArray, bytes]]],
    ) -> Mapping[Side, int]:
        """Write an export; see `ExportFiles.write`."""
        target = target.absolute()
        if target.exists():
            raise Conflict(f"{target.name}: wanted a new folder for the export, got one that is there")
        meta = Meta(
            model_name=head.model_name,
            model_version=head.model_version,
            model_digest=head.model_digest,
            preprocessing_digest=head.preprocessing_digest,
            bits=head.bits,
            snapshot_seq=head.snapshot_seq,
            created=head.created,
        )
        try:
            written = write_export(target, meta, {side: map(_rows, pages) for side, pages in sides.items()})
        except HashIndexError as error:
            raise InvalidInput(str(error), code="bad_export") from error
        return {side: written.counts[side] for side in SIDES}

    def open(self, folder: Path) -> OpenExport:
        """An export, proven whole; see `ExportFiles.open`."""
        try:
            export = Export(folder.absolute())
            export.prove()
        except (HashIndexError, OSError) as error:
            raise InvalidInput(f"the export cannot be read: {error}", code="bad_export") from error
        return OpenExport(export)


class OpenExport:
    """An export on disk, an `ExportFile`."""

    def __init__(self, export: Export) -> None:
        self._export = export
        meta = export.meta
        self.head = ExportHead(
            model_name=meta.model_name,
            model_version=meta.model_version,
            model_digest=meta.model_digest,
            preprocessing_digest=meta.preprocessing_digest,
            bits=meta.bits,
            created=meta.created,
            snapshot_seq=meta.snapshot_seq,
            counts={side: meta.counts[side] for side in SIDES},
        )

    def rows(self, side: Side, count: int) -> Iterator[Rows]:
        """The rows of one side; raises `InvalidInput` when the files were changed since they were proven."""
        try:
            yield from self._export.rows(side, count)
        except HashIndexError as error:
            raise InvalidInput(f"the export cannot be read: {error}", code="bad_export") from error


def read_codes(ids: Path, codes: Mapping[Side, Path], bits: int) -> ReadyCodes:
    """Ready codes from files (their form: `index/bulk.py`). Raises `InvalidInput`."""
    try:
        found = read_ready(ids, {side: codes[side] for side in codes}, bits)
    except HashIndexError as error:
        raise InvalidInput(str(error), code="bad_codes") from error
    return ReadyCodes(found.ids, {side: found.codes[side] for side in codes})


def check_backend(settings: Settings) -> None:
    """Raise `InvalidInput` unless the configured backend is known and an engine's URL is set if it needs one.

    Whether the engine answers is seen when the index is made.
    """
    try:
        chosen = backend(settings.index_backend)
    except HashIndexError as error:
        raise InvalidInput(str(error), code="bad_backend") from error
    if chosen.remote and settings.engine_url() is None:
        raise InvalidInput(
            f"the backend {settings.index_backend} needs the URL of its engine: set HASHGUARD_INDEX_URL or "
            "HASHGUARD_INDEX_URL_FILE",
            code="bad_backend",
        )


def build_bulk_import(parts: Parts) -> BulkImport:
    """Takes ready codes into the catalog and a new generation in the configured backend."""
    builder = build_builder(parts)
    return BulkImport(
        bulk=SqlBulk(parts.catalog.database),
        codes=parts.catalog.codes,
        blobs=parts.blobs,
        generations=parts.catalog.generations,
        jobs=parts.catalog.jobs,
        store=parts.store,
        builder=builder,
        acceptance=builder.acceptance,
        clock=utc_now,
        keep_generations=parts.settings.keep_generations,
        batch_size=parts.settings.reindex_batch_size,
    )


def build_transfer(parts: Parts) -> Transfer:
    """Exports codes and takes exports in."""
    return Transfer(
        bulk=SqlBulk(parts.catalog.database),
        codes=parts.catalog.codes,
        blobs=parts.blobs,
        files=FolderExports(),
        clock=utc_now,
    )


def model_of(parts: Parts, head: ExportHead) -> ModelRef:
    """The home's model that an export belongs to, by its digest. Raises `Conflict` when it is not here."""
    found = next((ref for ref in parts.shelf.refs() if ref.digest == head.model_digest), None)
    if found is None:
        known = ", ".join(f"{ref.label} ({ref.digest[:12]})" for ref in parts.shelf.refs()) or "none"
        raise Conflict(
            f"the export is of the model {head.model_name}/{head.model_version} with the digest "
            f"{head.model_digest[:12]}, which is not in this home; there are: {known}",
            code="model_mismatch",
        )
    return found


def _rows(page: tuple[list[str], CodeArray, bytes]) -> Rows:
    ids, codes, contents = page
    return Rows(ids, codes, np.frombuffer(contents, np.uint8).reshape(len(ids), CONTENT_BYTES))
