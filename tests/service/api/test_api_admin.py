"""Administration, models, probes, metrics and access over HTTP."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient
from structlog.testing import capture_logs
from test_api_search import problem_of, text_search
from test_middleware import ask, scope
from tiny import make_model, picture, settings_for

from service.api.app import allowed_hosts, create_app
from service.api.deps import Context, context
from service.api.schemas.admin import JobAnswer
from service.application.building import choose_model
from service.application.types import Job, JobKind, JobPhase, LeftOut, Quality, TaskQuality, Validation
from service.settings import Settings
from service.wiring import build_application, build_builder, open_parts


@pytest.fixture
def own(home: Path) -> Iterator[TestClient]:
    """A client of a service of its own, for tests that change what is served."""
    settings = settings_for(home)
    app = create_app(build_application(settings), settings)
    with TestClient(app, base_url="http://localhost", raise_server_exceptions=False) as client:
        yield client


def finished(client: TestClient, location: str) -> dict[str, Any]:
    limit = time.monotonic() + 60
    while time.monotonic() < limit:
        job: dict[str, Any] = client.get(location).json()
        if job["phase"] in {"done", "failed", "cancelled"}:
            return job
        time.sleep(0.1)
    raise AssertionError(f"the job did not end: {job}")


def test_a_reindex_with_a_second_model_and_the_way_back(own: TestClient, home: Path) -> None:
    own.put("/v1/items/a", files={"image": ("x", picture(1)), "text": (None, "a red ball")})
    before = text_search(own, text="a red ball").json()
    make_model(home / "models", seed=1)
    headers = {"Idempotency-Key": "once"}
    accepted = own.post("/v1/admin/reindex", json={"model": "latest"}, headers=headers)
    assert accepted.status_code == 202
    job = accepted.json()
    assert accepted.headers["location"] == f"/v1/admin/jobs/{job['id']}"
    assert {"id", "kind", "phase", "done", "total", "rate", "eta_s", "error"} <= set(job)
    again = own.post("/v1/admin/reindex", json={"model": "latest"}, headers=headers)
    assert again.json()["id"] == job["id"]
    problem_of(own.post("/v1/admin/reindex", json={}), 409)
    done = finished(own, accepted.headers["location"])
    assert (done["phase"], done["error"], done["kind"]) == ("done", None, "reindex")
    after = text_search(own, text="a red ball").json()
    assert (before["model_version"], after["model_version"]) == ("tiny/1", "tiny/2")
    assert after["hits"][0]["id"] == "a"
    assert own.get("/v1/admin/jobs").json()["jobs"][0]["id"] == job["id"]
    assert own.delete(f"/v1/admin/jobs/{job['id']}").json()["phase"] == "done"
    generations = own.get("/v1/admin/generations").json()["generations"]
    assert [one["live"] for one in generations] == [True, False]
    assert generations[0]["model_version"] == "tiny/2"
    assert "hashguard_reindex_running 0.0" in own.get("/metrics").text
    back = own.post(f"/v1/admin/generations/{generations[1]['id']}/activate")
    assert (back.status_code, back.json()["live"]) == (200, True)
    assert text_search(own, text="a red ball").json()["hits"][0]["distance"] == 0
    assert text_search(own, text="a red ball").json()["model_version"] == "tiny/1"


def test_an_older_generation_is_activated_by_a_job(own: TestClient, home: Path) -> None:
    """A model that came while the service ran, a generation of it that never was live, and its way there."""
    own.put("/v1/items/a", files={"text": (None, "a red ball")})
    make_model(home / "models", seed=1)
    cards = own.get("/v1/models").json()["models"]
    assert [(card["name"], card["version"]) for card in cards] == [("tiny", "1"), ("tiny", "2")]
    parts = open_parts(settings_for(home))
    generation = build_builder(parts).empty(choose_model(parts.shelf, "tiny/2", None))
    parts.close()
    answer = own.post(f"/v1/admin/generations/{generation.id}/activate")
    assert answer.status_code == 202, answer.text
    job = answer.json()
    assert answer.headers["location"] == f"/v1/admin/jobs/{job['id']}"
    assert (job["kind"], job["generation"], job["quality_floor"]) == ("catch-up", generation.id, None)
    busy = own.post("/v1/admin/reindex", json={"quality_floor": 0.1})
    assert problem_of(busy, 409)["code"] == "job_running"
    done = finished(own, answer.headers["location"])
    assert (done["phase"], done["error"], done["done"]) == ("done", None, 1)
    found = text_search(own, text="a red ball").json()
    assert (found["model_version"], found["index_generation"]) == ("tiny/2", generation.id)
    flags = [
        (one["live"], one["predecessor"]) for one in own.get("/v1/admin/generations").json()["generations"]
    ]
    assert flags == [(True, False), (False, True)]


def test_a_job_shows_what_was_validated() -> None:
    quality = Quality("m/2", "m/1", "labels", 30, 90, (TaskQuality("image-to-text", 0.5, 0.75),), 0.1)
    now = datetime(2026, 1, 1, tzinfo=UTC)
    job = Job(
        "j", JobKind.REINDEX, JobPhase.FAILED, 1, 1, None, None, "refused", "m/2", True, None, now, now, now,
        0.1, Validation(90, 120, 64, quality, left_out=(LeftOut("bare", 9, ("a", "b")),)),
    )  # fmt: skip
    shown = JobAnswer.of(job).model_dump(mode="json")
    assert shown["validation"] == {
        "image_count": 90,
        "text_count": 120,
        "canaries": 64,
        "note": None,
        "left_out": [{"reason": "bare", "count": 9, "ids": ["a", "b"]}],
        "quality": {
            "model": "m/2",
            "live_model": "m/1",
            "relevance": "labels",
            "queries": 30,
            "items": 90,
            "tasks": [{"task": "image-to-text", "map": 0.5, "live_map": 0.75}],
            "floor": 0.1,
        },
    }


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        ({"model": "tiny/99"}, {}, 404),
        ({"quality_floor": 1.5}, {}, 422),
        ({"quality_floor": "high"}, {}, 422),
        ({"model": "tiny"}, {}, 422),
        ({"model": "../x/1"}, {}, 422),
        ({"model": 1}, {}, 422),
        ({"activate": "yes"}, {}, 422),
        ({"colour": "red"}, {}, 422),
        ({}, {"Idempotency-Key": ""}, 422),
        ({}, {"Idempotency-Key": "x" * 201}, 422),
        ({}, {"Idempotency-Key": "with space"}, 422),
    ],
)
def test_a_reindex_that_was_asked_for_wrongly_is_refused(
    client: TestClient, body: dict, headers: dict, status: int
) -> None:
    problem_of(client.post("/v1/admin/reindex", json=body, headers=headers), status)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/admin/jobs/nobody", 404),
        ("DELETE", "/v1/admin/jobs/nobody", 404),
        ("GET", "/v1/admin/jobs/no%20body", 422),
        ("GET", "/v1/admin/jobs?limit=0", 422),
        ("GET", "/v1/admin/jobs?colour=red", 422),
        ("POST", "/v1/admin/generations/nobody/activate", 404),
        ("GET", "/v1/models/nobody/1", 404),
        ("GET", "/v1/models/tiny/99", 404),
        ("GET", "/v1/models/tiny/latest", 422),
        ("GET", "/v1/models/-/1", 422),
    ],
)
def test_what_is_not_there_is_a_problem(client: TestClient, method: str, path: str, status: int) -> None:
    problem_of(client.request(method, path), status)


def test_model_cards_are_public(client: TestClient) -> None:
    cards = client.get("/v1/models").json()["models"]
    assert [(card["name"], card["version"]) for card in cards] == [("tiny", "1")]
    card = client.get("/v1/models/tiny/1").json()
    assert card["bits"] == 32
    assert "known to break at" in str(card).lower()


def test_probes_answer_get_and_head(client: TestClient) -> None:
    assert client.get("/livez").json() == {"status": "alive"}
    ready = client.get("/readyz")
    assert ready.json()["ready"] is True
    assert (ready.json()["model_version"], ready.json()["items"]) == ("tiny/1", 5)
    for path in ("/livez", "/readyz", "/"):
        head = client.head(path)
        assert (head.status_code, head.content) == (200, b"")


def test_metrics_have_the_names_of_the_contract_and_no_word_of_what_was_asked(client: TestClient) -> None:
    text_search(client, text="an unmistakable secret")
    client.get("/v1/items/pair-0")
    client.post("/v1/search/batch", json={"queries": [{"to": "text", "text": "a"}] * 3})
    exposed = client.get("/metrics")
    assert exposed.headers["content-type"].startswith("text/plain; version=0.0.4")
    for name in (
        'hashguard_http_server_request_duration_seconds_bucket{le="0.005",method="GET",route="/v1/items/{id}",status="200"}',
        'hashguard_stage_duration_seconds_count{stage="encode"}',
        'hashguard_batch_size_bucket{call="search",le="4.0"}',
        "hashguard_queue_depth",
        "hashguard_index_items 5.0",
        'hashguard_index_generation_info{generation="g',
        "hashguard_reindex_progress_ratio",
        "hashguard_ready 1.0",
    ):
        assert name in exposed.text
    assert "secret" not in exposed.text
    assert "pair-0" not in exposed.text


def test_a_home_without_a_model_lives_but_is_not_ready(tmp_path: Path) -> None:
    settings = settings_for(tmp_path / "bare")
    app = create_app(build_application(settings), settings)
    with TestClient(app, base_url="http://localhost", raise_server_exceptions=False) as client:
        assert client.get("/livez").status_code == 200
        ready = client.get("/readyz")
        assert (ready.status_code, ready.json()["ready"]) == (503, False)
        assert ready.json()["reasons"]
        assert int(ready.headers["retry-after"]) > 0
        assert problem_of(text_search(client, text="a"), 503)["code"] == "not_ready"
        problem_of(client.put("/v1/items/a", files={"text": (None, "a")}), 503)
        page = client.get("/?q=a")
        assert page.status_code == 503
        assert "That did not work" in page.text
        assert int(page.headers["retry-after"]) > 0
        assert "not ready" in client.get("/").text


def test_a_state_that_is_not_known_in_time_is_not_ready(
    own: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    health = type(own.app.state.context.application.health)  # type: ignore[attr-defined]
    monkeypatch.setattr("service.api.routes.health.PROBE_TIMEOUT_S", 0.05)
    monkeypatch.setattr(health, "ready", lambda self: time.sleep(0.5))
    answer = own.get("/readyz")
    assert (answer.status_code, answer.json()["ready"]) == (503, False)
    assert "0.05 seconds" in answer.json()["reasons"][0]


def test_pages_of_other_origins_and_other_hosts_are_refused(client: TestClient) -> None:
    foreign = {"Origin": "https://evil.example"}
    assert problem_of(client.delete("/v1/items/pair-0", headers=foreign), 403)["code"] == "foreign_origin"
    assert client.get("/v1/items/pair-0", headers=foreign).status_code == 200
    rebound = client.get("/v1/items/pair-0", headers={"Host": "evil.example"})
    assert problem_of(rebound, 400)["code"] == "invalid_host"
    assert not any(name.startswith("access-control") for name in client.get("/v1/items").headers)


def test_an_unforeseen_failure_is_a_500_problem_without_its_reason(
    own: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: object, query: object) -> None:
        raise RuntimeError("the secret reason")

    monkeypatch.setattr(type(own.app.state.context.application.retrieval), "search", broken)  # type: ignore[attr-defined]
    with capture_logs() as lines:
        answer = text_search(own, text="a")
    assert any(line.get("exc_info") for line in lines)
    assert problem_of(answer, 500)["code"] == "internal_error"
    assert "secret" not in answer.text
    assert own.get("/readyz").status_code == 200


def test_a_body_that_breaks_off_is_answered_although_nobody_reads_it(client: TestClient) -> None:
    async def gone() -> dict[str, str]:
        return {"type": "http.disconnect"}

    request = scope("/v1/search/text-to-image", host="localhost", content_type="application/json")
    connection = {"query_string": b"", "client": None, "server": ("127.0.0.1", 8000)}
    answer = asyncio.run(ask(client.app, request | connection, gone))
    assert (answer["status"], answer["problem"]["code"]) == (400, "bad_request")


def test_which_hosts_are_ours() -> None:
    here = allowed_hosts(Settings(host="127.0.0.1", allowed_hosts="box.lan, other.lan"))
    assert {"localhost", "127.0.0.1", "box.lan", "other.lan"} <= set(here)
    assert allowed_hosts(Settings(host="0.0.0.0")) == ("*",)
    assert allowed_hosts(Settings(host="0.0.0.0", allowed_hosts="box.lan")) == ("box.lan",)


def test_a_context_that_nobody_put_up_is_said_to_be_missing() -> None:
    class Empty:
        class app:
            class state:
                context = None

    with pytest.raises(TypeError, match="it is NoneType"):
        context(Empty).send(None)  # type: ignore[arg-type,attr-defined]
    assert Context.__dataclass_fields__
