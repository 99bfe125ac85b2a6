"""The corpus: items come in, are looked at, and go.

An item keeps what the served model cannot encode (a text under an image-only model): the next model may.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from service.application.cursor import read_page_cursor, write_page_cursor
from service.application.errors import InvalidInput, NotFound, ServiceError, TooLarge, UnsupportedMedia
from service.application.images import Thumbnails
from service.application.ports import BlobStore, ItemRepository
from service.application.serving import ServingState
from service.application.types import Item, ItemDraft, ItemOutcome, ItemPage
from service.application.validation import Limits, check_count, check_draft, check_id
from service.application.writing import Writer

_MAX_PAGE = 1000
_ROUND = 64  # drafts that are encoded and committed together: bounds memory and the write lock


@dataclass(frozen=True)
class Items:
    """Put, get, delete and list items; safe to call from any thread."""

    state: ServingState
    repository: ItemRepository
    blobs: BlobStore
    thumbnails: Thumbnails
    writer: Writer
    limits: Limits

    def new_id(self) -> str:
        """A fresh id for an item whose client has none."""
        return uuid.uuid4().hex

    def put(self, draft: ItemDraft) -> tuple[Item, bool]:
        """Create or replace an item; True when it is new. Searchable as soon as this returns.

        Raises `InvalidInput` (or a subclass) and `Unavailable`.
        """
        check_draft(draft, self.limits)
        result = self.writer.write([draft])[0]
        if isinstance(result, ServiceError):
            raise result
        if not result[1]:
            self.collect_blobs()
        return result

    def put_batch(self, drafts: Sequence[ItemDraft]) -> list[ItemOutcome]:
        """Create or replace many items: 201, 200 or the error's status (413, 415, 422) for each.

        As if they were put one after the other: of two drafts with one id the later one stays. Raises
        `InvalidInput` for a batch that is empty or too long, `Unavailable` when the model or the catalog
        cannot work now; the items before that moment are written then, and putting again does no harm.
        """
        check_count("items", drafts, self.limits.max_batch_items)
        outcomes: dict[int, ItemOutcome] = {}
        good: list[int] = []
        for position, draft in enumerate(drafts):
            try:
                check_draft(draft, self.limits)
                good.append(position)
            except ServiceError as error:
                outcomes[position] = _refused(draft, error)
        for part in _rounds(drafts, good):
            results = self.writer.write([drafts[position] for position in part])
            for position, result in zip(part, results, strict=True):
                outcomes[position] = _outcome(drafts[position], result)
        self.collect_blobs()
        return [outcomes[position] for position in range(len(drafts))]

    def get(self, item_id: str) -> Item:
        """One item. Raises `NotFound`, `InvalidInput` for what cannot be an id."""
        found = self.repository.get([check_id(item_id)])
        if item_id not in found:
            raise NotFound(f"there is no item {item_id!r}")
        return found[item_id]

    def delete(self, item_id: str) -> None:
        """Delete an item, its codes of every model, and its blob when nobody else has it.

        It is gone from the served index and the predecessor's when this returns, and from any other kept
        generation when that is loaded: the log of changes says so. Raises `NotFound`.
        """
        check_id(item_id)
        with self.state.write_lock:
            seq = self.repository.delete(item_id)
            if seq is None:
                raise NotFound(f"there is no item {item_id!r}")
            self.state.apply(seq, seq, lambda _digest: {item_id: {}})
        self.collect_blobs()

    def page(self, cursor: str | None, limit: int) -> ItemPage:
        """One page of items in the order of their ids. Raises `InvalidInput`."""
        if not 1 <= limit <= _MAX_PAGE:
            raise InvalidInput(f"limit is 1 to {_MAX_PAGE}, got {limit}", code="bad_limit")
        after = None if cursor is None else read_page_cursor(cursor)
        items = self.repository.page(after, limit + 1)
        more = write_page_cursor(items[limit - 1].id) if len(items) > limit else None
        return ItemPage(tuple(items[:limit]), more)

    def image(self, item_id: str) -> tuple[bytes, str]:
        """Image bytes and media type. Raises `NotFound` when there is no item or it has no image."""
        digest, kind = self._image_of(item_id)
        return self.blobs.read(digest), kind

    def thumbnail(self, item_id: str, size: int) -> tuple[bytes, str]:
        """Thumbnail bytes and media type, both sides at most `size` pixels. Raises like `image`."""
        return self.thumbnails.get(self._image_of(item_id)[0], size)

    def collect_blobs(self) -> int:
        """Remove the blobs that lost their last item; how many."""
        return self.repository.collect_blobs(self._forget)

    def _forget(self, digest: str) -> None:
        self.blobs.remove(digest)
        self.thumbnails.forget(digest)

    def _image_of(self, item_id: str) -> tuple[str, str]:
        item = self.get(item_id)
        if item.image_digest is None or item.image_type is None:
            raise NotFound(f"item {item_id!r} has no image", code="no_image")
        return item.image_digest, item.image_type


def _rounds(drafts: Sequence[ItemDraft], positions: Sequence[int]) -> Iterator[list[int]]:
    """The positions in order, in parts that hold no id twice."""
    part: list[int] = []
    ids: set[str] = set()
    for position in positions:
        if drafts[position].id in ids or len(part) == _ROUND:
            yield part
            part, ids = [], set()
        part.append(position)
        ids.add(drafts[position].id)
    if part:
        yield part


def _outcome(draft: ItemDraft, result: tuple[Item, bool] | ServiceError) -> ItemOutcome:
    if isinstance(result, ServiceError):
        return _refused(draft, result)
    return ItemOutcome(draft.id, 201 if result[1] else 200)


def _refused(draft: ItemDraft, error: ServiceError) -> ItemOutcome:
    status = 413 if isinstance(error, TooLarge) else 415 if isinstance(error, UnsupportedMedia) else 422
    return ItemOutcome(draft.id, status, error.code, error.detail)
