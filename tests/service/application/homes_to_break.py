"""A home with a corpus and two generations, everything in it inspected, and ways to break it."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from datetime import timedelta

from fake_homes import settings_for
from fake_models import FakeEncoder, FakeShelf, picture

from service.application.findings import mended
from service.application.types import ItemDraft, JobPhase
from service.inspection_wiring import (
    build_blob_inspection,
    build_catalog_inspection,
    build_generation_inspection,
)
from service.wiring import build_application, open_parts, rebuild

COLOURS = ["red", "green", "blue", "grey"]


def stock(app, parts):
    """Four items with image, text and metadata, and two generations of fake/1 that hold them."""
    app.items.put_batch(
        [ItemDraft(colour, picture(colour), f"all {colour}", {"n": n}) for n, colour in enumerate(COLOURS)]
    )
    app.close()
    for _ in range(2):
        assert rebuild(parts, "fake/1").phase is JobPhase.DONE


def stocked_home(folder):
    """A faiss home in `folder` with that corpus and those generations; its path."""
    settings = settings_for(folder, index_backend="faiss")
    shelf = FakeShelf(settings.models_folder)
    shelf.publish("1")
    app = build_application(settings, shelf)
    app.start()
    parts = open_parts(settings, shelf)
    stock(app, parts)
    parts.close()
    return settings.home


def inspect(parts, grace_h=0.0):
    """All that `hashguard doctor` finds, in its order."""
    grace = timedelta(hours=grace_h)
    return [
        *build_catalog_inspection(parts).find(),
        *build_generation_inspection(parts, grace).find(),
        *build_blob_inspection(parts, grace).find(FakeEncoder("1"), lambda done: None),
    ]


def faults(findings):
    return sorted({finding.fault.value for finding in findings})


def repair(parts, grace_h=0.0):
    """Inspect and mend in the doctor's order: what a check finds is mended before the next one looks."""
    grace = timedelta(hours=grace_h)
    return [
        *mended(build_catalog_inspection(parts).find()),
        *mended(list(build_generation_inspection(parts, grace).find())),
        *mended(build_blob_inspection(parts, grace).find(FakeEncoder("1"), lambda done: None)),
    ]


def sql(parts, *statements):
    """Change an SQLite catalog by hand, past every rule that it keeps."""
    with closing(sqlite3.connect(parts.settings.home / "catalog.db", isolation_level=None)) as connection:
        connection.execute("PRAGMA foreign_keys=OFF")
        for statement in statements:
            assert connection.execute(statement).rowcount != 0, statement


def live(parts):
    return parts.catalog.generations.live()


def folder_of(parts, generation):
    return parts.settings.generations_folder / generation.id


def flip(path, at=-1):
    """Change one bit of a file."""
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def blob_of(parts, item_id):
    """The file of an item's image."""
    digest = parts.catalog.items.get([item_id])[item_id].image_digest
    return parts.settings.home / "blobs" / digest[:2] / digest[2:4] / digest
