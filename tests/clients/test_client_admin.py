"""The client's administration: what it sends, how it waits, and where a roll-back leads."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
from test_client_retries import Script, busy, client_of

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "clients" / "python"))

from hashguard_client.errors import HashguardError, NoPredecessor, ServiceProblem


def answer(**document: Any) -> httpx.Response:
    return httpx.Response(200, json=document)


def generation(name: str, *, live: bool = False, predecessor: bool = False) -> dict[str, Any]:
    return {"id": name, "live": live, "predecessor": predecessor}


def test_a_quality_floor_is_sent_when_it_is_given() -> None:
    script = Script(answer(id="j"))
    client, _ = client_of(script)
    client.reindex("m/2", quality_floor=0.0)
    client.reindex(activate=False)
    sent = [json.loads(request.content) for request in script.requests]
    assert sent == [
        {"model": "m/2", "activate": True, "quality_floor": 0.0},
        {"model": "latest", "activate": False},
    ]
    keys = {request.headers["idempotency-key"] for request in script.requests}
    assert len(keys) == 2


def test_a_floor_that_is_none_is_the_callers_to_see() -> None:
    client, slept = client_of(Script(httpx.Response(422, json={"code": "bad_quality_floor", "detail": "2"})))
    with pytest.raises(ServiceProblem, match="422 bad_quality_floor"):
        client.reindex(quality_floor=2)
    assert slept == []


def test_a_roll_back_activates_the_predecessor() -> None:
    kept = [generation("g3", live=True), generation("g2"), generation("g/1", predecessor=True)]
    script = Script(answer(generations=kept), busy(503), answer(id="g/1", live=True))
    client, slept = client_of(script)
    assert client.roll_back() == {"id": "g/1", "live": True}
    assert [request.method for request in script.requests] == ["GET", "POST", "POST"]
    assert script.requests[1].url.raw_path == b"/v1/admin/generations/g%2F1/activate"
    assert len(slept) == 1  # a refused activation may be asked for again


@pytest.mark.parametrize("kept", [[], [generation("g1", live=True), generation("g0")]])
def test_where_nothing_was_live_before_there_is_nothing_to_roll_back_to(kept: list[dict[str, Any]]) -> None:
    script = Script(answer(generations=kept))
    client, _ = client_of(script)
    with pytest.raises(HashguardError, match=f"none of the {len(kept)} kept") as caught:
        client.roll_back()
    assert isinstance(caught.value, NoPredecessor)
    assert len(script.requests) == 1


def test_jobs_are_listed_cancelled_and_waited_for() -> None:
    script = Script(
        answer(jobs=[{"id": "a"}, {"id": "b"}]),
        answer(id="a", phase="encoding"),
        answer(id="a", phase="encoding"),
        answer(id="a", phase="swapping"),
        answer(id="a", phase="failed", error="no"),
    )
    client, _ = client_of(script)
    assert [job["id"] for job in client.jobs(2)] == ["a", "b"]
    assert client.cancel_job("a/../b")["phase"] == "encoding"
    assert client.wait_for_job("a", every_s=0) == {"id": "a", "phase": "failed", "error": "no"}
    assert script.requests[0].url.params["limit"] == "2"
    asked = (script.requests[1].method, script.requests[1].url.raw_path)
    assert asked == ("DELETE", b"/v1/admin/jobs/a%2F..%2Fb")


def test_waiting_ends_although_the_job_does_not() -> None:
    client, _ = client_of(Script(answer(id="a", phase="encoding")))
    with pytest.raises(TimeoutError, match="job a has not ended within 0 s: it is encoding"):
        client.wait_for_job("a", timeout_s=0)
