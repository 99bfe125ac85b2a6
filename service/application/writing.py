"""The one way into the corpus: encode, commit row and codes together, then the served index.

The encoder works before the transaction. A blob is stored before it too (one that is there already is read
and compared), and looked at again inside, under the catalog's write lock: whoever removes orphaned blobs
holds that same lock (see `ItemRepository.collect_blobs`), so an item never refers to a blob that has just
gone.

While a predecessor stands by, its model encodes every item as well and its codes go into the same
transaction: a roll-back finds nothing missing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial

import structlog

from service.application.encoding import Codes, Content, encode_contents
from service.application.errors import ServiceError, Unavailable
from service.application.images import media_type
from service.application.ports import BlobStore, Clock, Encoder, ItemRecord, ItemRepository, Written
from service.application.serving import Serving, ServingState
from service.application.types import Item, ItemDraft, Side

_ATTEMPTS = 5
_BLOB_THREADS = 8

_log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Batch:
    """Drafts as they go into the catalog; `failures` has an error where a draft cannot become an item."""

    records: tuple[ItemRecord, ...]
    images: Mapping[str, bytes]
    failures: tuple[ServiceError | None, ...]

    def codes_of(self, model_digest: str) -> dict[str, Mapping[Side, bytes]] | None:
        """The codes of a model by item id, None when it has not encoded the batch."""
        found: dict[str, Mapping[Side, bytes]] = {}
        for record in self.records:
            if model_digest == record.model_digest:
                found[record.item.id] = record.codes
            elif model_digest in record.others:
                found[record.item.id] = record.others[model_digest]
            else:
                return None
        return found


@dataclass(frozen=True)
class Writer:
    """Writes items of a running service."""

    state: ServingState
    repository: ItemRepository
    blobs: BlobStore
    clock: Clock

    def write(self, drafts: Sequence[ItemDraft]) -> list[tuple[Item, bool] | ServiceError]:
        """Write checked drafts of distinct ids; for each the item and whether it is new, or its error.

        Raises `Unavailable` when the model or the catalog cannot work now; nothing was written then.
        """
        for _ in range(_ATTEMPTS):
            serving = self.state.require()
            batch = self._for_standby(encode_drafts(serving.encoder, drafts, self.clock()), drafts, serving)
            written = self._commit(batch, serving)
            if written is not None:
                return _merge(batch, written)
        raise Unavailable("the model was changed again and again while the items were encoded")

    def _for_standby(self, batch: Batch, drafts: Sequence[ItemDraft], serving: Serving) -> Batch:
        """The batch with the codes of the standby's model, when that is another one and can work now.

        When it cannot, the items lack its codes until the standby is brought up to date (`standby.py`).
        """
        standby = self.state.standby
        if standby is None or standby.encoder.digest == serving.encoder.digest or not batch.records:
            return batch
        try:
            return add_codes(standby.encoder, batch, drafts)
        except Unavailable as error:
            _log.warning("standby_not_encoded", model=standby.model_label, detail=error.detail)
            return batch

    def _commit(self, batch: Batch, serving: Serving) -> Written | None:
        """Commit and apply; None when another model is served by now and the codes are of no use."""
        if not batch.records:
            return Written((), (), 0, 0)
        store_blobs(self.blobs, batch)
        with self.state.write_lock:
            if batch.codes_of(self.state.require().encoder.digest) is None:
                return None
            written = self.repository.put(batch.records, lambda: store_blobs(self.blobs, batch, True))
            self.state.apply(written.first_seq, written.last_seq, batch.codes_of)
        return written


def encode_drafts(encoder: Encoder, drafts: Sequence[ItemDraft], now: datetime) -> Batch:
    """Encode drafts and make them ready for the catalog. Raises `Unavailable`."""
    codes = encode_contents(encoder, [_content(draft) for draft in drafts])
    records: list[ItemRecord] = []
    images: dict[str, bytes] = {}
    failures: list[ServiceError | None] = []
    for draft, found in zip(drafts, codes, strict=True):
        try:
            record = _record(draft, found, encoder.digest, now)
        except ServiceError as error:
            failures.append(error)
            continue
        failures.append(None)
        records.append(record)
        if draft.image is not None and record.item.image_digest is not None:
            images[record.item.image_digest] = draft.image
    return Batch(tuple(records), images, tuple(failures))


def add_codes(encoder: Encoder, batch: Batch, drafts: Sequence[ItemDraft]) -> Batch:
    """The batch with the codes of another model beside its own; what that cannot encode has none of it.

    Raises `Unavailable`.
    """
    good = [draft for draft, failure in zip(drafts, batch.failures, strict=True) if failure is None]
    records = []
    for record, found in zip(batch.records, encode_contents(encoder, [*map(_content, good)]), strict=True):
        if isinstance(found, ServiceError):
            _log.warning("standby_lacks_item", item=record.item.id, code=found.code, detail=found.detail)
        codes = {} if isinstance(found, ServiceError) else found
        records.append(replace(record, others={**record.others, encoder.digest: codes}))
    return replace(batch, records=tuple(records))


def store_blobs(blobs: BlobStore, batch: Batch, checked: bool = False) -> None:
    """Make sure that the batch's images are stored; many at once, because each waits for the disk.

    `checked` says that it was done before, and that they only might have gone since.
    """
    ensure = partial(blobs.ensure, checked=checked)
    if len(batch.images) <= 1:
        for digest, data in batch.images.items():
            ensure(digest, data)
        return
    with ThreadPoolExecutor(_BLOB_THREADS, thread_name_prefix="blobs") as pool:
        for _ in pool.map(ensure, batch.images.keys(), batch.images.values()):
            pass


def _content(draft: ItemDraft) -> Content:
    image = draft.image
    return Content(draft.id, None if image is None else lambda: image, draft.text)


def _record(draft: ItemDraft, codes: Codes | ServiceError, model_digest: str, now: datetime) -> ItemRecord:
    if isinstance(codes, ServiceError):
        raise codes
    digest, kind = None, None
    if draft.image is not None:
        digest, kind = hashlib.sha256(draft.image).hexdigest(), media_type(draft.image)
    item = Item(draft.id, digest, kind, draft.text, dict(draft.metadata), now, now)
    return ItemRecord(item, codes, model_digest)


def _merge(batch: Batch, written: Written) -> list[tuple[Item, bool] | ServiceError]:
    stored = iter(zip(written.items, written.created, strict=True))
    return [next(stored) if failure is None else failure for failure in batch.failures]
