"""Bodies and answers of the corpus."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated
from urllib.parse import quote

from pydantic import Field, SkipValidation

from service.api.schemas.base import Answer, Base64Bytes, Body, ItemId, MetadataMember, Problem
from service.application.types import Item, ItemDraft, ItemPage

Metadata = Annotated[
    dict[str, MetadataMember], Field(description="A flat object.", examples=[{"source": "sample"}])
]


class ItemFields(Body):
    """What comes beside the image of an item."""

    text: str | None = None
    metadata: Metadata = Field(default_factory=dict)


class NewItemFields(ItemFields):
    """The same with the id, which the service makes up when it is missing."""

    id: ItemId | None = None


class BatchItem(ItemFields):
    """One item of a batch, its image as base64."""

    id: ItemId | None = None
    image: Base64Bytes | None = None

    def draft(self, item_id: str) -> ItemDraft:
        """As the use case takes it."""
        return ItemDraft(item_id, self.image, self.text, self.metadata)


class BatchItems(Body):
    """Many items; one that does not fit has its problem in its place, the others are stored."""

    items: Annotated[list[SkipValidation[BatchItem]], Field(min_length=1)]


class ItemAnswer(Answer):
    """An item of the corpus."""

    id: str = Field(examples=["scene-0001"])
    text: str | None
    image_url: str | None = Field(examples=["/v1/items/scene-0001/image"])
    image_type: str | None = Field(examples=["image/jpeg"])
    image_digest: str | None = Field(description="SHA-256 of the image's bytes, in hex.")
    metadata: dict[str, MetadataMember]
    created: datetime
    updated: datetime

    @classmethod
    def of(cls, item: Item) -> ItemAnswer:
        """From the use case's value."""
        return cls(
            id=item.id,
            text=item.text,
            image_url=f"{item_path(item.id)}/image" if item.image_digest is not None else None,
            image_type=item.image_type,
            image_digest=item.image_digest,
            metadata=dict(item.metadata),
            created=item.created,
            updated=item.updated,
        )


class ItemsAnswer(Answer):
    """One page of items in the order of their ids."""

    items: list[ItemAnswer]
    next_cursor: str | None

    @classmethod
    def of(cls, page: ItemPage) -> ItemsAnswer:
        """From the use case's value."""
        return cls(items=[ItemAnswer.of(item) for item in page.items], next_cursor=page.next_cursor)


class BatchItemsEntry(Answer):
    """What became of one item: 201 when it is new, 200 when it replaced another, else its problem."""

    id: str | None
    status: int
    problem: Problem | None = None


class BatchItemsAnswer(Answer):
    """One entry for each item, in their order."""

    results: list[BatchItemsEntry]


def item_path(item_id: str) -> str:
    """The path of an item."""
    return f"/v1/items/{quote(item_id, safe=':')}"
