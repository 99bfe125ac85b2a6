"""Brings an index up to what the catalog says, from the log of changes.

Replaying looks at the present state of each changed item, not at what the change was: doing it twice does
no harm, and a deleted item is one that is no longer there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import structlog

from service.application.encoding import Codes, encode_versions, lacks_codes
from service.application.ports import BlobStore, CodeRepository, Encoder, ItemVersion
from service.application.serving import Serving

_PAGE = 512

_log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class CatchUp:
    """Replays changes into the indexes of a `Serving`."""

    codes: CodeRepository
    blobs: BlobStore

    def replay(self, serving: Serving, after: int) -> int:
        """Apply every change beyond `after`; the sequence number of the last one.

        Items without a code of the serving's model are encoded, and their codes kept. An item that cannot
        be encoded (its blob is damaged) is left out of the index and logged: it must not keep the others
        from being found. Raises `Unavailable` when the model or the catalog cannot work now.
        """
        while changes := self.codes.changes(after, _PAGE):
            ids = list(dict.fromkeys(item_id for _, item_id in changes))
            present = self.codes.versions(ids, serving.encoder.digest)
            found: dict[str, Codes] = {item_id: {} for item_id in ids}
            found.update((item_id, dict(version.codes)) for item_id, version in present.items())
            self._encode_missing(serving.encoder, list(present.values()), found)
            serving.apply(found)
            after = changes[-1][0]
        return after

    def prepare(self, encoder: Encoder, after: int) -> None:
        """Encode what changed beyond `after` and lacks a code of this model; no index is touched.

        Done before a lock is taken, so that `replay` finds little to encode while it is held. Raises
        `Unavailable`.
        """
        while changes := self.codes.changes(after, _PAGE):
            ids = list(dict.fromkeys(item_id for _, item_id in changes))
            self._encode_missing(encoder, list(self.codes.versions(ids, encoder.digest).values()), {})
            after = changes[-1][0]

    def _encode_missing(
        self, encoder: Encoder, versions: Sequence[ItemVersion], found: dict[str, Codes]
    ) -> None:
        lacking = [version for version in versions if lacks_codes(version, encoder.modalities)]
        if not lacking:
            return
        new, failures = encode_versions(encoder, self.blobs, lacking)
        for item_id, error in failures.items():
            _log.error("item_not_encodable", item=item_id, code=error.code, detail=error.detail)
        self.codes.add(encoder.digest, new)
        for code in new:
            found.setdefault(code.id, {})[code.side] = code.code
