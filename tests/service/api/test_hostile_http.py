"""Bad input over HTTP on a running server: a 4xx problem document within a second, the server unharmed."""

from __future__ import annotations

import io
import json
import socket
import struct
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from PIL import Image
from tiny import TEXTS, picture

Bad = Callable[[httpx.Client], httpx.Response]
SEARCH = "/v1/search/image-to-text"
MOST_S = 1.0


def bomb() -> bytes:
    """A PNG of 20000x20000 grey pixels in some 50 kB."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    packer = zlib.compressobj(9)
    rows = b"".join(packer.compress(b"\0" * 20_001 * 100) for _ in range(200)) + packer.flush()
    header = struct.pack(">IIBBBBB", 20_000, 20_000, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def animation() -> bytes:
    out = io.BytesIO()
    frames = [Image.new("RGB", (20, 20), colour) for colour in ("red", "blue")]
    frames[0].save(out, "GIF", save_all=True, append_images=frames[1:])
    return out.getvalue()


def upload(data: bytes, name: str = "x.jpg", **fields: str) -> Bad:
    return lambda client: client.post(SEARCH, files={"image": (name, data)}, data=fields)


def text(**body: Any) -> Bad:
    return lambda client: client.post("/v1/search/text-to-image", json=body)


def raw(method: str, path: str, **request: Any) -> Bad:
    return lambda client: client.request(method, path, **request)


JSON = {"Content-Type": "application/json"}
SVG = b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>'
FORM = {"text": (None, "x")}
BAD: dict[str, tuple[Bad, set[int]]] = {
    "an empty file": (upload(b""), {422}),
    "a text file named .jpg": (upload(b"this is not a picture\n" * 10), {415}),
    "a truncated JPEG": (upload(picture(1, 200, "JPEG")[:1000]), {422}),
    "a small PNG of 20000x20000": (upload(bomb(), "x.png"), {413}),
    "an animated GIF": (upload(animation(), "x.gif"), {415}),
    "an SVG": (upload(SVG, "x.svg"), {415}),
    "a JPEG of a head only": (upload(b"\xff\xd8\xff"), {415, 422}),
    "a zero-byte text": (text(text=""), {422}),
    "a blank text": (text(text=" \t\n"), {422}),
    "a text of 1 MB": (text(text="word " * 200_000), {413, 422}),
    "a text field of 1 MB": (raw("PUT", "/v1/items/x", files={"text": (None, "a" * 1_000_000)}), {413, 422}),
    "k = 0": (text(text="a", k=0), {422}),
    "k = -1": (text(text="a", k=-1), {422}),
    "k = 10^9": (text(text="a", k=10**9), {422}),
    "k = 10 as a text": (text(text="a", k="10"), {422}),
    "k = NaN": (
        raw("POST", "/v1/search/text-to-text", content=b'{"text":"a","k":NaN}', headers=JSON),
        {400},
    ),
    "k = 0 in a form": (upload(picture(), k="0"), {422}),
    "an unknown field": (text(text="a", colour="red"), {422}),
    "an unknown form field": (upload(picture(), colour="red"), {422}),
    "a wrong content type": (raw("POST", SEARCH, content=b"{}", headers=JSON), {415}),
    "JSON as text": (raw("POST", "/v1/search/text-to-text", content=b'{"text":"a"}'), {415}),
    "an id with /": (raw("PUT", "/v1/items/a/b", files=FORM), {404}),
    "an id with an escaped /": (raw("PUT", "/v1/items/a%2Fb", files=FORM), {400}),
    "an id of ..": (raw("PUT", "/v1/items/%2E%2E", files=FORM), {422}),
    "an id with ../": (raw("PUT", "/v1/items/..%2F..%2Fetc%2Fpasswd", files=FORM), {400}),
    "an id with NUL": (raw("PUT", "/v1/items/a%00b", files=FORM), {400}),
    "an id in a form with NUL": (raw("POST", "/v1/items", files=FORM | {"id": (None, "a\0b")}), {422}),
    "an id in a form with ..": (raw("POST", "/v1/items", files=FORM | {"id": (None, "..")}), {422}),
    "no boundary": (
        raw("POST", SEARCH, content=b"--x\r\n\r\n--x--", headers={"Content-Type": "multipart/form-data"}),
        {400},
    ),
    "too many parts": (raw("POST", SEARCH, files=[(f"f{n}", (None, "1")) for n in range(2000)]), {400}),
    "deep JSON": (
        raw("POST", "/v1/search/text-to-text", content=b"[" * 500_000, headers=JSON),
        {400},
    ),
    "an unknown route": (raw("GET", "/v1/nothing"), {404}),
    "a wrong method": (raw("DELETE", "/v1/search/item"), {405}),
    "an invented method": (raw("BREW", "/v1/items"), {405}),
    "a foreign host": (raw("GET", "/v1/items", headers={"Host": "evil.example"}), {400}),
}  # fmt: skip


def check_problem(response: httpx.Response, statuses: set[int]) -> None:
    assert response.status_code in statuses, response.text
    assert response.headers["content-type"] == "application/problem+json"
    assert {"type", "title", "status", "detail", "code", "request_id"} <= set(response.json())
    assert "Traceback" not in response.text


def check_unharmed(client: httpx.Client) -> None:
    assert client.get("/readyz").status_code == 200
    hits = client.post("/v1/search/text-to-text", json={"text": TEXTS[0], "k": 1}).json()["hits"]
    assert hits[0]["id"] == "pair-0"


@pytest.mark.parametrize("what", BAD)
def test_bad_input_is_a_problem_within_a_second_and_the_server_is_unharmed(
    server: httpx.Client, what: str
) -> None:
    send, statuses = BAD[what]
    started = time.monotonic()
    response = send(server)
    took = time.monotonic() - started
    check_problem(response, statuses)
    assert took < MOST_S
    check_unharmed(server)


@pytest.mark.parametrize("declared", [True, False], ids=["with a length", "in chunks"])
def test_a_body_of_300_mb_is_refused_without_being_read(server: httpx.Client, declared: bool) -> None:
    total = 300 * 1024 * 1024
    sent = 0

    def body() -> Iterator[bytes]:
        nonlocal sent
        while sent < total:
            sent += 1 << 20
            yield b"\0" * (1 << 20)

    headers = {"Content-Type": "image/png"} | ({"Content-Length": str(total)} if declared else {})
    started = time.monotonic()
    response = server.post(SEARCH, content=body(), headers=headers)
    took = time.monotonic() - started
    check_problem(response, {413})
    assert sent < total
    assert (
        took < 2 * MOST_S + 0.5
    )  # half a second of it is the server's patience with writers that do not read
    check_unharmed(server)


def exchange(client: httpx.Client, data: bytes, wait_s: float = 5.0) -> bytes:
    """Send bytes on a connection of its own; everything that comes back."""
    with socket.create_connection(
        (client.base_url.host, client.base_url.port or 80), timeout=wait_s
    ) as connection:
        connection.sendall(data)
        received = b""
        while piece := connection.recv(65_536):
            received += piece
        return received


@pytest.mark.parametrize(
    "data",
    [
        b"GARBAGE\r\n\r\n",
        b"GET / HTTP/9.9\r\nConnection: close\r\n\r\n",
        b"GET /\xff HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nX-Long: " + b"a" * 200_000 + b"\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabc",
        b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: -3\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"GET /%zz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
        b"GET /v1/items/%ff%fe HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
        b"GET /v1/items/../../etc/passwd HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
        b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n",
        b"POST /v1/items HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    ],
)
def test_bytes_that_are_no_good_request_are_answered_with_a_problem(
    server: httpx.Client, data: bytes
) -> None:
    head, _, body = exchange(server, data).partition(b"\r\n\r\n")
    status = int(head.split()[1])
    assert 400 <= status < 500
    assert b"application/problem+json" in head.lower()
    assert json.loads(body)["status"] == status
    check_unharmed(server)


def test_a_body_that_is_cut_off_harms_nobody(server: httpx.Client) -> None:
    head = b"POST /v1/search/text-to-text HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    with socket.create_connection(
        (server.base_url.host, server.base_url.port or 80), timeout=5
    ) as connection:
        connection.sendall(head + b"Content-Length: 100\r\n\r\n{")
    check_unharmed(server)


def test_many_bad_requests_at_once_leave_the_good_ones_served(server: httpx.Client) -> None:
    failures: list[Exception] = []

    def bad() -> None:
        try:
            with httpx.Client(base_url=server.base_url, timeout=30.0) as client:
                for send, statuses in list(BAD.values())[:8]:
                    check_problem(send(client), statuses)
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=bad) for _ in range(4)]
    for thread in threads:
        thread.start()
    check_unharmed(server)
    for thread in threads:
        thread.join()
    assert not failures
    check_unharmed(server)
