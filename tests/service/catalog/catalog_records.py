"""Short ways to put items into a catalog."""

from datetime import UTC, datetime

from service.application.ports import ItemRecord
from service.application.types import Item


def record(item_id, text="text", image=None, codes=None, digest="m1", **metadata):
    now = datetime(2026, 1, 1, tzinfo=UTC)
    item = Item(item_id, image, None if image is None else "image/png", text, metadata, now, now)
    return ItemRecord(item, codes or {}, digest)


def put(catalog, *records):
    return catalog.items.put(records, lambda: None)
