"""The middleware on tiny ASGI applications: admission, body bounds, guard, headers, access log."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from structlog.testing import capture_logs

from service.api.metrics import Metrics
from service.api.middleware import body_limit
from service.api.middleware.access import AccessMiddleware
from service.api.middleware.admission import AdmissionMiddleware, Gate
from service.api.middleware.body_limit import BodyLimitMiddleware
from service.api.middleware.guard import GuardMiddleware, path_objection
from service.api.middleware.headers import DATA_POLICY, HeadersMiddleware

Answer = dict[str, Any]


def scope(path: str = "/x", method: str = "POST", **headers: str) -> Scope:
    listed = [(name.replace("_", "-").lower().encode(), value.encode()) for name, value in headers.items()]
    return {"type": "http", "method": method, "path": path, "raw_path": path.encode(), "headers": listed}


async def ask(app: ASGIApp, scope: Scope, receive: Callable[[], Awaitable[Message]] | None = None) -> Answer:
    """One request against an ASGI application; status, headers and body of the answer."""
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def nothing() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    await app(scope, receive or nothing, send)
    start = next((message for message in sent if message["type"] == "http.response.start"), None)
    if start is None:
        return {"status": None}
    body = b"".join(message.get("body", b"") for message in sent if message["type"] == "http.response.body")
    headers = {name.decode().lower(): value.decode() for name, value in start["headers"]}
    problem = json.loads(body) if "problem" in headers.get("content-type", "") else None
    return {"status": start["status"], "headers": headers, "body": body, "problem": problem}


def chunks(*bodies: bytes, endless: bool = False) -> Callable[[], Awaitable[Message]]:
    """A client that sends these pieces; with `endless` it never says that it is done."""
    waiting = list(bodies)

    async def receive() -> Message:
        if waiting:
            return {"type": "http.request", "body": waiting.pop(0), "more_body": bool(waiting) or endless}
        if endless:
            await asyncio.sleep(60)
        return {"type": "http.disconnect"}

    return receive


async def ok(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": b"fine"})


async def reads_everything(scope: Scope, receive: Receive, send: Send) -> None:
    total = 0
    while True:
        message = await receive()
        total += len(message.get("body", b""))
        if not message.get("more_body"):
            break
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": str(total).encode()})


def sample(metrics: Metrics, name: str, **labels: str) -> float:
    return metrics.registry.get_sample_value(name, labels) or 0.0


# Admission


def test_a_full_gate_refuses_with_retry_after_and_lets_probes_pass() -> None:
    async def story() -> None:
        release, entered, metrics = asyncio.Event(), asyncio.Event(), Metrics()

        async def slow(scope: Scope, receive: Receive, send: Send) -> None:
            entered.set()
            await release.wait()
            await ok(scope, receive, send)

        gate = Gate(1)
        app = AdmissionMiddleware(slow, gate, metrics)
        first = asyncio.create_task(ask(app, scope()))
        await entered.wait()
        refused = await ask(app, scope())
        assert refused["status"] == 503
        assert refused["headers"]["retry-after"] == "1"
        assert refused["problem"]["code"] == "overloaded"
        assert sample(metrics, "hashguard_rejected_total", reason="overloaded") == 1
        probe = asyncio.create_task(ask(app, scope("/readyz", "GET")))
        assert not await gate.drained(0.01)
        release.set()
        assert (await first)["status"] == (await probe)["status"] == 200
        assert (await ask(app, scope()))["status"] == 200
        assert await gate.drained(0.01)

    asyncio.run(story())


def test_a_draining_gate_refuses_everything_but_probes() -> None:
    gate, metrics = Gate(5), Metrics()
    gate.draining = True
    app = AdmissionMiddleware(ok, gate, metrics)
    refused = asyncio.run(ask(app, scope()))
    assert (refused["status"], refused["problem"]["code"]) == (503, "draining")
    assert int(refused["headers"]["retry-after"]) > 0
    assert asyncio.run(ask(app, scope("/livez", "GET")))["status"] == 200
    assert sample(metrics, "hashguard_rejected_total", reason="draining") == 1


def test_a_request_that_fails_leaves_the_gate() -> None:
    async def broken(scope: Scope, receive: Receive, send: Send) -> None:
        raise RuntimeError("fault")

    gate = Gate(1)
    app = AdmissionMiddleware(broken, gate, Metrics())
    for _ in range(3):
        with pytest.raises(RuntimeError, match="fault"):
            asyncio.run(ask(app, scope()))
    assert gate.in_flight == 0


# Bodies


def bounded(app: ASGIApp, limit: int = 10, deadline_s: float = 5.0) -> tuple[BodyLimitMiddleware, Metrics]:
    metrics = Metrics()
    return BodyLimitMiddleware(app, lambda _: limit, deadline_s, metrics), metrics


@pytest.mark.parametrize("pieces", [(b"",), (b"12345", b"67890"), (b"1234567890",)])
def test_bodies_within_the_limit_pass(pieces: tuple[bytes, ...]) -> None:
    app, _ = bounded(reads_everything)
    answer = asyncio.run(ask(app, scope(content_length="10"), chunks(*pieces)))
    assert (answer["status"], answer["body"]) == (200, str(sum(map(len, pieces))).encode())


def test_a_declared_length_over_the_limit_is_refused_before_anything_runs() -> None:
    async def never(scope: Scope, receive: Receive, send: Send) -> None:
        raise RuntimeError("the application was asked")

    app, metrics = bounded(never)
    answer = asyncio.run(ask(app, scope(content_length="11"), chunks(b"x" * 11)))
    assert (answer["status"], answer["problem"]["code"]) == (413, "too_large")
    assert answer["headers"]["connection"] == "close"
    assert sample(metrics, "hashguard_rejected_total", reason="too_large") == 1


@pytest.mark.parametrize("length", ["-1", "ten", "1.5", "", "١٢"])
def test_a_length_that_is_no_number_is_refused(length: str) -> None:
    app, _ = bounded(ok)
    assert asyncio.run(ask(app, scope(content_length=length)))["status"] == 400


def test_an_undeclared_body_is_refused_when_it_passes_the_limit() -> None:
    app, _ = bounded(reads_everything)
    answer = asyncio.run(ask(app, scope(), chunks(b"12345678", b"9012", b"more")))
    assert answer["status"] == 413


def test_the_refusal_wins_over_what_the_application_makes_of_the_error() -> None:
    async def stubborn(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await reads_everything(scope, receive, send)
        except Exception:  # this is what frameworks do
            await ok(scope, receive, send)

    app, _ = bounded(stubborn)
    answer = asyncio.run(ask(app, scope(), chunks(b"x" * 11)))
    assert answer["status"] == 413


def test_an_answer_that_is_out_already_is_not_followed_by_a_second_one() -> None:
    async def answers_first(scope: Scope, receive: Receive, send: Send) -> None:
        await ok(scope, receive, send)
        await receive()

    app, metrics = bounded(answers_first)
    answer = asyncio.run(ask(app, scope(), chunks(b"x" * 11)))
    assert (answer["status"], answer["body"]) == (200, b"fine")
    assert sample(metrics, "hashguard_rejected_total", reason="too_large") == 1


def test_a_body_that_does_not_come_is_timed_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(body_limit, "LINGER_S", 0.01)
    app, _ = bounded(reads_everything, deadline_s=0.05)
    answer = asyncio.run(ask(app, scope(), chunks(b"1", endless=True)))
    assert (answer["status"], answer["problem"]["code"]) == (408, "request_timeout")


def test_after_a_refusal_only_so_much_is_thrown_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(body_limit, "LINGER_BYTES", 100)
    pieces = [b"x" * 40] * 10
    app, _ = bounded(ok)
    receive = chunks(*pieces, endless=True)
    assert asyncio.run(ask(app, scope(content_length="400"), receive))["status"] == 413
    left = asyncio.run(receive())
    assert left["body"] == b"x" * 40


def test_waiting_for_the_client_after_its_body_is_not_timed_out() -> None:
    async def waits(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await asyncio.sleep(0.1)
        assert (await receive())["type"] == "http.disconnect"
        await ok(scope, receive, send)

    app, _ = bounded(waits, deadline_s=0.05)
    assert asyncio.run(ask(app, scope(), chunks(b"1")))["status"] == 200


@pytest.mark.parametrize("middleware", [bounded(ok)[0], AdmissionMiddleware(ok, Gate(0), Metrics())])
def test_other_protocols_pass_untouched(middleware: ASGIApp) -> None:
    assert asyncio.run(ask(middleware, {"type": "lifespan"}))["status"] == 200


# Guard

GUARD = GuardMiddleware(ok, ("localhost", "127.0.0.1", "[::1]"), ("https://app.example",))


@pytest.mark.parametrize("host", ["localhost", "localhost:8000", "127.0.0.1:80", "[::1]:8000", "LOCALHOST:1"])
def test_the_services_own_names_pass(host: str) -> None:
    assert asyncio.run(ask(GUARD, scope(host=host)))["status"] == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8000", "", "127.0.0.1.evil.example", "localhost.", "::1"]
)
def test_a_foreign_host_is_refused(host: str) -> None:
    answer = asyncio.run(ask(GUARD, scope(method="GET", host=host)))
    assert (answer["status"], answer["problem"]["code"]) == (400, "invalid_host")


def test_any_host_passes_when_any_is_allowed() -> None:
    guard = GuardMiddleware(ok, ("*",), ())
    assert asyncio.run(ask(guard, scope(host="anything")))["status"] == 200
    assert asyncio.run(ask(guard, {"type": "lifespan"}))["status"] == 200


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"origin": "http://localhost:8000"}, 200),
        ({"origin": "https://app.example"}, 200),
        ({"origin": "http://localhost:9000"}, 403),
        ({"origin": "https://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"sec_fetch_site": "cross-site"}, 403),
        ({"sec_fetch_site": "same-site"}, 403),
        ({"sec_fetch_site": "same-origin"}, 200),
    ],
)
def test_only_pages_of_the_service_may_send_what_changes_something(
    headers: dict[str, str], status: int
) -> None:
    assert asyncio.run(ask(GUARD, scope(host="localhost:8000", **headers)))["status"] == status
    assert asyncio.run(ask(GUARD, scope(method="GET", host="localhost:8000", **headers)))["status"] == 200


@pytest.mark.parametrize("path", [b"/v1/items/a:b.c_-", b"/?", b"/caf%C3%A9", "/☂".encode()])
def test_paths_that_decode_pass(path: bytes) -> None:
    assert path_objection(path) is None


@pytest.mark.parametrize(
    "path",
    [b"/%", b"/%zz", b"/%4", b"/a%2Fb", b"/a%2fb", b"/a%5cb", b"/%00", b"/%ff", b"/%0a", b"/%7f", b"/%C3%28"],
)
def test_paths_that_do_not_decode_are_refused(path: bytes) -> None:
    objection = path_objection(path)
    assert objection is not None
    assert objection.code == "bad_path"
    request = scope(host="localhost")
    request["raw_path"] = path
    assert asyncio.run(ask(GUARD, request))["status"] == 400


# Headers and access


def test_answers_carry_the_protective_headers_and_keep_a_policy_of_their_own() -> None:
    async def with_policy(scope: Scope, receive: Receive, send: Send) -> None:
        await send(
            {"type": "http.response.start", "status": 200, "headers": [(b"content-security-policy", b"own")]}
        )
        await send({"type": "http.response.body", "body": b""})

    plain = asyncio.run(ask(HeadersMiddleware(ok), scope()))["headers"]
    assert plain["x-content-type-options"] == "nosniff"
    assert plain["content-security-policy"] == DATA_POLICY
    assert (
        asyncio.run(ask(HeadersMiddleware(with_policy), scope()))["headers"]["content-security-policy"]
        == "own"
    )


def test_one_line_for_each_request_without_what_was_asked_for() -> None:
    metrics = Metrics()
    request = scope("/v1/items") | {"query_string": b"q=secret+words"}
    with capture_logs() as lines:
        asyncio.run(ask(AccessMiddleware(ok, metrics), request))
    assert len(lines) == 1
    assert {key: lines[0][key] for key in ("method", "path", "route", "status", "bytes")} == {
        "method": "POST",
        "path": "/v1/items",
        "route": "unmatched",
        "status": 200,
        "bytes": 4,
    }
    assert "secret" not in json.dumps(lines)
    labels = {"method": "POST", "route": "unmatched", "status": "200"}
    assert sample(metrics, "hashguard_http_server_request_duration_seconds_count", **labels) == 1
    assert sample(metrics, "hashguard_http_server_active_requests") == 0


def test_probes_are_quiet_while_they_succeed() -> None:
    with capture_logs() as lines:
        asyncio.run(ask(AccessMiddleware(ok, Metrics()), scope("/livez", "GET")))
    assert [line["log_level"] for line in lines] == ["debug"]


def test_an_invented_method_is_no_label() -> None:
    metrics = Metrics()
    asyncio.run(ask(AccessMiddleware(ok, metrics), scope(method="BREW")))
    labels = {"method": "other", "route": "unmatched", "status": "200"}
    assert sample(metrics, "hashguard_http_server_request_duration_seconds_count", **labels) == 1


def test_an_unforeseen_failure_is_a_500_problem_without_its_reason() -> None:
    async def broken(scope: Scope, receive: Receive, send: Send) -> None:
        raise RuntimeError("the secret reason")

    with capture_logs() as lines:
        answer = asyncio.run(ask(AccessMiddleware(broken, Metrics()), scope()))
    assert (answer["status"], answer["problem"]["code"]) == (500, "internal_error")
    assert b"secret" not in answer["body"]
    assert any(line["log_level"] == "error" and line.get("exc_info") for line in lines)


def test_a_failure_after_half_an_answer_cuts_the_connection() -> None:
    async def half(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise RuntimeError("too late")

    with capture_logs(), pytest.raises(RuntimeError, match="too late"):
        asyncio.run(ask(AccessMiddleware(half, Metrics()), scope()))


def test_a_client_that_left_is_counted_as_such() -> None:
    async def silent(scope: Scope, receive: Receive, send: Send) -> None:
        return

    metrics = Metrics()
    asyncio.run(ask(AccessMiddleware(silent, metrics), scope()))
    labels = {"method": "POST", "route": "unmatched", "status": "499"}
    assert sample(metrics, "hashguard_http_server_request_duration_seconds_count", **labels) == 1
    assert asyncio.run(ask(AccessMiddleware(ok, metrics), {"type": "lifespan"}))["status"] == 200
