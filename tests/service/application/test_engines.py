"""The service with its catalog on PostgreSQL and its codes in pgvector or Milvus, servers and all."""

import time

import pytest
from fake_homes import settings_for, thread_launcher
from fake_models import FakeShelf, picture
from real_servers import MILVUS, POSTGRES

from index.backends.pgvector_index import PgvectorIndex
from service.application.errors import Unavailable
from service.application.types import FINAL_PHASES, Condition, Filter, ItemDraft, JobPhase, Query
from service.commands.index import _trouble
from service.wiring import build_application, open_parts


@pytest.fixture(params=[pytest.param("pgvector", marks=POSTGRES), pytest.param("milvus", marks=MILVUS)])
def engines(request, tmp_path):
    """Settings: the catalog on PostgreSQL with pgvector, on SQLite with Milvus (one server at a time)."""
    if request.param == "milvus":
        return {"index_backend": "milvus", "index_url": request.getfixturevalue("milvus_url")}
    url = request.getfixturevalue("postgres").database()
    return {"index_backend": "pgvector", "index_url": url, "catalog_url": url}


@pytest.fixture
def app(make_app, engines):
    return make_app(canary_max_age_s=1, **engines)


def found(app, text="same", **more):
    return [hit.id for hit in app.retrieval.search(Query(to="text", text=text, k=100, **more)).hits]


def wait_until(condition, seconds=30.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def test_life_in_an_engine(app, make_app, engines, shelf, home):
    """Write, search, filter, delete; a second replica; a new model; roll-back; verify; restart."""
    app.items.put_batch([ItemDraft(f"i{n}", picture("red"), "same", {"n": n}) for n in range(6)])
    assert found(app) == [f"i{n}" for n in range(6)]
    assert found(app, filter=Filter(must=(Condition("n", "gte", 4),))) == ["i4", "i5"]
    app.items.delete("i3")
    first = app.items.state.current.generation.id
    replica = make_app(**engines)
    assert found(replica) == ["i0", "i1", "i2", "i4", "i5"]
    replica.items.put(ItemDraft("late", text="same"))
    wait_until(lambda: "late" in found(app), 10)
    shelf.publish("2")
    job = app.reindexing.start("latest", True, None)
    wait_until(lambda: app.reindexing.job(job.id).phase in FINAL_PHASES)
    done = app.reindexing.job(job.id)
    assert (done.phase, done.error) == (JobPhase.DONE, None)
    wait_until(lambda: replica.items.state.current.generation.id == done.generation_id, 10)
    assert found(app) == found(replica) == ["i0", "i1", "i2", "i4", "i5", "late"]
    app.items.put(ItemDraft("new", text="same"))
    app.reindexing.activate(first)
    assert found(app) == ["i0", "i1", "i2", "i4", "i5", "late", "new"]
    parts = open_parts(settings_for(home, **engines), FakeShelf(home / "models"))
    assert [_trouble(parts, one) for one in parts.catalog.generations.all()] == ["", ""]
    parts.close()
    app.close()
    replica.close()
    assert found(make_app(**engines)) == ["i0", "i1", "i2", "i4", "i5", "late", "new"]


def test_an_engine_that_lost_an_index_is_a_503_and_not_ready(app):
    app.items.put(ItemDraft("a", text="same"))
    served = app.items.state.current.indexes["text"].index
    drop = served._drop if isinstance(served, PgvectorIndex) else served._collection.drop
    drop()
    with pytest.raises(Unavailable) as caught:
        found(app)
    assert caught.value.code == "index_unavailable"
    wait_until(lambda: not app.health.ready().ok)


@pytest.mark.parametrize("backend", ["pgvector", "milvus"])
def test_an_engine_that_is_not_there_keeps_the_service_from_building(home, shelf, backend):
    url = {"pgvector": "postgresql://u:s3cr3t@127.0.0.1:1/d", "milvus": "http://u:s3cr3t@127.0.0.1:1"}[
        backend
    ]
    settings = settings_for(home, index_backend=backend, index_url=url)
    with pytest.raises(Unavailable) as caught:
        build_application(settings, shelf, thread_launcher(settings))
    assert caught.value.code == "index_unavailable"
    assert "s3cr3t" not in caught.value.detail
