"""A repair keeps the only copies, and what a running service and other doctors do meanwhile."""

from __future__ import annotations

import json
import shutil
import threading
from dataclasses import replace
from datetime import timedelta

import numpy as np
import pytest
from fake_homes import settings_for
from fake_models import FakeEncoder
from homes_to_break import COLOURS, blob_of, faults, flip, folder_of, live, sql, stocked_home

from index import store as index_store
from index.errors import UnknownOption, Unsupported
from service import adapters
from service.application.building import Builder
from service.application.bulk_ports import ReadyCodes
from service.application.errors import Unavailable
from service.application.findings import Fault, mended
from service.application.types import JobKind, JobPhase
from service.bulk_wiring import build_bulk_import
from service.catalog.audit import SqlAudit
from service.commands.index import _chosen
from service.inspection_wiring import build_generation_inspection, rebuild_in_place
from service.wiring import build_builder, open_parts, rebuild

ALTERED = "UPDATE codes SET code = x'ff01020304050607' WHERE item_id = '{}' AND side = '{}'"


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


@pytest.fixture
def meanwhile(monkeypatch):
    """`meanwhile(act)`: the next build does that before it reads the codes for the index."""

    def arrange(act):
        acts, write = [act], Builder._write

        def interrupted(builder, *given):
            if acts:
                acts.pop()()
            return write(builder, *given)

        monkeypatch.setattr(Builder, "_write", interrupted)

    return arrange


def find(parts):
    return list(build_generation_inspection(parts, timedelta(0)).find())


def repair(parts):
    return mended(find(parts))


def code(parts, item_id, side="text", generation=None):
    """The code of an item in an index."""
    ids, codes = parts.store.load(generation or live(parts))[side].codes()
    return codes[list(ids).index(item_id)].tobytes() if item_id in list(ids) else None


def catalog_code(parts, item_id, side="text"):
    return parts.catalog.codes.versions([item_id], FakeEncoder("1").digest)[item_id].codes.get(side)


def pointed(parts):
    return dict(SqlAudit(parts.catalog.database).aliases())


# What exists only once.


def take_in(parts, item_id="bare", side="text"):
    """A bare code, and a generation that holds it."""
    ready = ReadyCodes([item_id], {side: np.arange(8, dtype=np.uint8)[None]})
    build_bulk_import(parts).run(FakeEncoder("1"), ready, lambda *_: None)
    assert rebuild(parts, "fake/1").phase is JobPhase.DONE
    return bytes(range(8))


@pytest.mark.parametrize(
    "alteration",
    [
        "UPDATE codes SET code = x'ff01020304050607' WHERE item_id = 'bare'",
        "UPDATE codes SET code = x'00' WHERE item_id = 'bare'",
        "DELETE FROM codes WHERE item_id = 'bare'",
    ],
)
def test_the_sound_copy_of_a_bare_code_stays_in_the_index_whatever_else_is_wrong(parts, alteration):
    sound = take_in(parts)
    sql(parts, alteration, "DELETE FROM codes WHERE item_id = 'red' AND side = 'text'")
    sql(parts, "UPDATE generations SET image_count = 9 WHERE image_count = 4")
    before = live(parts)
    wanted = {"code-damaged", "code-missing", "generation-codes", "generation-count"}
    for spared in (set(), {"code-missing"}):  # another generation's repair may have encoded that
        mine = [one for one in repair(parts) if one.subject == before.id]
        assert wanted - spared <= set(faults(mine)) <= wanted
        assert all(one.open and "import the bare ones anew" in one.next_step for one in mine)
        assert (live(parts), code(parts, "bare")) == (before, sound)


def test_a_bare_code_that_was_imported_anew_ends_it(parts):
    sound = take_in(parts)
    sql(parts, "UPDATE codes SET code = x'ff01020304050607' WHERE item_id = 'bare'")
    assert faults(find(parts)) == ["code-damaged", "generation-codes"]
    take_in(parts)
    assert find(parts) == []
    assert code(parts, "bare") == catalog_code(parts, "bare") == sound


def test_a_code_whose_image_is_lost_is_neither_dropped_nor_replaced(parts):
    sound = code(parts, "red", "image")
    sql(parts, ALTERED.format("red", "image"), ALTERED.format("blue", "text"))
    blob_of(parts, "red").unlink()
    before = live(parts)
    for _ in range(2):
        done = repair(parts)
        assert set(faults(done)) == {"generation-codes"}
        assert all(one.open and "1 items cannot be encoded again" in one.next_step for one in done)
        assert all("red: blob " in one.next_step for one in done)
        assert live(parts) == before
        assert code(parts, "red", "image") == sound
        assert catalog_code(parts, "red", "image") == bytes.fromhex("ff01020304050607")
        assert catalog_code(parts, "blue") == code(parts, "blue")  # it could be made anew


def test_a_side_that_the_model_does_not_encode_cannot_be_made_anew(parts, shelf):
    sql(parts, ALTERED.format("red", "text"))
    shelf.publish("1", modalities=["image"])
    done = repair(parts)
    assert any("red: fake does not encode texts" in one.next_step for one in done)
    assert all(one.open for one in done)


def test_what_was_made_anew_is_counted(parts):
    sql(parts, *(ALTERED.format(item_id, "text") for item_id in COLOURS[:3]), ALTERED.format("red", "image"))
    before = {side: code(parts, "red", side) for side in ("text", "image")}
    first, second = repair(parts)
    assert first.repaired.startswith("3 items were encoded anew, and generation g")
    assert second.repaired.startswith("generation g")
    assert {side: code(parts, "red", side) for side in ("text", "image")} == before
    assert find(parts) == []


def test_an_item_that_changes_while_its_code_is_made_anew_keeps_the_new_one(parts):
    sql(parts, ALTERED.format("red", "text"))
    found = find(parts)
    sql(parts, "UPDATE items SET text = NULL WHERE id = 'red'", "DELETE FROM codes WHERE item_id = 'red'")
    assert all(one.repaired and "encoded anew" not in one.repaired for one in mended(found))
    assert catalog_code(parts, "red") is None


# Beside a running job.


def test_no_code_is_touched_while_another_job_runs(parts):
    sql(parts, ALTERED.format("red", "text"))
    parts.catalog.jobs.create(JobKind.REINDEX, "fake/1", True, None, timedelta(0))
    done = repair(parts)
    assert all(one.open and "a reindex job is running already" in one.next_step for one in done)
    assert catalog_code(parts, "red") == bytes.fromhex("ff01020304050607")


def test_a_reindex_that_is_past_its_encoding_loses_no_item_to_a_doctor(parts, meanwhile):
    sql(parts, ALTERED.format("red", "text"))
    seen = []
    meanwhile(lambda: seen.extend(repair(parts)))
    job = rebuild(parts, "fake/1")
    assert (job.phase, job.validation.text_count) == (JobPhase.DONE, 4)
    assert all(one.open for one in seen)
    assert code(parts, "red") is not None


def test_a_generation_that_a_reindex_removes_during_the_inspection_is_no_finding(parts, shelf, monkeypatch):
    shelf.publish("2")
    load = adapters.DiskGenerations.load

    def overtaken(store, generation):
        monkeypatch.setattr(adapters.DiskGenerations, "load", load)
        other = open_parts(parts.settings.model_copy(update={"keep_generations": 1}), shelf)
        assert rebuild(other, "fake/2").phase is JobPhase.DONE
        other.close()
        return load(store, generation)

    monkeypatch.setattr(adapters.DiskGenerations, "load", overtaken)
    assert find(parts) == []
    assert len(parts.catalog.generations.all()) == 1


def test_a_generation_that_was_removed_since_it_was_found_damaged_is_not_built_anew(parts):
    oldest = parts.catalog.generations.predecessor()
    flip(folder_of(parts, oldest) / "image" / "codes.npy")
    found = find(parts)
    build_builder(parts).discard(oldest.id)
    kept = parts.catalog.generations.all()
    [done] = mended(found)
    assert done.repaired == "it is not kept any more, and nothing is left to do"
    assert parts.catalog.generations.all() == kept
    assert parts.catalog.jobs.active() == []


# Aliases.


def test_a_roll_back_during_the_repair_of_the_predecessor_holds(parts, meanwhile):
    served, before = live(parts), parts.catalog.generations.predecessor()
    sql(parts, f"UPDATE generations SET text_count = 99 WHERE id = '{before.id}'")
    meanwhile(lambda: parts.catalog.generations.set_live(before.id))
    [done] = repair(parts)
    assert done.repaired
    assert pointed(parts) == {"live": done.repaired.split()[1], "predecessor": served.id}
    assert parts.catalog.generations.get(before.id) is None


def test_a_roll_back_during_the_repair_of_the_live_one_holds(parts, meanwhile):
    served, before = live(parts), parts.catalog.generations.predecessor()
    flip(folder_of(parts, served) / "image" / "codes.npy")
    meanwhile(lambda: parts.catalog.generations.set_live(before.id))
    [done] = repair(parts)
    assert pointed(parts) == {"live": before.id, "predecessor": done.repaired.split()[1]}


def test_an_alias_that_another_reindex_has_moved_stays_there(parts, meanwhile):
    oldest = parts.catalog.generations.all()[-1]
    assert oldest.id not in pointed(parts).values()
    sql(parts, f"UPDATE generations SET text_count = 99 WHERE id = '{oldest.id}'")
    before = pointed(parts)
    meanwhile(lambda: sql(parts, "DELETE FROM aliases WHERE name = 'predecessor'"))
    [done] = repair(parts)
    assert done.repaired
    assert pointed(parts) == {"live": before["live"]}


def test_a_generation_that_is_made_live_again_after_its_repair_is_kept(parts, monkeypatch):
    served = live(parts)
    take_place = SqlAudit.take_place

    def undone(audit, old_id, new_id):
        took = take_place(audit, old_id, new_id)
        parts.catalog.generations.set_live(old_id)
        return took

    monkeypatch.setattr(SqlAudit, "take_place", undone)
    built = rebuild_in_place(parts, served, {})
    assert live(parts).id == served.id
    assert folder_of(parts, served).is_dir()
    assert parts.catalog.generations.get(built.id) is not None


def test_an_alias_that_was_moved_meanwhile_is_not_moved_back(parts):
    three = parts.catalog.generations.all()[-1].id
    sql(parts, "UPDATE aliases SET generation_id = 'lost' WHERE name = 'live'")
    [found] = find(parts)
    parts.catalog.generations.set_live(three)
    [done] = mended([found])
    assert done.next_step.startswith("the repair failed: somebody has moved it meanwhile")
    assert pointed(parts)["live"] == three


def test_the_way_back_from_an_alias_that_points_nowhere(parts):
    """What is lost cannot be the predecessor; the one that was is kept as such."""
    _, two, three = (each.id for each in parts.catalog.generations.all())
    sql(parts, "UPDATE aliases SET generation_id = 'lost' WHERE name = 'live'")
    parts.catalog.generations.set_live(three)
    assert pointed(parts) == {"live": three, "predecessor": two}
    sql(parts, "UPDATE aliases SET generation_id = 'lost' WHERE name = 'live'")
    parts.catalog.generations.set_live(two)
    assert pointed(parts) == {"live": two}


def test_an_alias_that_moves_during_the_inspection_is_no_finding(parts, monkeypatch):
    aliases, calls = SqlAudit.aliases, []

    def late(audit):
        calls.append(1)
        return aliases(audit) | ({"live": "gone"} if len(calls) == 1 else {})

    monkeypatch.setattr(SqlAudit, "aliases", late)
    assert find(parts) == []


# Adoption.


def lose_row(parts, generation):
    sql(parts, f"DELETE FROM generations WHERE id = '{generation.id}'")


def test_two_doctors_adopt_the_same_generation(parts):
    before = live(parts)
    lose_row(parts, before)
    first, second = find(parts), find(parts)
    for found in (first, second):
        assert [one.repaired for one in mended(found)] == ["its row was made again from META.json"]
    assert live(parts) == before
    assert find(parts) == []


def test_what_is_damaged_is_not_adopted(parts):
    before, fallback = live(parts), parts.catalog.generations.predecessor()
    lose_row(parts, before)
    flip(folder_of(parts, before) / "image" / "codes.npy")
    [done] = repair(parts)
    assert (done.fault, done.repaired) == (Fault.ALIAS_DANGLING, f"it points at {fallback.id}")
    assert "on disk: index generation" in done.detail
    assert [one.id for one in parts.catalog.generations.all() if one.live] == [fallback.id]


def test_what_is_adopted_is_inspected_in_the_same_run(parts):
    before = live(parts)
    lose_row(parts, before)
    sql(parts, "DELETE FROM codes WHERE item_id = 'red' AND side = 'text'")
    done = [one for one in repair(parts) if one.fault is not Fault.ALIAS_DANGLING]
    assert {one.fault.value for one in done if one.subject == before.id} == {
        "code-missing",
        "generation-codes",
    }
    assert all(one.repaired for one in done)
    assert find(parts) == []


def test_what_cannot_be_loaded_here_is_neither_adopted_nor_given_up(parts, monkeypatch):
    before = live(parts)
    lose_row(parts, before)
    monkeypatch.setattr(adapters, "load_generation", refusing(UnknownOption("wanted the option url")))
    assert all(one.open for one in repair(parts))
    assert pointed(parts)["live"] == before.id


# Engines and damaged files.


def refusing(error):
    def load_generation(*_):
        raise error

    return load_generation


@pytest.mark.parametrize("error", [UnknownOption("wanted the option url"), Unsupported("wanted psycopg")])
def test_what_is_not_set_or_installed_here_is_no_damage(parts, monkeypatch, error):
    kept = parts.catalog.generations.all()
    monkeypatch.setattr(adapters, "load_generation", refusing(error))
    done = repair(parts)
    assert faults(done) == ["engine-unreachable"]
    assert {one.subject for one in done} == {one.id for one in kept}
    assert all(one.open and "HASHGUARD_INDEX_URL" in one.next_step for one in done)
    assert all(str(error) in one.detail for one in done)
    assert parts.catalog.generations.all() == kept


def test_an_engine_that_falls_silent_takes_no_other_finding_along(parts):
    class Silent:
        shared = True

        def codes(self):
            raise Unavailable("it does not answer", code="index_unavailable")

    inspection = build_generation_inspection(parts, timedelta(0))
    first, second, third = parts.catalog.generations.all()
    flip(folder_of(parts, third) / "image" / "codes.npy")

    class Store:
        def load(self, generation):
            if generation.id == second.id:
                return {"image": Silent(), "text": Silent()}
            return parts.store.load(generation)

    class Folders(type(inspection.folders)):
        def unknown_tables(self):
            raise Unavailable("nor here", code="index_unavailable")

    folders = Folders(parts.settings.generations_folder, "faiss", None)
    found = list(replace(inspection, store=Store(), folders=folders).find())
    assert [
        (one.fault.value, one.subject, one.detail, one.mend is None) for one in found if one.mend is None
    ] == [
        ("engine-unreachable", second.id, "it does not answer", True),
        ("engine-unreachable", "tables", "nor here", True),
    ]
    assert [one.subject for one in found if one.fault is Fault.GENERATION_DAMAGED] == [third.id]
    assert len(found) == 3
    assert first.live


@pytest.mark.parametrize(
    "options", [{"folder": 1}, {"bits": 3}, {"name": "x"}, {"url": "x"}, {"self": 1}, [1]]
)
def test_options_that_are_none_are_damage(parts, options):
    path = folder_of(parts, live(parts)) / "META.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"options": options}))
    [done] = repair(parts)
    assert (done.fault, bool(done.repaired)) == (Fault.GENERATION_DAMAGED, True)
    assert "wanted options to be an object" in done.detail
    assert find(parts) == []


def test_a_deletion_under_way_is_not_left_behind(parts, monkeypatch):
    oldest = parts.catalog.generations.all()[-1]
    rmtree, begun, go = shutil.rmtree, threading.Event(), threading.Event()

    def slow(path, *given, **named):
        if threading.current_thread().name == "pruner":
            begun.set()
            assert go.wait(10)
        rmtree(path, *given, **named)

    monkeypatch.setattr(index_store.shutil, "rmtree", slow)
    failed = []

    def prune():
        try:
            build_builder(parts).discard(oldest.id)
        except OSError as error:
            failed.append(error)

    pruner = threading.Thread(target=prune, name="pruner")
    pruner.start()
    assert begun.wait(10)
    try:
        assert repair(parts) == []
    finally:
        go.set()
        pruner.join()
    assert failed == []
    assert sorted(path.name for path in parts.settings.generations_folder.iterdir()) == sorted(
        one.id for one in parts.catalog.generations.all()
    )


# The way back.


def test_a_roll_back_without_an_id_goes_to_the_predecessor(parts):
    before = parts.catalog.generations.predecessor()
    flip(folder_of(parts, before) / "image" / "codes.npy")
    [done] = repair(parts)
    kept = parts.catalog.generations.all()
    assert _chosen(kept, None).id == parts.catalog.generations.predecessor().id
    assert kept[0].predecessor  # it is the newest, and was live before the live one
    assert done.repaired
    sql(parts, "DELETE FROM aliases WHERE name = 'predecessor'")
    kept = parts.catalog.generations.all()
    assert kept[1].live
    assert _chosen(kept, None) == kept[2]
