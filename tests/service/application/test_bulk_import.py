"""Ready codes by the million: searchable at once, nothing lost of what others do, and honest refusals."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import numpy as np
import pytest
from fake_homes import settings_for
from fake_models import FakeEncoder, FakeShelf, put_text

from service.application import bulk as bulk_module
from service.application.bulk_ports import ReadyCodes
from service.application.errors import Conflict, InvalidInput, ServiceError
from service.application.ports import Reach
from service.application.types import ItemDraft, JobKind, Query
from service.bulk_wiring import build_bulk_import, check_backend, read_codes
from service.wiring import build_application, open_parts, rebuild, roll_back

ENCODER = FakeEncoder("1")


def ready(count, seed=0, sides=("image", "text"), prefix="n"):
    rng = np.random.default_rng(seed)
    codes = {side: rng.integers(0, 256, (count, 8), dtype=np.uint8) for side in sides}
    return ReadyCodes([f"{prefix}{number:06}" for number in range(count)], codes)


def silent(*_):
    """Nobody watches."""


def nearest(parts, side, code):
    """The id at distance 0 in the live generation, or None."""
    indexes = parts.store.load(parts.catalog.generations.live())
    hits = indexes[side].search(code.tobytes(), Reach(1))
    return hits[0].id if hits and hits[0].distance == 0 else None


def held(parts):
    """Ids in the live generation, by side."""
    indexes = parts.store.load(parts.catalog.generations.live())
    return {side: set(index.index.codes()[0]) for side, index in indexes.items()}


@pytest.mark.parametrize("backend", ["memory", "faiss", "auto"])
def test_codes_are_searchable_in_any_embedded_backend(home, shelf, backend, monkeypatch):
    monkeypatch.setattr(bulk_module, "_ROWS", 300)
    parts = open_parts(settings_for(home, index_backend=backend), shelf)
    given, heard = ready(1000), []
    done = build_bulk_import(parts).run(ENCODER, given, lambda *step: heard.append(step))
    assert (done.items, done.created) == (1000, 1000)
    assert held(parts) == {side: set(given.ids) for side in ("image", "text")}
    live = parts.catalog.generations.live()
    assert (live.id, live.image_count, live.snapshot_seq) == (done.generation.id, 1000, 1000)
    assert nearest(parts, "text", given.codes["text"][700]) == given.ids[700]
    assert [step for step in heard if step[0] == "storing"] == [
        ("storing", at, 1000) for at in (300, 600, 900, 1000)
    ]
    parts.close()


def test_a_running_service_answers_from_them(make_app, parts):
    app = make_app()
    app.items.put(ItemDraft("written", text="a red thing"))
    red = ENCODER.encode_texts(["red"])
    given = ReadyCodes(["zz-bare"], {"image": red})
    build_bulk_import(parts).run(ENCODER, given, silent)
    app.follower.tick()
    [hit] = app.retrieval.search(Query(to="image", text="red", k=5)).hits
    assert (hit.id, hit.distance, hit.text, hit.image_url) == ("zz-bare", 0, None, None)
    assert app.retrieval.search(Query(to="text", text="a red thing")).hits[0].id == "written"


def test_what_was_there_stays_and_gets_encoded_when_the_model_is_another(parts, shelf):
    shelf.publish("2")
    put_text(parts, "old")
    rebuild(parts, "fake/1")
    given = ready(20)
    build_bulk_import(parts).run(FakeEncoder("2"), given, silent)
    assert held(parts) == {"image": set(given.ids), "text": {*given.ids, "old"}}
    assert parts.catalog.generations.live().model_version == "2"
    rolled = parts.catalog.generations.predecessor()
    assert roll_back(parts, rolled) is None


def test_codes_given_again_replace_and_take_no_second_place(parts):
    first, second = ready(50), ready(50, seed=1, sides=("image",))
    run = build_bulk_import(parts).run
    run(ENCODER, first, silent)
    done = run(ENCODER, second, silent)
    assert (done.created, parts.catalog.items.count()) == (0, 50)
    assert nearest(parts, "image", second.codes["image"][3]) == first.ids[3]
    assert nearest(parts, "image", first.codes["image"][3]) is None
    assert nearest(parts, "text", first.codes["text"][3]) == first.ids[3]


def test_an_import_that_was_killed_is_finished_by_the_same_call(parts, monkeypatch):
    monkeypatch.setattr(bulk_module, "_ROWS", 10)
    build = build_bulk_import(parts)
    before = rebuild(parts, "fake/1").generation_id

    def killed(label, done, _):
        if (label, done) == ("storing", 20):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build.run(ENCODER, ready(50), killed)
    assert parts.catalog.generations.live().id == before
    assert parts.catalog.items.count() == 20
    assert build.run(ENCODER, ready(50), silent).created == 30
    assert held(parts)["image"] == set(ready(50).ids)


def test_what_others_write_meanwhile_is_in_the_index(make_app, parts, monkeypatch):
    """A service writes, replaces and deletes between the transactions of an import."""
    monkeypatch.setattr(bulk_module, "_ROWS", 10)
    app = make_app()
    app.items.put(ItemDraft("doomed", text="blue"))
    texts = iter(["red", "green"])

    def meddle(label, done, _):
        if label == "storing" and done in {20, 30}:
            app.items.put(ItemDraft(f"new-{done}", text=next(texts)))
            app.items.put(ItemDraft(f"n{done - 1:06}", text=f"number {done}"))
        if label == "storing" and done == 40:
            app.items.delete("doomed")
            app.items.delete("n000002")

    build_bulk_import(parts).run(ENCODER, ready(50), meddle)
    wanted = {*ready(50).ids, "new-20", "new-30"} - {"n000002"}
    assert held(parts)["text"] == wanted
    assert held(parts)["image"] == wanted - {"new-20", "new-30", "n000019", "n000029"}
    assert nearest(parts, "text", ENCODER.encode_texts(["number 20"])[0]) == "n000019"


def test_an_item_written_under_another_model_meanwhile_is_encoded(parts, shelf, monkeypatch):
    monkeypatch.setattr(bulk_module, "_ROWS", 10)

    def meddle(label, done, _):
        if (label, done) == ("storing", 10):
            put_text(parts, "late")

    build_bulk_import(parts).run(ENCODER, ready(20), meddle)
    assert "late" in held(parts)["text"]
    assert parts.catalog.codes.count_lacking(ENCODER.digest, ENCODER.modalities) == 0


def test_empty_generations_are_not_kept_and_others_are(make_app, parts):
    make_app()  # gives the home an empty generation
    build_bulk_import(parts).run(ENCODER, ready(5), silent)
    assert len(parts.catalog.generations.all()) == 1
    assert parts.catalog.codes.changes(0, 10) == []  # nobody needs them any more
    build_bulk_import(parts).run(ENCODER, ready(5, prefix="m"), silent)
    assert len(parts.catalog.generations.all()) == 2


def refused(parts, encoder, given, error, words):
    before = parts.catalog.codes.last_seq()
    with pytest.raises(error, match=words):
        build_bulk_import(parts).run(encoder, given, silent)
    assert parts.catalog.codes.last_seq() == before
    assert parts.catalog.generations.all() == []


def test_codes_that_cannot_be_this_models_are_refused(parts):
    refused(parts, ENCODER, ReadyCodes([], {}), InvalidInput, "at least one id")
    refused(parts, ENCODER, replace(ready(3), codes={}), InvalidInput, "at least one id")
    refused(parts, FakeEncoder("1", modalities=["text"]), ready(3), InvalidInput, "no image codes")
    refused(parts, FakeEncoder("1", bits=128), ready(3), InvalidInput, r"3 image codes of 128 bits.*\(3, 8\)")
    refused(parts, ENCODER, replace(ready(3), ids=["a"]), InvalidInput, "1 image codes")


def test_while_a_job_runs_nothing_is_taken(parts):
    parts.catalog.jobs.create(JobKind.REINDEX, "fake/1", True, None, timedelta(0))
    refused(parts, ENCODER, ready(3), Conflict, "a job is running")


def test_an_item_that_cannot_be_encoded_stops_it_before_anything_is_taken(parts):
    put_text(parts, "bad", "crash")
    refused(parts, ENCODER, ready(3), Conflict, "1 items cannot be encoded by fake/1 .* the first is bad")


def test_a_generation_that_cannot_be_accepted_is_removed(parts, home):
    build = build_bulk_import(parts)

    class Refusing:
        def examine(self, *_):
            raise Conflict("not good enough")

    with pytest.raises(Conflict, match="good enough"):
        replace(build, acceptance=Refusing()).run(ENCODER, ready(3), silent)
    assert parts.catalog.generations.all() == []
    assert [each.name for each in (home / "generations").iterdir()] == []


def test_files_and_backends_are_checked(tmp_path):
    (tmp_path / "ids").write_text("a\na\n")
    np.save(tmp_path / "codes.npy", np.zeros((2, 8), np.uint8))
    with pytest.raises(InvalidInput, match="b'a' twice"):
        read_codes(tmp_path / "ids", {"image": tmp_path / "codes.npy"}, 64)
    check_backend(settings_for(tmp_path, index_backend="faiss"))
    for changes, words in (
        ({"index_backend": "abacus"}, "abacus"),
        ({"index_backend": "milvus"}, "INDEX_URL"),
    ):
        with pytest.raises(ServiceError, match=words):
            check_backend(settings_for(tmp_path, **changes))


def test_after_a_restart_the_codes_are_served(home, shelf, parts):
    given = ready(200)
    build_bulk_import(parts).run(ENCODER, given, silent)
    app = build_application(settings_for(home), FakeShelf(home / "models"))
    app.start()
    try:
        answer = app.retrieval.search(Query(to="image", text="red", k=200))
        assert {hit.id for hit in answer.hits} == set(given.ids)
    finally:
        app.close()
