"""Codes out of a catalog into files, and out of files into a catalog, without images and without the model.

What is exported is what the catalog says, not what an engine has at this moment: the catalog is the truth, an
engine may be moving or out of reach. Each code travels with a digest of what it was made of. A code depends
on model and content alone, so on the way in it is taken for whatever item of that id has the same content,
in this catalog or another; what has changed since is left to be encoded. The digests of an export prove that
it is whole, not that its codes are right: they are compared with codes that are here, and a few are encoded.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from service.application.bulk_ports import (
    CONTENT_BYTES,
    BulkRepository,
    CodedContent,
    ExportFile,
    ExportFiles,
    ExportHead,
)
from service.application.encoding import encode_versions
from service.application.errors import Conflict
from service.application.ports import (
    BlobStore,
    Clock,
    CodeArray,
    CodeRepository,
    Encoder,
    ItemVersion,
    ModelRef,
    NewCode,
)
from service.application.types import SIDES, Side

_ROWS = 2048
_FAR = 8  # a code that differs in more than bits / 8 is of something else; rounding may flip a bit or two
_ENCODED = 8
_NOTHING = bytes(CONTENT_BYTES)

Watch = Callable[[str, int, int], None]
"""Hears what is being done, how many codes are done, and how many there are."""


@dataclass
class Taken:
    """Codes of an export: `new` here, `known` already, of items that have `changed` or that are `absent`."""

    new: int = 0
    known: int = 0
    changed: int = 0
    absent: int = 0


@dataclass
class _Tour:
    """One pass over an export: what was counted, and some versions whose codes only the export has."""

    taken: Taken = field(default_factory=Taken)
    probes: list[tuple[ItemVersion, Side, bytes]] = field(default_factory=list)


@dataclass(frozen=True)
class Transfer:
    """Exports and takes in codes."""

    bulk: BulkRepository
    codes: CodeRepository
    blobs: BlobStore
    files: ExportFiles
    clock: Clock

    def export(self, model: ModelRef, target: Path, watch: Watch) -> dict[Side, int]:
        """Write all codes of a model to the new folder `target`; how many, by side.

        Raises `Conflict` when the folder is there or there are no codes of this model.
        """
        head = ExportHead(
            model_name=model.name,
            model_version=model.version,
            model_digest=model.digest,
            preprocessing_digest=model.preprocessing_digest,
            bits=model.bits,
            created=self.clock().isoformat(),
            snapshot_seq=self.codes.last_seq(),
            counts={},
        )
        if not any(next(self.bulk.coded(model.digest, side), None) for side in SIDES):
            raise Conflict(f"there are no codes of {model.label} here to export", code="no_codes")
        return dict(self.files.write(target, head, {side: self._pages(model, side, watch) for side in SIDES}))

    def _pages(
        self, model: ModelRef, side: Side, watch: Watch
    ) -> Iterator[tuple[list[str], CodeArray, bytes]]:
        done = 0
        for page in self.bulk.coded(model.digest, side):
            packed = np.frombuffer(b"".join(one.code for one in page), np.uint8)
            contents = b"".join(_content_of(one, side) for one in page)
            yield [one.id for one in page], packed.reshape(len(page), model.bits // 8), contents
            done += len(page)
            watch(f"exporting {side} codes", done, 0)

    def take(self, encoder: Encoder, export: ExportFile, watch: Watch) -> Taken:
        """Keep the codes of an export as this model's where they fit; what became of all of them.

        First everything is looked at, then it is stored, so that an export that is refused leaves nothing.
        Raises `Conflict` for codes of another model, for ones that differ from what is here, and when none
        fits an item of this catalog.
        """
        _check_model(encoder, export.head)
        found = self._tour(encoder, export, lambda done, total: watch("comparing", done, total), keep=False)
        if not found.taken.new + found.taken.known:
            others = found.taken.changed + found.taken.absent
            raise Conflict(
                f"no item here has the content of one of the {others} codes of the export: "
                "bring the corpus in first",
                code="nothing_fits",
            )
        self._probe(encoder, found)
        if found.taken.new:
            self._tour(encoder, export, lambda done, total: watch("storing", done, total), keep=True)
        return found.taken

    def _tour(
        self, encoder: Encoder, export: ExportFile, watch: Callable[[int, int], None], *, keep: bool
    ) -> _Tour:
        tour, done, total = _Tour(), 0, sum(export.head.counts.values())
        for side in SIDES:
            for rows in export.rows(side, _ROWS):
                versions = self.codes.versions(rows.ids, encoder.digest)
                given = zip(rows.ids, rows.codes, rows.contents, strict=True)
                fitting = [
                    NewCode(item_id, versions[item_id].seq, side, code.tobytes())
                    for item_id, code, content in given
                    if _look(tour, versions.get(item_id), side, code, content.tobytes())
                ]
                if keep:
                    self.codes.add(encoder.digest, fitting)
                done += len(rows.ids)
                watch(done, total)
        return tour

    def _probe(self, encoder: Encoder, tour: _Tour) -> None:
        """Encode a few of the items whose codes only the export has, and compare. Raises `Conflict`.

        One that cannot be encoded (its image is not here) is passed over: it proves nothing either way.
        """
        versions = {version.id: version for version, _, _ in tour.probes}
        codes, _ = encode_versions(encoder, self.blobs, list(versions.values()))
        own = {(one.id, one.side): one.code for one in codes}
        for version, side, code in tour.probes:
            if (version.id, side) in own:
                _check_near(version.id, side, own[version.id, side], code)


def _look(tour: _Tour, version: ItemVersion | None, side: Side, code: CodeArray, content: bytes) -> bool:
    """Count one code of an export; True when it is to be kept. Raises `Conflict` when it is a wrong one."""
    taken = tour.taken
    if version is None:
        taken.absent += 1
        return False
    held = version.image_digest if side == "image" else version.text
    if _content_of(CodedContent(version.id, b"", held), side) != content:
        taken.changed += 1
        return False
    if side in version.codes:
        _check_near(version.id, side, version.codes[side], code.tobytes())
        taken.known += 1
        return False
    if held is not None and len(tour.probes) < _ENCODED:
        tour.probes.append((version, side, code.tobytes()))
    taken.new += 1
    return True


def _check_near(item_id: str, side: Side, own: bytes, given: bytes) -> None:
    """Raise `Conflict` when two codes cannot be those of one content by one model."""
    bits = len(own) * 8
    apart = (int.from_bytes(own) ^ int.from_bytes(given)).bit_count()
    if apart > bits // _FAR:
        raise Conflict(
            f"the export's {side} code of {item_id} differs in {apart} of {bits} bits from the model's own: "
            "these are not the codes of this model",
            code="wrong_codes",
        )


def _check_model(encoder: Encoder, head: ExportHead) -> None:
    """Raise `Conflict` unless the export is of this very model."""
    wanted = (encoder.digest, encoder.preprocessing_digest, encoder.bits)
    got = (head.model_digest, head.preprocessing_digest, head.bits)
    if wanted != got:
        raise Conflict(
            f"the export is of {head.model_name}/{head.model_version} (digest, preprocessing, bits) {got}, "
            f"wanted codes of {encoder.model_name}/{encoder.model_version} {wanted}",
            code="model_mismatch",
        )


def _content_of(one: CodedContent, side: Side) -> bytes:
    """What a code was made of: the first bytes of the SHA-256 of the content, zeros without one."""
    if one.content is None:
        return _NOTHING
    if side == "image":
        return bytes.fromhex(one.content)[:CONTENT_BYTES]
    return hashlib.sha256(one.content.encode()).digest()[:CONTENT_BYTES]
