"""Every inconsistency is made for real, found by its name, and mended; then nothing is wrong any more."""

from __future__ import annotations

import hashlib
import os
import shutil
from datetime import timedelta

import numpy as np
import pytest
from fake_homes import settings_for
from fake_models import FakeEncoder, FakeShelf, picture, put_text
from homes_to_break import COLOURS, blob_of, faults, flip, folder_of, inspect, live, repair, sql, stocked_home

from service.application.bulk_ports import ReadyCodes
from service.application.errors import Conflict, Unavailable
from service.application.findings import Fault, Finding, mended, some
from service.application.types import JobKind, JobPhase, Query
from service.bulk_wiring import build_bulk_import
from service.inspection_wiring import (
    build_blob_inspection,
    build_catalog_inspection,
    build_generation_inspection,
)
from service.wiring import build_application, build_builder, open_parts, rebuild
from service.worker_processes import open_log


@pytest.fixture(scope="module")
def stocked(tmp_path_factory):
    """A home with a corpus and generations, made once."""
    return stocked_home(tmp_path_factory.mktemp("stocked"))


@pytest.fixture
def parts(stocked, home, shelf):
    shutil.copytree(stocked, home, dirs_exist_ok=True)
    parts = open_parts(settings_for(home, index_backend="faiss"), shelf)
    yield parts
    parts.close()


def check_served(parts):
    """A service that starts on the home finds each item by its text and by its image."""
    app = build_application(parts.settings, FakeShelf(parts.settings.models_folder))
    app.start()
    try:
        for colour in COLOURS:
            for side in ("text", "image"):
                nearest = app.retrieval.search(Query(to=side, text=f"all {colour}", k=10)).hits
                assert sorted(hit.id for hit in nearest) == sorted(COLOURS)
            [own] = app.retrieval.search(Query(to="text", text=f"all {colour}", max_distance=0)).hits
            assert own.id == colour
    finally:
        app.close()


def test_a_sound_home_is_sound(parts):
    assert inspect(parts) == []
    check_served(parts)


def codes_file(parts):
    return folder_of(parts, live(parts)) / "image" / "codes.npy"


def lose_generation_row(parts):
    sql(parts, f"DELETE FROM generations WHERE id = '{live(parts).id}'")


def abandon_job(parts):
    job, _ = parts.catalog.jobs.create(JobKind.REINDEX, "fake/1", True, None, timedelta(0))
    with open_log(parts.settings.logs_folder, job.id):
        pass


def leave_half_a_build(parts):
    half = parts.settings.generations_folder / ".building-g1-0123"
    shutil.copytree(folder_of(parts, live(parts)), half)
    (half / "META.json").unlink()


def leave_a_whole_build(parts):
    """As a worker does that is killed when the folder has its name and the catalog does not know it."""
    builder = build_builder(parts)
    kept = {one.id for one in parts.catalog.generations.all()}
    new = builder.build("fake", "1", lambda progress: None)
    assert new.id not in kept
    sql(parts, f"DELETE FROM generations WHERE id = '{new.id}'")


def store_orphan(parts):
    data = picture((1, 2, 3))
    parts.blobs.ensure(hashlib.sha256(data).hexdigest(), data)


def cut_off_blob(parts):
    blob = blob_of(parts, "red")
    blob.with_name(f".{blob.name}.{'0' * 32}").write_bytes(b"half")


MENDED = {
    "a file is gone": (lambda parts: codes_file(parts).unlink(), ["generation-damaged"]),
    "a bit is flipped": (lambda parts: flip(codes_file(parts)), ["generation-damaged"]),
    "the folder is gone": (
        lambda parts: shutil.rmtree(folder_of(parts, live(parts))),
        ["generation-damaged"],
    ),
    "the row counts otherwise": (
        lambda parts: sql(parts, "UPDATE generations SET text_count = 9 WHERE text_count = 4"),
        ["generation-count"],
    ),
    "a stored code is another": (
        lambda parts: sql(parts, "UPDATE codes SET code = zeroblob(8) WHERE item_id = 'red'"),
        ["generation-codes"],
    ),
    "a stored code is cut off": (
        lambda parts: sql(parts, "UPDATE codes SET code = zeroblob(7) WHERE item_id = 'red'"),
        ["generation-codes"],
    ),
    "a stored code is gone": (
        lambda parts: sql(parts, "DELETE FROM codes WHERE item_id = 'red' AND side = 'text'"),
        ["code-missing", "generation-codes"],
    ),
    "the counter is off": (
        lambda parts: sql(parts, "UPDATE counters SET value = 77 WHERE name = 'items'"),
        ["item-count"],
    ),
    "the alias is gone": (lambda parts: sql(parts, "DELETE FROM aliases"), ["alias-dangling"]),
    "the alias points nowhere": (
        lambda parts: sql(parts, "UPDATE aliases SET generation_id = 'lost' WHERE name = 'live'"),
        ["alias-dangling"],
    ),
    "the generation's row is gone": (lose_generation_row, ["alias-dangling"]),
    "a worker is dead": (abandon_job, ["job-abandoned"]),
    "half a build is left": (leave_half_a_build, ["left-behind"]),
    "a whole build is left": (leave_a_whole_build, ["generation-unknown"]),
    "a blob is nobody's": (store_orphan, ["blob-orphaned"]),
    "a blob is cut off": (cut_off_blob, ["blob-partial"]),
}


@pytest.mark.parametrize("trouble", MENDED)
def test_what_can_be_mended_is_found_and_mended(parts, trouble):
    if trouble == "the alias is gone":  # which of several would be live is for somebody to say
        for one in parts.catalog.generations.all():
            if not one.live:
                build_builder(parts).discard(one.id)
    before = {path: path.read_bytes() for path in (blob_of(parts, colour) for colour in COLOURS)}
    break_it, wanted = MENDED[trouble]
    break_it(parts)
    found = inspect(parts)
    assert faults(found) == wanted
    assert all(one.open and one.mend is not None for one in found), found
    done = repair(parts)
    assert done
    assert all(one.repaired for one in done), [one.line() for one in done]
    assert inspect(parts) == []
    assert {path: path.read_bytes() for path in before} == before
    assert live(parts) is not None
    check_served(parts)


def undecodable(parts):
    """An image whose bytes are what they were stored as, and no image (any more)."""
    data = b"GIF89a, but not really"
    digest = hashlib.sha256(data).hexdigest()
    parts.blobs.ensure(digest, data)
    old = parts.catalog.items.get(["red"])["red"].image_digest
    sql(parts, f"UPDATE items SET image_digest = '{digest}' WHERE id = 'red'")
    parts.blobs.remove(old)


def lose_item_row(parts):
    sql(parts, "DELETE FROM items WHERE id = 'red'")
    blob = next(path for path in (parts.settings.home / "blobs").rglob("*") if path.is_file())
    os.utime(blob)


def damage_catalog_page(parts):
    """Overwrite a page of one of the database's own indexes."""
    parts.catalog.close()
    with parts.catalog.database.read() as connection:
        connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
        root = "SELECT rootpage FROM sqlite_master WHERE name = 'ix_items_image_digest'"
        page = connection.exec_driver_sql(root).scalar_one()
        size = connection.exec_driver_sql("PRAGMA page_size").scalar_one()
    parts.catalog.close()
    path = parts.settings.home / "catalog.db"
    data = bytearray(path.read_bytes())
    start = (page - 1) * size
    data[start] = 0xFF  # no kind of page
    path.write_bytes(data)


NAMED = {
    "a blob is gone": (lambda parts: blob_of(parts, "red").unlink(), "blob-missing", "1 (red)", "PUT the"),
    "a blob is flipped": (lambda parts: flip(blob_of(parts, "red")), "blob-damaged", "1 (red)", "PUT the"),
    "a blob does not decode": (undecodable, "blob-undecodable", "not a JPEG, PNG or WebP", "PUT the image"),
    "an item is empty": (
        lambda parts: sql(
            parts,
            "INSERT INTO items (id, seq, meta, created, updated) "
            "VALUES ('void', 99, '{}', '2026-01-01', '2026-01-01')",
            "UPDATE counters SET value = 5 WHERE name = 'items'",
        ),
        "item-empty",
        "1 (void)",
        "import-codes",
    ),
    "a model is gone": (
        lambda parts: parts.shelf.path.unlink(), "model-missing", "is not here", "put it back"
    ),
    "a file is nobody's": (
        lambda parts: (parts.settings.home / "blobs" / "notes.txt").write_text("whose?"),
        "blob-partial",
        "no blob of this service",
        "see whose file",
    ),
    "a page of the catalog is damaged": (damage_catalog_page, "catalog-damaged", "", "back-up"),
}  # fmt: skip


@pytest.mark.parametrize("trouble", NAMED)
def test_what_cannot_be_mended_is_named_with_the_next_step(parts, trouble):
    break_it, fault, detail, step = NAMED[trouble]
    break_it(parts)
    stored = {
        path: path.read_bytes() for path in (parts.settings.home / "blobs").rglob("*") if path.is_file()
    }
    if fault == "catalog-damaged":
        done = mended(build_catalog_inspection(parts).find())
        assert {one.fault.value for one in done} == {fault}
        assert all(one.open and step in one.next_step for one in done)
        assert "Page" in done[0].detail
        return
    done = repair(parts)
    named = [one for one in done if one.fault.value == fault]
    assert named
    assert all(one.open and detail in one.detail and step in one.next_step for one in named), named
    assert {path: path.read_bytes() for path in stored} == stored
    assert {one.fault.value for one in inspect(parts)} >= {fault}


def test_rows_that_lost_their_item_are_named_and_kept_while_index_and_counter_are_mended(parts):
    lose_item_row(parts)
    image = parts.settings.home / "blobs"
    found = inspect(parts, grace_h=1)
    assert faults(found) == ["generation-codes", "item-count", "row-missing"]
    assert {one.subject for one in found if one.fault is Fault.ROW_MISSING} == {"codes", "item_metadata"}
    assert "1 (red) in the index only" in next(
        one.detail for one in found if one.fault is Fault.GENERATION_CODES
    )
    left = [one for one in repair(parts, grace_h=1) if one.open]
    assert faults(left) == ["row-missing"]
    assert "1 (red)" in left[0].detail
    assert len([path for path in image.rglob("*") if path.is_file()]) == 4  # its image is young, and stays
    assert faults(inspect(parts)) == ["blob-orphaned", "row-missing"]


def test_grace_spares_what_is_young(parts):
    store_orphan(parts)
    cut_off_blob(parts)
    leave_a_whole_build(parts)
    assert inspect(parts, grace_h=1) == []
    assert faults(inspect(parts)) == ["blob-orphaned", "blob-partial", "generation-unknown"]


def test_a_running_job_keeps_its_generation(parts):
    leave_a_whole_build(parts)
    parts.catalog.jobs.create(JobKind.REINDEX, "fake/1", True, None, timedelta(0))
    assert inspect(parts) == []


def test_an_orphan_that_somebody_takes_meanwhile_stays(parts):
    store_orphan(parts)
    [orphan] = inspect(parts)
    sql(parts, f"UPDATE items SET image_digest = '{orphan.subject}' WHERE id = 'red'")
    assert orphan.mend() == "an item has it by now"
    assert parts.blobs.read(orphan.subject)


def test_a_damaged_predecessor_is_built_anew_and_is_the_predecessor(parts, shelf):
    shelf.publish("2")
    assert rebuild(parts, "fake/2").phase is JobPhase.DONE
    served, before = live(parts), parts.catalog.generations.predecessor()
    kept = {one.id for one in parts.catalog.generations.all()}
    shutil.rmtree(folder_of(parts, before))
    [finding] = repair(parts)
    assert (finding.fault, finding.subject) == (Fault.GENERATION_DAMAGED, before.id)
    after = parts.catalog.generations.predecessor()
    assert (live(parts).id, after.model_version) == (served.id, "1")
    assert {one.id for one in parts.catalog.generations.all()} == kept - {before.id} | {after.id}
    assert inspect(parts) == []


def test_a_damaged_live_one_leaves_the_predecessor_what_it_was(parts):
    before = parts.catalog.generations.predecessor()
    flip(codes_file(parts))
    old = live(parts).id
    [finding] = repair(parts)
    assert finding.subject == old
    assert parts.catalog.generations.predecessor().id == before.id
    assert parts.catalog.generations.get(old) is None


def test_what_is_wrong_twice_is_built_once(parts):
    sql(parts, "UPDATE codes SET code = zeroblob(8) WHERE item_id = 'red'")
    jobs = len(parts.catalog.jobs.recent(100))
    done = repair(parts)
    assert len(done) == 2  # generations with codes, each with two sides
    assert len(parts.catalog.jobs.recent(100)) - jobs == 2
    assert ["encoded anew" in one.repaired for one in done] == [True, False]


def test_a_repair_beside_a_running_job_fails_with_the_reason(parts):
    flip(codes_file(parts))
    job, _ = parts.catalog.jobs.create(JobKind.REINDEX, "fake/1", True, None, timedelta(0))
    [finding] = repair(parts)
    assert finding.open
    assert finding.next_step.startswith(f"the repair failed: a reindex job is running already: {job.id}")


def test_without_its_model_a_generation_is_left_as_it_is(parts, shelf):
    flip(codes_file(parts))
    shelf.path.unlink()
    done = repair(parts)
    broken = next(one for one in done if one.fault is Fault.GENERATION_DAMAGED)
    assert broken.next_step.startswith("first its model: put it back")
    assert folder_of(parts, live(parts)).is_dir()


def test_a_rebuild_that_fails_says_why_and_leaves_the_generation(parts, shelf):
    flip(codes_file(parts))
    shelf.publish("1", damaged=True)
    old = live(parts)
    broken, *_ = repair(parts)
    reason = "the repair failed: the index was not built, the job failed: the model is damaged"
    assert (broken.open, broken.subject) == (True, old.id)
    assert broken.next_step.startswith(reason)
    assert live(parts) == old


def test_what_has_changed_since_it_was_looked_at_is_left_alone(parts):
    """A generation that the catalog knows by now, a blob that has gone, a row that cannot be made again."""
    leave_a_whole_build(parts)
    inspection = build_generation_inspection(parts, timedelta(0))
    [unknown] = inspection.find()
    inspection.audit.adopt(inspection.folders.read(unknown.subject))
    [refused] = mended([unknown])
    assert (refused.open, "knows it by now" in refused.next_step) == (True, True)
    listing = build_blob_inspection(parts, timedelta(0)).listing
    gone = next(listing.entries()).path
    listing.discard(gone)
    assert listing.modified(gone) is None
    listing.discard(gone)
    (folder_of(parts, live(parts)) / "META.json").write_text("{}")
    lose_generation_row(parts)
    before = parts.catalog.generations.predecessor()
    adopted = next(one for one in repair(parts) if one.fault is Fault.ALIAS_DANGLING)
    assert "META.json: wanted the fields" in adopted.detail
    assert adopted.repaired == f"it points at {before.id}"


def test_a_decoder_that_cannot_work_now_is_no_fault_of_the_images(parts):
    class Busy(FakeEncoder):
        def decode(self, data):
            raise Unavailable("not now")

    inspection = build_blob_inspection(parts, timedelta(0))
    with pytest.raises(Unavailable, match="not now"):
        list(inspection.find(Busy("1"), lambda done: None))
    seen = []
    assert list(inspection.find(FakeEncoder("1", modalities=["text"]), seen.append)) == []
    assert seen == [1, 2, 3, 4]
    assert list(inspection.glance(seen.append)) == []


def test_a_model_that_is_another_one_now_is_named(parts):
    sql(parts, f"UPDATE generations SET model_digest = '{'e' * 64}'")
    changed = [one for one in inspect(parts) if one.fault is Fault.MODEL_CHANGED]
    assert len(changed) == 3
    assert "wants the digest eeeeeeeeeeee, here is" in changed[0].detail


def test_which_of_several_is_live_is_for_somebody_to_say(parts):
    sql(parts, "DELETE FROM aliases")
    [finding] = repair(parts)
    assert finding.open
    assert "hashguard index rollback GENERATION; there are g" in finding.next_step


def test_a_predecessor_that_points_nowhere_is_dropped(parts):
    sql(parts, "UPDATE aliases SET generation_id = 'lost' WHERE name = 'predecessor'")
    [finding] = repair(parts)
    assert (finding.subject, finding.repaired) == ("predecessor", "dropped")
    check_served(parts)


def test_a_lost_live_one_gives_way_to_its_predecessor(parts):
    before = parts.catalog.generations.predecessor().id
    shutil.rmtree(folder_of(parts, live(parts)))
    lose_generation_row(parts)
    [finding] = repair(parts)
    assert (finding.subject, finding.repaired) == ("live", f"it points at {before}")
    assert (live(parts).id, parts.catalog.generations.predecessor()) == (before, None)
    check_served(parts)


def test_a_bare_code_that_was_damaged_is_never_dropped(parts):
    codes = np.full((1, 8), 7, np.uint8)
    build_bulk_import(parts).run(FakeEncoder("1"), ReadyCodes(["bare"], {"image": codes}), lambda *_: None)
    sql(parts, "UPDATE codes SET code = zeroblob(8) WHERE item_id = 'bare'")
    done = repair(parts)
    bare = [one for one in done if one.fault is Fault.CODE_DAMAGED]
    assert bare
    assert all(one.open and "import the bare ones anew" in one.next_step for one in bare)
    assert "bare" in parts.catalog.codes.all(FakeEncoder("1").digest, "image", 64)[0]


def test_what_cannot_be_encoded_stays_open_after_the_repair(parts):
    sql(parts, "DELETE FROM codes WHERE item_id = 'red'")
    blob_of(parts, "red").unlink()
    left = [one for one in repair(parts) if one.open]
    assert faults(left) == ["blob-missing", "code-missing", "generation-codes"]
    lacking = next(one for one in left if one.fault is Fault.CODE_MISSING)
    assert "1 items cannot be encoded" in lacking.next_step
    assert "red" in parts.store.load(live(parts))["image"].codes()[0]  # the only code of it that there is


def test_what_never_had_a_code_and_cannot_get_one_stays_open_after_the_repair(parts):
    put_text(parts, "odd", "crash")
    left = repair(parts)
    assert faults(left) == ["code-missing"]
    assert all(one.open and "in its place, but 1 items cannot be encoded" in one.next_step for one in left)


def test_a_change_that_is_newer_than_the_snapshot_is_no_difference(parts, make_app, home):
    app = make_app(index_backend="faiss")
    app.items.delete("red")
    app.close()
    assert faults(inspect(parts)) == []


def test_findings_speak_for_themselves():
    def fail():
        raise Conflict("not now")

    note = Finding(Fault.TABLE_UNKNOWN, "t", "d", "drop it")
    failed, plain = mended([Finding(Fault.ITEM_COUNT, "c", "d", "again", fail), note])
    assert (failed.open, failed.next_step) == (True, "the repair failed: not now; again")
    assert (plain, plain.open) == (note, False)
    assert failed.line() == "item-count c: d; the repair failed: not now; again"
    assert (
        mended([Finding(Fault.ITEM_COUNT, "c", "d", "n", lambda: "did")])[0].line().endswith("repaired: did")
    )
    assert (some(7, ["a", "b"]), some(1, ["a"])) == ("7 (a, b, ...)", "1 (a)")
