"""The client: what it sends, what it makes of answers, and when it tries again."""

from __future__ import annotations

import base64
import json
import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "clients" / "python"))

from hashguard_client.client import Client
from hashguard_client.errors import HashguardError, ServiceProblem, UnexpectedAnswer
from hashguard_client.retries import Retries

Handler = Callable[[httpx.Request], httpx.Response]


class Script:
    """Answers one after the other, remembering the requests."""

    def __init__(self, *answers: httpx.Response | Exception) -> None:
        self.answers = list(answers)
        self.requests: list[httpx.Request] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        request.read()
        self.requests.append(request)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return httpx.Response(answer.status_code, headers=answer.headers, content=answer.content)


def client_of(script: Handler, **options: Any) -> tuple[Client, list[float]]:
    slept: list[float] = []
    retries = Retries(sleep=slept.append, jitter=random.Random(0), **options)
    return Client(
        "http://service", api_key="k", retries=retries, transport=httpx.MockTransport(script)
    ), slept


def busy(status: int = 503, retry_after: str | None = None) -> httpx.Response:
    headers = {"Retry-After": retry_after} if retry_after else {}
    return httpx.Response(status, headers=headers, json={"code": "busy", "detail": "later"})


DONE = httpx.Response(200, json={"hits": []})


def test_a_refused_call_is_tried_again_after_the_time_that_the_service_names() -> None:
    script = Script(busy(retry_after="3"), busy(429, "2"), DONE)
    client, slept = client_of(script)
    assert client.text_to_image("a", k=3) == {"hits": []}
    assert slept == [3.0, 2.0]
    assert json.loads(script.requests[0].content) == {"text": "a", "k": 3}
    assert script.requests[0].headers["authorization"] == "Bearer k"


def test_pauses_double_with_jitter_when_no_time_is_named() -> None:
    client, slept = client_of(Script(busy(502), busy(504), httpx.ConnectError("refused"), DONE))
    client.encode_text("a")
    assert [0.1, 0.2, 0.4] <= slept <= [0.2, 0.4, 0.8]
    assert slept == sorted(slept)


def test_the_last_answer_is_given_when_all_tries_are_used_up() -> None:
    script = Script(busy())
    client, slept = client_of(script, tries=3)
    with pytest.raises(ServiceProblem, match="503 busy: later") as caught:
        client.text_to_text("a")
    assert (caught.value.status, caught.value.code, len(script.requests), len(slept)) == (503, "busy", 3, 2)


def test_a_wait_that_is_too_long_is_the_callers_decision() -> None:
    client, slept = client_of(Script(busy(429, "3600")))
    with pytest.raises(ServiceProblem):
        client.text_to_text("a")
    assert slept == []


def test_a_date_in_retry_after_counts_as_no_time() -> None:
    client, slept = client_of(Script(busy(503, "Wed, 21 Oct 2026 07:28:00 GMT"), DONE))
    client.text_to_text("a")
    assert slept[0] < 1


@pytest.mark.parametrize("status", [400, 404, 409, 422, 500])
def test_an_answer_that_will_not_change_is_not_asked_for_again(status: int) -> None:
    problem = {"code": "c", "detail": "d", "request_id": "r", "errors": [{"pointer": "#/k"}]}
    script = Script(httpx.Response(status, json=problem))
    client, _ = client_of(script)
    with pytest.raises(HashguardError) as caught:
        client.item("x")
    assert isinstance(caught.value, ServiceProblem)
    assert (caught.value.request_id, caught.value.errors) == ("r", [{"pointer": "#/k"}])
    assert len(script.requests) == 1


def test_a_connection_that_fails_every_time_is_the_callers_to_see() -> None:
    client, slept = client_of(Script(httpx.ConnectError("refused")), tries=2)
    with pytest.raises(httpx.ConnectError):
        client.delete_item("x")
    assert len(slept) == 1


def test_what_is_not_idempotent_is_tried_again_only_when_it_was_not_taken() -> None:
    taken = Script(busy(503), httpx.Response(201, json={"id": "new"}))
    client, _ = client_of(taken)
    assert client.create_item(text="a", metadata={"n": 1}) == {"id": "new"}
    assert b'name="metadata"' in taken.requests[1].content
    for answer in (busy(502), httpx.ReadTimeout("silence")):
        script = Script(answer)
        client, _ = client_of(script)
        with pytest.raises((ServiceProblem, httpx.ReadTimeout)):
            client.create_item(text="a")
        assert len(script.requests) == 1


def test_tries_must_be_at_least_one() -> None:
    client, _ = client_of(Script(DONE), tries=0)
    with pytest.raises(ValueError, match="at least 1, it is 0"):
        client.encode_text("a")


@pytest.mark.parametrize(
    "answer", [httpx.Response(200, text="<html>"), httpx.Response(502, text="bad gateway")]
)
def test_an_answer_of_somebody_else_is_said_to_be_one(answer: httpx.Response) -> None:
    client, _ = client_of(Script(answer), tries=1)
    with pytest.raises(UnexpectedAnswer, match=r"not a JSON object"):
        client.item("x")


def test_images_travel_as_files_and_in_batches_as_base64() -> None:
    script = Script(httpx.Response(200, json={"results": [{"status": 200}]}))
    client, _ = client_of(script)
    client.image_to_text(b"\xff\xd8", k=5, filter={"must": []})
    assert b'name="image"; filename="image"' in script.requests[0].content
    assert b'{"must": []}' in script.requests[0].content
    client.search_batch([{"to": "text", "image": b"\x00\xff"}, {"to": "image", "text": "a"}])
    first, second = json.loads(script.requests[1].content)["queries"]
    assert base64.b64decode(first["image"]) == b"\x00\xff"
    assert second == {"to": "image", "text": "a"}
    client.put_items([{"text": "a"}, {"id": "mine", "text": "b"}])
    items = json.loads(script.requests[2].content)["items"]
    assert len(items[0]["id"]) == 32
    assert items[1]["id"] == "mine"


def test_all_items_are_fetched_page_by_page_and_ids_are_escaped() -> None:
    pages = Script(
        httpx.Response(200, json={"items": [{"id": "a"}], "next_cursor": "c/1"}),
        httpx.Response(200, json={"items": [{"id": "b"}], "next_cursor": None}),
    )
    client, _ = client_of(pages)
    assert [item["id"] for item in client.items(page_size=1)] == ["a", "b"]
    assert pages.requests[1].url.params["cursor"] == "c/1"
    script = Script(httpx.Response(200, content=b"\xff\xd8"))
    client, _ = client_of(script)
    assert client.image("a:b/../c", size=64) == b"\xff\xd8"
    assert script.requests[0].url.raw_path == b"/v1/items/a%3Ab%2F..%2Fc/image?size=64"


@pytest.mark.parametrize("api_key", ["", " \n", "two words", "line\nfeed", "schlüssel"])
def test_a_key_that_no_header_takes_is_refused_without_being_told(api_key: str) -> None:
    with pytest.raises(ValueError, match="visible ASCII") as refused:
        Client(api_key=api_key)
    assert not api_key.strip() or api_key not in str(refused.value)


def test_a_key_may_come_from_a_file_and_none_is_sent_where_none_is_given() -> None:
    script = Script(DONE)
    for given in ("k\n", None):
        with Client(api_key=given, transport=httpx.MockTransport(script)) as client:
            client.text_to_image("a")
    sent = [request.headers.get("authorization") for request in script.requests]
    assert sent == ["Bearer k", None]


def test_a_refused_key_is_not_tried_again() -> None:
    script = Script(httpx.Response(401, json={"code": "invalid_key", "detail": "no"}))
    client, slept = client_of(script)
    with pytest.raises(ServiceProblem, match="401 invalid_key"):
        client.text_to_image("a")
    assert (len(script.requests), slept) == (1, [])


def test_readiness_is_an_answer_either_way() -> None:
    script = Script(httpx.Response(503, json={"ready": False}))
    client, slept = client_of(script)
    assert client.ready() == {"ready": False}
    assert slept == []


def test_the_rest_of_the_interface_goes_where_it_should() -> None:
    script = Script(httpx.Response(200, json={"id": "j"}))
    client, _ = client_of(script)
    with client:
        client.image_to_image(b"x")
        client.encode_image(b"x")
        client.like_item("a", "image", "text", k=2)
        client.put_item("a", image=b"x", text="t")
        client.reindex(key="once")
        client.job("j")
    paths = [request.url.path for request in script.requests]
    assert paths == [
        "/v1/search/image-to-image",
        "/v1/encode/image",
        "/v1/search/item",
        "/v1/items/a",
        "/v1/admin/reindex",
        "/v1/admin/jobs/j",
    ]
    assert script.requests[4].headers["idempotency-key"] == "once"
    assert json.loads(script.requests[2].content) == {"id": "a", "from": "image", "to": "text", "k": 2}
