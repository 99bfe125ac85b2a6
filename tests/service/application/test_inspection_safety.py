"""What an inspection must never do: believe a wrong or damaged catalog, or end at the first trouble."""

from __future__ import annotations

import hashlib
import os
import shutil
import sqlite3
from contextlib import closing
from datetime import timedelta

import pytest
from fake_homes import settings_for
from fake_models import FakeShelf, picture
from homes_to_break import COLOURS, blob_of, faults, flip, live, sql, stocked_home
from sqlalchemy import Connection
from sqlalchemy.exc import OperationalError

from service.application.errors import NotFound, Unavailable
from service.application.findings import Fault
from service.application.inspect_blobs import BlobInspection
from service.application.types import ItemDraft
from service.catalog import audit
from service.catalog.audit import SqlAudit
from service.catalog.blobs import FsspecBlobs
from service.commands import home_checks
from service.commands.doctor import examine
from service.commands.home import opened
from service.commands.inspecting import Extent
from service.inspection_wiring import StoredGenerations, build_blob_inspection, build_catalog_inspection
from service.wiring import build_application, open_parts

DAYS = 3 * 86_400


@pytest.fixture(scope="module")
def stocked(tmp_path_factory):
    """A home with a corpus and generations, all of it three days old; made once."""
    home = stocked_home(tmp_path_factory.mktemp("stocked"))
    for path in home.rglob("*"):
        os.utime(path, (path.stat().st_mtime - DAYS,) * 2)
    return home


@pytest.fixture
def settings(stocked, home):
    shutil.copytree(stocked, home)
    return settings_for(home, index_backend="faiss")


@pytest.fixture
def parts(settings):
    parts = open_parts(settings, FakeShelf(settings.models_folder))
    yield parts
    parts.close()


def kept(settings):
    """All that exists only once, or that a repair may remove: images, and files of generations."""
    folders = (settings.home / "blobs", settings.generations_folder)
    files = (path for folder in folders for path in folder.rglob("*") if path.is_file())
    return {path: path.read_bytes() for path in files}


def store(settings, data):
    """Store bytes as an image that no item has; their digest."""
    digest = hashlib.sha256(data).hexdigest()
    FsspecBlobs(settings.blob_store_url()).ensure(digest, data)
    return digest


def doctor(settings, repair=True, quick=False, grace_h=24):
    """The checks of `hashguard doctor` by name."""
    extent = Extent(timedelta(hours=grace_h), quick, repair)
    return {check.name: check for check in examine(settings, extent)}


def empty_the_catalog(settings):
    (settings.home / "catalog.db").write_bytes(b"")
    return settings


def lose_the_catalog(settings):
    for path in settings.home.glob("catalog.db*"):
        path.unlink()
    return settings


def forget_its_url(settings):
    """The service's catalog is a database elsewhere, and this call does not know of it."""
    return settings.model_copy(update={"home": lose_the_catalog(settings).home})


def mistake_its_url(settings):
    return settings_for(settings.home, catalog_url=f"sqlite:///{settings.home}/other.db")


@pytest.mark.parametrize("lose", [empty_the_catalog, lose_the_catalog, forget_its_url, mistake_its_url])
@pytest.mark.parametrize("repair", [False, True])
def test_without_a_catalog_nothing_is_mended_and_none_is_made(settings, lose, repair):
    settings = lose(settings)
    before, there = kept(settings), sorted(path.name for path in settings.home.iterdir())
    checks = doctor(settings, repair)
    [finding] = checks["catalog"].findings
    assert (finding.fault, finding.open) == (Fault.CATALOG_MISSING, True)
    assert "there is none; the home has images, generations" in finding.detail
    assert "HASHGUARD_CATALOG_URL" in finding.next_step
    assert not checks["catalog"].ok
    assert checks["blobs"].detail == checks["generations"].detail == "not looked at: there is no catalog"
    with pytest.raises(NotFound, match="wanted a catalog in the sqlite database"), opened(settings, True):
        pass
    assert kept(settings) == before
    assert sorted(path.name for path in settings.home.iterdir() if "-" not in path.name) == there


def test_a_home_with_nothing_in_it_is_none_yet_and_stays_so(home):
    home.mkdir()
    checks = doctor(settings_for(home, attack_score="on"))
    assert {checks[name].detail for name in ("catalog", "generations", "blobs")} == {"none yet"}
    assert checks["attack score"].detail == "on; no live generation yet"
    with pytest.raises(NotFound, match="the home is empty"), opened(settings_for(home), existing=True):
        pass
    assert list(home.iterdir()) == []


def test_a_catalog_that_a_service_has_made_anew_is_found_out(settings):
    """The first thing that happens after the loss: the service starts, and takes in an item."""
    lose_the_catalog(settings)
    app = build_application(settings, FakeShelf(settings.models_folder))
    app.start()
    before = kept(settings)
    found = doctor(settings)
    assert [one.fault for one in found["catalog"].findings] == [Fault.CATALOG_BEHIND] * 3
    assert "nothing was ever written to it" in found["catalog"].findings[-1].detail
    app.items.put(ItemDraft("new", picture((9, 9, 9)), "new", {}))
    app.close()
    before |= kept(settings)
    found = doctor(settings)
    assert [one.fault for one in found["catalog"].findings] == [Fault.CATALOG_BEHIND] * 2
    assert "was built after change 4, its own last change has number 1" in found["catalog"].findings[0].detail
    assert faults(found["blobs"].findings) == ["blob-orphaned"]
    for one in (*found["blobs"].findings, *found["generations"].findings):
        assert one.open
        assert one.fault is Fault.MODEL_MISSING or one.next_step.startswith("first the catalog")
    assert kept(settings) == before


def test_only_what_can_say_so_is_a_sign_of_another_catalog(settings, home):
    """Neither young images, nor what cannot be read, nor the generation that a service without items has."""
    lose_the_catalog(settings)
    shutil.rmtree(settings.home / "blobs")
    for path in settings.generations_folder.glob("*/META.json"):
        path.write_text("{")
    build_application(settings, FakeShelf(settings.models_folder)).close()
    assert doctor(settings, repair=False, grace_h=0)["catalog"].findings == ()
    store(settings, b"first")
    (home / "blobs" / "notes.txt").write_text("whose?")
    assert doctor(settings, repair=False)["catalog"].findings == ()
    assert doctor(settings, repair=False, grace_h=0)["catalog"].findings != ()


def empty_the_index_of_images(settings):
    """Make SQLite's index on the digests of images an empty one, so that no item seems to have any."""
    path = settings.home / "catalog.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        connection.execute("PRAGMA journal_mode=DELETE")
        root = "SELECT rootpage FROM sqlite_master WHERE name = 'ix_items_image_digest'"
        [page] = connection.execute(root).fetchone()
        [size] = connection.execute("PRAGMA page_size").fetchone()
    data = bytearray(path.read_bytes())
    start = (page - 1) * size
    data[start : start + 8] = bytes([10, 0, 0, 0, 0, *divmod(size, 256), 0])  # a leaf without cells
    path.write_bytes(data)


@pytest.mark.parametrize("quick", [False, True])
def test_an_index_of_the_catalog_that_lacks_rows_is_damage_and_no_reason_to_remove_images(settings, quick):
    empty_the_index_of_images(settings)
    before = kept(settings)
    checks = doctor(settings, quick=quick)
    assert faults(checks["catalog"].findings) == ["catalog-damaged"]
    assert "missing from index ix_items_image_digest" in checks["catalog"].findings[0].detail
    assert all(one.open for check in checks.values() for one in check.findings)
    assert faults(checks["blobs"].findings) == ([] if quick else ["blob-orphaned"])
    assert kept(settings) == before
    with opened(settings, existing=True) as parts:
        assert faults(build_catalog_inspection(parts).find(quick=True)) == ["item-count"]  # and not the cause


@pytest.mark.parametrize("trouble", ["at once", "later"])
def test_a_catalog_whose_check_does_not_end_leaves_nothing_to_be_mended(settings, monkeypatch, trouble):
    store(settings, b"nobody's")
    before = kept(settings)

    def broken(*_):
        if trouble == "later":
            yield from ()
        raise RuntimeError("a page is malformed")

    if trouble == "at once":
        monkeypatch.setitem(home_checks.CHECKS, "catalog", lambda *_: next(broken()))
    else:
        monkeypatch.setattr(StoredGenerations, "present", lambda _: next(broken()))
    checks = doctor(settings, grace_h=0)
    assert not checks["catalog"].ok
    assert "RuntimeError: a page is malformed" in checks["catalog"].detail
    assert "blob-orphaned" in faults(checks["blobs"].findings)
    assert kept(settings) == before


def test_damage_that_stops_every_check_is_damage_and_a_busy_catalog_is_none(parts, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(audit, "_told", lambda connection, pragma: [])
        assert SqlAudit(parts.catalog.database).damage() == ["the check could not go on: malformed"]

    def locked(connection, statement):
        raise OperationalError(statement, {}, sqlite3.OperationalError("database is locked"))

    monkeypatch.setattr(Connection, "exec_driver_sql", locked)
    with pytest.raises(Unavailable, match="busy"), parts.catalog.database.read() as connection:
        audit._told(connection, "integrity_check")


def test_images_that_may_be_those_of_lost_rows_are_kept(parts):
    sql(parts, "DELETE FROM items WHERE id = 'red'")
    [orphan] = [
        one
        for one in build_blob_inspection(parts, timedelta(hours=1)).find(None, lambda done: None)
        if one.fault is Fault.BLOB_ORPHANED
    ]
    assert orphan.mend is None
    assert orphan.next_step.startswith("first row-missing")


def test_putting_the_image_again_mends_it(parts):
    damaged = blob_of(parts, "red")
    flip(damaged)
    inspection = build_blob_inspection(parts, timedelta(0))
    assert faults(inspection.find(None, lambda done: None)) == ["blob-damaged"]
    app = build_application(parts.settings, parts.shelf)
    app.start()
    app.items.put(ItemDraft("red", picture("red"), "all red", {"n": 0}))
    app.close()
    assert damaged.read_bytes() == picture("red")
    assert list(inspection.find(None, lambda done: None)) == []


def test_an_item_that_goes_while_the_images_are_read_is_no_fault(parts):
    app = build_application(parts.settings, parts.shelf)
    app.start()

    def watch(done):
        if done == 1:
            for colour in COLOURS:
                app.items.delete(colour)

    assert list(build_blob_inspection(parts, timedelta(hours=24)).find(None, watch)) == []
    app.close()


def test_one_that_cannot_be_read_does_not_hide_the_others(parts):
    place = blob_of(parts, "red")
    place.unlink()
    place.mkdir()
    blob_of(parts, "blue").unlink()
    sql(parts, "UPDATE items SET image_digest = '0123' WHERE id = 'grey'")
    found = {}
    for one in build_blob_inspection(parts, timedelta(days=9)).find(None, lambda done: None):
        found.setdefault(one.fault, []).append(one)
    assert set(found) == {Fault.BLOB_MISSING, Fault.BLOB_UNREADABLE}
    told = "\n".join(one.line() for one in found[Fault.BLOB_UNREADABLE])
    for words in (
        "IsADirectoryError",
        "1 (red)",
        "ValueError: blob: wanted a SHA-256",
        "1 (grey)",
        "PUT the",
    ):
        assert words in told
    assert "1 (blue)" in found[Fault.BLOB_MISSING][0].detail
    assert all(one.open for ones in found.values() for one in ones)


def test_an_item_whose_digest_is_none_can_be_put_again_or_deleted(parts):
    sql(parts, "UPDATE items SET image_digest = '0123' WHERE id IN ('red', 'blue')")
    app = build_application(parts.settings, parts.shelf)
    app.start()
    app.items.put(ItemDraft("red", picture("red"), "all red", {"n": 0}))
    app.items.delete("blue")
    app.close()
    left = build_blob_inspection(parts, timedelta(days=9)).find(None, lambda done: None)
    assert list(left) == []


def test_a_file_whose_name_is_no_text_is_named_all_the_same(parts):
    (parts.settings.home / "blobs" / os.fsdecode(b"\xff.txt")).touch()
    [found] = build_blob_inspection(parts, timedelta(0)).find(None, lambda done: None)
    assert found.fault is Fault.BLOB_PARTIAL
    assert found.subject.endswith("/blobs/\\udcff.txt")


def test_what_ends_a_check_stands_beside_what_it_found(settings, parts, monkeypatch):
    blob_of(parts, "blue").unlink()

    def orphans(_):
        raise RuntimeError("the store went away")
        yield

    monkeypatch.setattr(BlobInspection, "_orphans", orphans)
    check = doctor(settings, repair=False)["blobs"]
    assert faults(check.findings) == ["blob-missing", "check-ended"]
    assert "RuntimeError: the store went away" in check.findings[-1].detail
    assert not check.ok


def test_a_repair_that_fails_in_an_unforeseen_way_does_not_end_the_others(settings, monkeypatch):
    digests = [store(settings, data) for data in (b"nobody's", b"nobody's either")]
    swept = BlobInspection._swept

    def sweep(self, digest):
        if digest == digests[0]:
            raise RuntimeError("not so fast")
        return swept(self, digest)

    monkeypatch.setattr(BlobInspection, "_swept", sweep)
    found = {one.subject: one for one in doctor(settings, grace_h=0)["blobs"].findings}
    assert found[digests[0]].next_step.startswith("the repair failed: RuntimeError: not so fast; run again")
    assert found[digests[1]].repaired == "removed"


def test_a_sound_home_opens_and_is_sound(settings):
    with opened(settings, existing=True) as parts:
        assert live(parts) is not None
    checks = doctor(settings)
    assert (checks["catalog"].ok, checks["blobs"].detail) == (True, "4 images read")
    assert checks["catalog"].detail.startswith("4 items, live generation g")
