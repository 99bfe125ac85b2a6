"""Inspection and repair where the catalog is PostgreSQL and the codes lie in pgvector or Milvus."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import psycopg
import pytest
from fake_homes import settings_for
from homes_to_break import COLOURS, blob_of, faults, inspect, live, repair, sql, stock
from real_servers import MILVUS, POSTGRES

from index.backends.pgvector_index import PgvectorIndex
from service.application.errors import Unavailable
from service.application.findings import Fault, mended
from service.application.types import Query
from service.inspection_wiring import build_generation_inspection
from service.wiring import open_parts


@pytest.fixture(params=[pytest.param("pgvector", marks=POSTGRES), pytest.param("milvus", marks=MILVUS)])
def engines(request):
    """Settings: the catalog on PostgreSQL with pgvector, on SQLite with Milvus (one server at a time)."""
    if request.param == "milvus":
        return {"index_backend": "milvus", "index_url": request.getfixturevalue("milvus_url")}
    url = request.getfixturevalue("postgres").database()
    return {"index_backend": "pgvector", "index_url": url, "catalog_url": url}


@pytest.fixture
def parts(home, shelf, make_app, engines):
    parts = open_parts(settings_for(home, **engines), shelf)
    stock(make_app(**engines), parts)
    yield parts
    parts.close()


def problems(parts):
    """What is wrong; tables of other tests in the same engine are notes, and no problem of this home."""
    return [one for one in inspect(parts) if one.open]


def drop(index):
    (index._drop if isinstance(index, PgvectorIndex) else index._collection.drop)()


def test_what_happens_in_an_engine_is_found_and_mended(parts, make_app, engines):
    """A table is lost; codes are changed, added and removed by hand; a builder dies: named and mended."""
    assert problems(parts) == []
    drop(parts.store.load(live(parts))["text"].index)
    [lost] = problems(parts)
    assert (lost.fault, lost.subject) == (Fault.GENERATION_DAMAGED, live(parts).id)
    assert all(one.repaired for one in repair(parts) if one.fault is not Fault.TABLE_UNKNOWN)
    assert problems(parts) == []

    index = parts.store.load(live(parts))["text"].index
    _, codes = index.codes()
    index.add(["red", "intruder"], codes[:2] ^ 255)
    index.remove(["blue"])
    [changed] = problems(parts)
    assert changed.fault is Fault.GENERATION_CODES
    for part in ("1 (blue) not in the index", "1 (intruder) in the index only", "1 (red) with another code"):
        assert part in changed.detail
    assert all(one.repaired for one in repair(parts) if one.fault is not Fault.TABLE_UNKNOWN)

    unfinished = parts.store.new_index(64)
    table = unfinished.claim._folder.name
    assert problems(parts) == []  # its builder lives
    unfinished.claim = None
    [left] = problems(parts)
    assert (left.fault, left.subject) == (Fault.LEFT_BEHIND, table)
    assert left.mend() == "removed, with its tables"
    assert problems(parts) == []

    app = make_app(**engines)
    answer = app.retrieval.search(Query(to="text", text="all red", k=10))
    assert sorted(hit.id for hit in answer.hits) == sorted(COLOURS)
    assert (answer.hits[0].id, answer.hits[0].distance) == ("red", 0)


@POSTGRES
def test_tables_of_nobody_here_are_notes_and_stay(home, shelf, make_app, postgres):
    settings = {"index_backend": "pgvector", "index_url": postgres.shared()}
    parts = open_parts(settings_for(home, **settings), shelf)
    make_app(**settings).close()
    stranger = parts.store.new_index(64)
    stranger.claim.release()
    [note] = inspect(parts)
    assert (note.fault, note.subject, note.open) == (Fault.TABLE_UNKNOWN, stranger.index._name, False)
    assert repair(parts) == [note]
    assert len(stranger) == 0  # it is there still
    parts.close()


@POSTGRES
def test_a_catalog_on_postgresql_is_inspected_and_mended(home, shelf, make_app, postgres):
    url = postgres.shared()
    parts = open_parts(settings_for(home, catalog_url=url, index_backend="faiss"), shelf)
    stock(make_app(catalog_url=url, index_backend="faiss"), parts)
    assert inspect(parts) == []
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("UPDATE counters SET value = 77 WHERE name = 'items'")
        connection.execute("UPDATE codes SET code = decode('00', 'hex') WHERE item_id = 'red'")
        connection.execute("DELETE FROM codes WHERE item_id = 'blue' AND side = 'text'")
        connection.execute("SET session_replication_role = replica")  # past the foreign keys
        connection.execute("DELETE FROM items WHERE id = 'grey'")
        connection.execute("UPDATE aliases SET generation_id = 'lost' WHERE name = 'predecessor'")
    orphan = next(path for path in (home / "blobs").rglob("*") if path.is_file())
    blob_of(parts, "green").unlink()
    wanted = {"alias-dangling", "blob-missing", "blob-orphaned", "code-missing", "generation-codes"}
    assert set(faults(inspect(parts))) == wanted | {"item-count", "row-missing"}
    open_still = ["blob-missing", "blob-orphaned", "row-missing"]  # a back-up may have the orphan's item
    assert faults([one for one in repair(parts) if one.open]) == open_still
    assert faults(inspect(parts)) == open_still
    assert parts.catalog.items.count() == 3
    assert orphan.parent.parent.parent == home / "blobs"
    parts.close()


@POSTGRES
def test_an_engine_that_does_not_answer_is_no_damage(home, shelf, make_app, postgres, monkeypatch):
    monkeypatch.setattr("index.backends.postgres._CONNECT_S", 0.2)  # nobody needs to wait for nobody
    here = {"index_backend": "pgvector", "index_url": postgres.shared()}
    parts = open_parts(settings_for(home, **here), shelf)
    make_app(**here).close()
    elsewhere = open_parts(settings_for(home, **here | {"index_url": "postgresql://u@127.0.0.1:1/d"}), shelf)
    with pytest.raises(Unavailable) as caught:
        elsewhere.store.load(live(parts))
    assert caught.value.code == "index_unavailable"
    parts.store.new_index(64)  # its builder is dead: nothing holds the claim
    found = build_generation_inspection(elsewhere, timedelta(0)).find()
    left, damaged = next(found), next(found)
    assert (damaged.fault, damaged.mend, damaged.subject) == (Fault.ENGINE_UNREACHABLE, None, live(parts).id)
    assert damaged.next_step.startswith("see that the engine answers")
    [still] = mended([left])
    assert still.open
    assert "the engine that holds its tables does not answer" in still.next_step
    [tables] = found  # whose they are nobody can say
    assert (tables.fault, tables.subject, tables.mend) == (Fault.ENGINE_UNREACHABLE, "tables", None)
    assert "wanted a connection" in tables.detail
    elsewhere.close()
    parts.close()


@POSTGRES
def test_a_shell_that_does_not_know_the_engine_replaces_nothing(home, shelf, make_app, postgres):
    here = {"index_backend": "pgvector", "index_url": postgres.database()}
    parts = open_parts(settings_for(home, **here), shelf)
    stock(make_app(**here), parts)
    kept = parts.catalog.generations.all()
    bare = open_parts(settings_for(home, index_backend="faiss"), shelf)
    done = repair(bare)
    assert {(one.fault, one.subject, one.open) for one in done} == {
        (Fault.ENGINE_UNREACHABLE, one.id, True) for one in kept
    }
    assert all("HASHGUARD_INDEX_URL" in one.next_step for one in done)
    assert parts.catalog.generations.all() == kept
    assert problems(parts) == []
    bare.close()
    parts.close()


@POSTGRES
def test_what_is_served_is_searched_while_it_is_built_anew(home, shelf, make_app, postgres):
    """The replaced tables go when the service has followed the alias, not before."""
    here = {"index_backend": "pgvector", "index_url": postgres.database(), "follower_poll_s": 0.2}
    parts = open_parts(settings_for(home, **here), shelf)
    stock(make_app(**here), parts)
    app = make_app(**here)
    old = live(parts).id
    sql(parts, "DELETE FROM codes WHERE item_id = 'red' AND side = 'text'")
    answers, stop = [], threading.Event()

    def search():
        while not stop.is_set():
            answers.append(app.retrieval.search(Query(to="text", text="all blue", k=3)).index_generation)

    with ThreadPoolExecutor(1) as pool:
        searching = pool.submit(search)
        done = [one for one in repair(parts) if one.fault is not Fault.TABLE_UNKNOWN]
        stop.set()
        searching.result()
    assert all(one.repaired for one in done)
    assert {old, live(parts).id} <= set(answers)
    assert problems(parts) == []
    parts.close()
