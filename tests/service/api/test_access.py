"""Who may call what: every route with every kind of key, hostile headers, proxies, the page, counts, logs."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from fastapi import APIRouter, Depends, FastAPI
from fastapi.routing import APIRoute
from hypothesis import given
from hypothesis import strategies as st
from starlette.routing import Route
from starlette.testclient import TestClient
from structlog.testing import capture_logs
from test_api_page import page_of
from test_api_search import problem_of, text_search
from test_middleware import ask, scope
from tiny import copy_model, picture, settings_for

from service.api import app as app_module
from service.api.app import assemble, check_declared, create_app
from service.api.authentication import asks_for_keys, is_loopback, lets_in_without_key, shown_key
from service.api.bodies import StrictJsonRoute
from service.api.deps import PUBLIC, declared_scope, needs
from service.application.errors import Unauthorised, Unavailable
from service.application.keyring import Keyring
from service.application.keys import Keys, read_key
from service.application.types import Scope
from service.catalog_wiring import build_catalog, build_keys, utc_now
from service.settings import Settings
from service.wiring import build_application

PUBLIC_CALLS = {
    "GET /", "HEAD /", "POST /", "GET /docs", "GET /static/{name}",
    "GET /livez", "HEAD /livez", "GET /readyz", "HEAD /readyz", "GET /metrics",
    "GET /v1/models", "GET /v1/models/{name}/{version}",
}  # fmt: skip
MADE_UP = "hg_0123456789ab_" + "A" * 43


def routes() -> list[APIRoute]:
    return [route for router in app_module._ROUTERS for route in router.routes if isinstance(route, APIRoute)]


CALLS = [
    (f"{method} {route.path}", declared_scope(route.dependencies))
    for route in routes()
    for method in route.methods
]


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


@pytest.fixture(scope="module")
def guarded_home(tmp_path_factory: pytest.TempPathFactory, model_folder: Path) -> Path:
    folder = tmp_path_factory.mktemp("guarded") / "home"
    copy_model(model_folder, folder)
    return folder


@pytest.fixture(scope="module")
def keys(guarded_home: Path) -> Iterator[Keys]:
    catalog = build_catalog(settings_for(guarded_home))
    yield build_keys(catalog)
    catalog.close()


@pytest.fixture(scope="module")
def key_of(keys: Keys) -> dict[str, str]:
    """One key for each scope, one with all, and keys that are no good."""
    made = {scope.value: keys.create(scope.value, [scope], None)[1] for scope in Scope}
    made["all"] = keys.create("all", Scope, None)[1]
    revoked, made["revoked"] = keys.create("revoked", Scope, None)
    keys.revoke(revoked.id)
    made["expired"] = keys.create("expired", Scope, utc_now() + timedelta(milliseconds=1))[1]
    made["wrong"] = made["all"][:-4] + ("AAAA" if made["all"][-4:] != "AAAA" else "BBBB")
    made["unknown"] = MADE_UP
    made["malformed"] = "hg_0123456789ab_short"
    time.sleep(0.002)
    return made


@pytest.fixture(scope="module")
def guarded(guarded_home: Path, key_of: dict[str, str]) -> Iterator[TestClient]:
    """A client of a service that asks everybody for a key."""
    settings = settings_for(guarded_home, authentication="required")
    app = create_app(build_application(settings), settings)
    with TestClient(app, base_url="http://localhost", raise_server_exceptions=False) as client:
        client.put("/v1/items/a", files={"text": (None, "a red ball")}, headers=bearer(key_of["write"]))
        yield client


def send(client: TestClient, name: str, key: str | None) -> Any:
    """A request to a route that does nothing: ids of nobody, bodies that no call takes."""
    method, path = name.split(" ")
    for parameter, value in (("{id}", "nobody"), ("{name}", "nobody"), ("{version}", "1")):
        path = path.replace(parameter, value)
    body = {"json": {"nonsense": 1}} if method in {"POST", "PUT"} else {}
    return client.request(method, path, headers={} if key is None else bearer(key), **body)


# Every route


def test_every_route_of_the_app_declares_who_may_call_it() -> None:
    assert {name for name, needed in CALLS if needed is None} == PUBLIC_CALLS
    assert {needed for _, needed in CALLS} == {None, *Scope}
    app = assemble()
    others = [route for route in app.routes if not hasattr(route, "original_router")]
    assert [route.path for route in others if isinstance(route, Route)] == ["/openapi.json"]
    assert len(app.routes) == len(app_module._ROUTERS) + 1


@pytest.mark.parametrize(
    ("dependencies", "words"),
    [
        ([], "got 0 times"),
        ([PUBLIC, needs(Scope.WRITE)], "got 2 times"),
        ([Depends(lambda: None)], "got 0 times"),
    ],
)
def test_a_route_that_does_not_declare_once_cannot_be_served(
    dependencies: list[Any], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    router = APIRouter(dependencies=dependencies)
    router.add_api_route("/new", lambda: None)
    with pytest.raises(TypeError, match=rf"'GET'.* /new: .*{words}"):
        check_declared(router)
    monkeypatch.setattr(app_module, "_ROUTERS", (*app_module._ROUTERS, router))
    with pytest.raises(TypeError, match=words):
        assemble()


def test_a_public_call_with_a_body_asks_nobody() -> None:
    router = APIRouter(dependencies=[PUBLIC], route_class=StrictJsonRoute)

    @router.post("/echo")
    async def echo(body: dict[str, int]) -> dict[str, int]:
        return body

    app = FastAPI()
    app.include_router(router)
    with TestClient(app) as client:
        assert client.post("/echo", json={"a": 1}).json() == {"a": 1}


def test_a_route_of_another_kind_cannot_be_served() -> None:
    router = APIRouter(dependencies=[PUBLIC])
    router.add_route("/raw", lambda request: None)  # type: ignore[arg-type,return-value]
    with pytest.raises(TypeError, match="must be an APIRoute"):
        check_declared(router)


@pytest.mark.parametrize(("name", "needed"), CALLS, ids=[name for name, _ in CALLS])
def test_every_call_with_every_kind_of_key(
    guarded: TestClient, key_of: dict[str, str], name: str, needed: Scope | None
) -> None:
    if needed is None:
        for key in (None, "search", "unknown", "malformed"):
            asked = name == "POST /"  # a search on the page: it asks by itself
            status = send(guarded, name, None if key is None else key_of[key]).status_code
            assert (status in {401, 403}) is (asked and key != "search")
        return
    for bad in (None, "revoked", "expired", "wrong", "unknown", "malformed"):
        answer = send(guarded, name, None if bad is None else key_of[bad])
        codes = {None: "missing_key", "expired": "expired_key"}
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"].startswith('Bearer realm="hashguard"')
        assert problem_of(answer, 401)["code"] == codes.get(bad, "invalid_key")
    for holder in Scope:
        answer = send(guarded, name, key_of[holder])
        if holder is needed:
            assert answer.status_code in {200, 404, 415, 422}, answer.text
        else:
            assert problem_of(answer, 403)["code"] == "missing_scope"
            assert f'scope="{needed.value}"' in answer.headers["www-authenticate"]
    assert send(guarded, name, key_of["all"]).status_code == send(guarded, name, key_of[needed]).status_code


def test_nobody_without_a_key_makes_the_service_read_a_body(guarded: TestClient) -> None:
    async def never() -> dict[str, str]:
        raise AssertionError("the body was asked for")

    for path, kind in (
        ("/v1/search/text-to-image", "application/json"),
        ("/v1/search/text-to-image", "text/plain"),
        ("/v1/items/batch", "application/json"),
        ("/v1/search/image-to-text", "multipart/form-data; boundary=x"),
        ("/", "multipart/form-data; boundary=x"),
    ):
        request = scope(path, host="localhost", content_type=kind, content_length="100")
        answer = asyncio.run(
            ask(guarded.app, request | {"query_string": b"", "server": ("127.0.0.1", 1)}, never)
        )
        assert answer["status"] == 401


def test_keys_open_what_they_should(guarded: TestClient, key_of: dict[str, str]) -> None:
    search, admin = bearer(key_of["search"]), bearer(key_of["admin"])
    found = guarded.post("/v1/search/text-to-text", json={"text": "a red ball"}, headers=search)
    assert found.json()["hits"][0]["id"] == "a"
    assert guarded.get("/v1/items/a", headers=search).json()["text"] == "a red ball"
    assert guarded.get("/v1/admin/generations", headers=admin).json()["generations"][0]["live"] is True
    accepted = guarded.post(
        "/v1/search/text-to-text",
        json={"text": "x"},
        headers={"Authorization": f"bEaReR   {key_of['search']}"},
    )
    assert accepted.status_code == 200


# Headers


HEADERS = st.one_of(
    st.binary(max_size=80),
    st.sampled_from(
        [b"Bearer", b"Bearer ", b"Basic dXNlcjpwYXNz", b"Bearer\t" + MADE_UP.encode(), b"Digest x=y"]
    ),
    st.binary(max_size=20).map(lambda tail: b"Bearer " + MADE_UP.encode() + tail),
    st.integers(1, 4).map(lambda n: b"BEARER" + b" " * n + MADE_UP.encode()),
)


@given(st.lists(HEADERS, min_size=1, max_size=3))
def test_a_hostile_header_is_a_good_key_or_a_401_that_repeats_nothing(values: list[bytes]) -> None:
    connection = {"type": "http", "headers": [(b"authorization", value) for value in values]}
    kind, _, rest = values[0].partition(b" ")
    good = len(values) == 1 and kind.lower() == b"bearer" and rest.strip(b" ") == MADE_UP.encode()
    if good:
        assert shown_key(connection) == read_key(MADE_UP)
        return
    with pytest.raises(Unauthorised) as error:
        shown_key(connection)
    assert (error.value.code, error.value.reason, error.value.key_id) == ("invalid_key", "malformed", None)
    assert error.value.detail == "The Authorization header must be, once, `Bearer` and an API key."


def test_two_headers_are_one_too_many_even_when_both_are_good(
    guarded: TestClient, key_of: dict[str, str]
) -> None:
    twice = [("Authorization", f"Bearer {key_of['all']}")] * 2
    assert problem_of(guarded.get("/v1/items", headers=twice), 401)["code"] == "invalid_key"


def test_a_key_anywhere_else_is_no_key(guarded: TestClient, key_of: dict[str, str]) -> None:
    key = key_of["all"]
    for given_key in (
        {"params": {"api_key": key, "access_token": key}},
        {"headers": {"X-API-Key": key}},
        {"headers": {"Cookie": f"Authorization=Bearer {key}"}},
    ):
        assert problem_of(guarded.get("/v1/items", **given_key), 401)["code"] == "missing_key"  # type: ignore[arg-type]


# Who is asked


@pytest.mark.parametrize(
    ("host", "loopback"),
    [("127.0.0.1", True), ("127.9.9.9", True), ("::1", True), ("[::1]", True), ("LocalHost", True),
     ("0.0.0.0", False), ("::", False), ("192.168.1.2", False), ("example.org", False), ("", False)],
)  # fmt: skip
def test_which_addresses_only_this_machine_reaches(host: str, loopback: bool) -> None:
    assert is_loopback(host) is loopback
    assert asks_for_keys(Settings(host=host)) is not loopback


@pytest.mark.parametrize(
    ("settings", "asks"),
    [
        ({}, False),
        ({"authentication": "required"}, True),
        ({"authentication": "off", "host": "0.0.0.0"}, False),
        ({"allow_unauthenticated": True, "host": "0.0.0.0"}, False),
        ({"allowed_hosts": "localhost, 127.0.0.1,[::1]"}, False),
        ({"allowed_hosts": "images.example.org"}, True),
        ({"allowed_hosts": "*"}, True),
        ({"allowed_hosts": "images.example.org", "authentication": "off"}, False),
    ],
)
def test_who_is_asked_for_a_key(settings: dict[str, Any], asks: bool) -> None:
    assert asks_for_keys(Settings(**settings)) is asks


@pytest.mark.parametrize(
    ("server", "headers", "open_to_all"),
    [
        (("127.0.0.1", 8000), {}, True),
        (("::1", 8000), {}, True),
        (("192.168.1.2", 8000), {}, False),
        (("/run/hashguard.sock", None), {}, False),
        (None, {}, False),
        (("127.0.0.1", 8000), {"host": "evil.example"}, True),  # the guard's business
        *[(("127.0.0.1", 8000), {name: "127.0.0.1"}, False)
          for name in ("forwarded", "via", "X_Forwarded_For", "x_forwarded_host", "x_real_ip")],
    ],
)  # fmt: skip
def test_the_connection_decides_and_headers_only_take_away(
    server: Any, headers: dict[str, str], open_to_all: bool
) -> None:
    connection = scope(**headers) | {"server": server}
    assert lets_in_without_key(Settings(), connection) is open_to_all
    assert lets_in_without_key(Settings(authentication="required"), connection) is False
    assert lets_in_without_key(Settings(authentication="off"), connection) is True


def test_a_server_that_was_bound_elsewhere_than_its_settings_say_asks(client: TestClient) -> None:
    """`uvicorn --factory service.main:create --host 0.0.0.0`: the settings still say 127.0.0.1."""
    elsewhere = client.get("http://192.0.2.7:8000/v1/items", headers={"Host": "localhost"})
    assert problem_of(elsewhere, 401)["code"] == "missing_key"
    assert client.get("/v1/items").status_code == 200
    proxied = client.get("/v1/items", headers={"X-Forwarded-For": "127.0.0.1"})
    assert problem_of(proxied, 401)["code"] == "missing_key"


def test_who_shows_a_key_is_held_to_it_on_loopback_too(client: TestClient) -> None:
    assert problem_of(client.get("/v1/items", headers=bearer(MADE_UP)), 401)["code"] == "invalid_key"
    assert problem_of(client.get("/v1/items", headers={"Authorization": "Basic eA=="}), 401)
    keys = Keys(client.app.state.context.application.catalog.keys, utc_now)  # type: ignore[attr-defined]
    key, text = keys.create("reader", [Scope.SEARCH], None)
    time.sleep(0.11)
    assert client.get("/v1/items", headers=bearer(text)).status_code == 200
    assert problem_of(client.delete("/v1/items/nobody", headers=bearer(text)), 403)
    keys.revoke(key.id)


def test_nobody_is_asked_when_the_operator_says_so(home: Path) -> None:
    settings = settings_for(home, host="0.0.0.0", allow_unauthenticated=True)
    app = create_app(build_application(settings), settings)
    with TestClient(app, base_url="http://192.0.2.7") as client:
        for headers in ({}, {"Authorization": "Basic eA=="}, {"X-Forwarded-For": "1.2.3.4"}):
            assert client.get("/v1/items", headers=headers).status_code == 200


# The page


def test_the_page_says_how_to_give_a_key(guarded: TestClient, key_of: dict[str, str]) -> None:
    bare = page_of(guarded.get("/"))
    assert "Searches need an API key here" in bare.words
    assert "Authorization: Bearer KEY" in bare.words
    answers = [
        guarded.get("/?q=ball"),
        guarded.get("/?item=a"),
        guarded.post("/", files={"image": ("x", picture(1))}),
    ]
    for answer in answers:
        page = page_of(answer, 401)
        assert answer.headers["www-authenticate"] == 'Bearer realm="hashguard"'
        assert "That did not work" in page.words
        assert "Authorization: Bearer KEY" in page.words
        assert "a red ball" not in page.words
    lacking = page_of(guarded.get("/?q=ball", headers=bearer(key_of["write"])), 403)
    assert "needs a key with the scope" in lacking.words
    assert "Searches need an API key here" not in lacking.words


def test_the_page_on_this_machine_says_nothing_of_keys(client: TestClient) -> None:
    assert "API key" not in page_of(client.get("/")).words


def test_the_reference_names_the_scope_of_each_call(guarded: TestClient) -> None:
    words = page_of(guarded.get("/docs")).words
    for scope_words in ("scope search", "scope write", "scope admin", "public"):
        assert scope_words in words


def test_a_key_with_search_finds_on_the_page(guarded: TestClient, key_of: dict[str, str]) -> None:
    headers = bearer(key_of["search"])
    assert "hits for" in page_of(guarded.get("/?q=ball&k=5", headers=headers)).words
    posted = guarded.post("/", files={"image": ("x", picture(1))}, data={"k": "1"}, headers=headers)
    assert "1 hit for your image" in page_of(posted).words


# Counts, logs, trouble


def refusals(client: TestClient) -> dict[str, float]:
    lines = [
        line
        for line in client.get("/metrics").text.splitlines()
        if line.startswith("hashguard_access_refused_total")
    ]
    return {line.split('"')[1]: float(line.rpartition(" ")[2]) for line in lines}


def test_refusals_are_counted_by_reason(guarded: TestClient, key_of: dict[str, str]) -> None:
    before = refusals(guarded)
    shown = {
        "missing": None,
        "malformed": "malformed",
        "unknown": "unknown",
        "mismatch": "wrong",
        "expired": "expired",
    }
    for key in shown.values():
        guarded.get("/v1/items", headers={} if key is None else bearer(key_of[key]))
    guarded.get("/v1/items", headers=bearer(key_of["admin"]))
    guarded.post("/v1/search/text-to-text", json={}, headers=bearer(key_of["admin"]))
    after = refusals(guarded)
    assert {reason: after[reason] - before.get(reason, 0) for reason in after} == dict.fromkeys(shown, 1) | {
        "scope": 2
    }


def test_the_log_names_keys_by_their_id_and_never_holds_a_secret(
    guarded: TestClient, key_of: dict[str, str]
) -> None:
    with capture_logs() as lines:
        for key in key_of.values():
            guarded.get("/v1/items", headers=bearer(key))
        guarded.get("/v1/items")
        guarded.get("/livez")
    requests = [line for line in lines if line["event"] == "request"]
    seen = dict(zip([*key_of, None], requests, strict=False))
    for name, reason in {
        "search": None, "all": None, "admin": "scope", "revoked": "unknown", "expired": "expired",
        "wrong": "mismatch", "unknown": "unknown", "malformed": "malformed", None: "missing",
    }.items():  # fmt: skip
        line = seen[name]
        assert line.get("refused") == reason
        assert line["log_level"] == ("info" if reason is None else "warning")
        well_formed = name not in {None, "malformed"}
        assert line["key"] == (key_of[name][3:15] if name is not None and well_formed else None)
    assert not any("key" in line for line in requests if line["path"] == "/livez")
    written = json.dumps(lines, default=str)
    assert not any(key[16:] in written for key in key_of.values())


def test_keys_that_cannot_be_read_let_nobody_in(
    guarded: TestClient, key_of: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: Keyring) -> None:
        raise Unavailable("the catalog cannot be reached")

    monkeypatch.setattr(Keyring, "due_in", lambda self, shown, arrived: 0.0)
    monkeypatch.setattr(Keyring, "read", broken)
    refused = guarded.get("/v1/items", headers=bearer(key_of["all"]))
    assert problem_of(refused, 503)["code"] == "unavailable"
    assert guarded.get("/livez").status_code == 200


def test_a_search_without_a_key_is_still_a_search_here(client: TestClient) -> None:
    assert text_search(client, text="a", k=1).status_code == 200
