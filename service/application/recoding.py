"""Makes codes anew that are in doubt, as the first thing that a repair does under the lock of its job.

A code is replaced only where its content could be encoded. When one could not be, what the catalog and an
index say of it differently must not be lost: then nothing is built, and both stay what they are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from service.application.acceptance import BuildFailed
from service.application.building import Progress, Report
from service.application.encoding import encode_versions
from service.application.findings import some
from service.application.ports import BlobStore, CodeRepository, Encoder, ItemVersion
from service.application.types import JobPhase, Side

_NAMED = 5


@dataclass(frozen=True)
class Recoding:
    """Encodes items again whose codes are in `doubt`, ids by side; a `Preparation` of a build.

    `made` says whose codes were replaced.
    """

    codes: CodeRepository
    blobs: BlobStore
    batch_size: int
    doubt: Mapping[Side, Sequence[str]]
    made: dict[Side, set[str]] = field(default_factory=dict)

    def __call__(self, encoder: Encoder, report: Report) -> None:
        """Encode them. Raises `BuildFailed` when one cannot be, after the others, and as `report` does."""
        total, done = sum(map(len, self.doubt.values())), 0
        failed: dict[str, str] = {}
        for side, ids in self._batches():
            report(Progress(JobPhase.ENCODING, done, total))
            failed.update(self._encode(encoder, side, ids))
            done += len(ids)
        if failed:
            named = some(len(failed), [f"{item_id}: {why}" for item_id, why in [*failed.items()][:_NAMED]])
            raise BuildFailed(f"{len(failed)} items cannot be encoded again, their codes stay: {named}")

    def _batches(self) -> Iterator[tuple[Side, Sequence[str]]]:
        for side, ids in self.doubt.items():
            for start in range(0, len(ids), self.batch_size):
                yield side, ids[start : start + self.batch_size]

    def _encode(self, encoder: Encoder, side: Side, ids: Sequence[str]) -> dict[str, str]:
        """Replace the codes of one side; why that could not be done, by id."""
        found = self.codes.versions(ids, encoder.digest).values()
        versions = [one for one in (_of_side(version, side) for version in found) if one is not None]
        codes, failures = encode_versions(encoder, self.blobs, versions)
        self.codes.add(encoder.digest, codes)
        made = {code.id for code in codes}
        self.made.setdefault(side, set()).update(made)
        why = {item_id: error.detail for item_id, error in failures.items()}
        left = {version.id for version in versions} - made - set(why)
        return why | dict.fromkeys(left, f"{encoder.model_name} does not encode {side}s")


def _of_side(version: ItemVersion, side: Side) -> ItemVersion | None:
    """An item with its content on one side alone and without a code; None when it has none there."""
    if side == "image":
        return None if version.image_digest is None else replace(version, text=None, codes={})
    return None if version.text is None else replace(version, image_digest=None, codes={})
