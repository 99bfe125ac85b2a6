"""The life of a real server: bounds, drain, the page in a browser, and the client library against it."""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import types
from pathlib import Path
from typing import Any

import h11
import httpx
import pytest
import structlog
from PIL import Image
from starlette.testclient import TestClient
from tiny import ROOT, picture, settings_for
from uvicorn.config import Config
from uvicorn.server import ServerState

from service.api import protocol
from service.api.middleware.admission import Gate
from service.api.protocol import ProblemProtocol
from service.main import DrainingServer, bind, create, serve
from service.settings import Settings

sys.path.insert(0, str(ROOT / "clients" / "python"))

from hashguard_client.client import Client
from hashguard_client.errors import ServiceProblem

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
REQUIRED = os.environ.get("HASHGUARD_REQUIRE_SYSTEM") == "1"


def ask(client: httpx.Client, answers: list[Any]) -> threading.Thread:
    """A search that is under way: the model waits a second for company."""
    thread = threading.Thread(
        target=lambda: answers.append(client.post("/v1/search/text-to-text", json={"text": "a"}))
    )
    thread.start()
    return thread


def test_a_server_refuses_what_is_too_much_drains_on_a_signal_and_ends(home: Path) -> None:
    """In this process: `serve` in the main thread, its clients and the signal from another one."""
    settings = settings_for(home, model_batch_delay_ms=1000.0, max_requests_in_flight=2, port=0)
    bound = bind(settings.host, settings.port)
    address = f"http://127.0.0.1:{bound.getsockname()[1]}"
    answers: list[Any] = []
    late: list[Any] = []
    seen: dict[str, httpx.Response] = {}
    raw: list[bytes] = []

    def visit() -> None:
        with httpx.Client(base_url=address, timeout=30.0) as client, httpx.Client(base_url=address) as other:
            threads = [ask(client, answers) for _ in range(5)]
            time.sleep(0.3)
            seen["live"] = client.get("/livez")
            for thread in threads:
                thread.join()
            seen["metrics"] = client.get("/metrics")
            with socket.create_connection(("127.0.0.1", bound.getsockname()[1])) as connection:
                connection.sendall(b"GARBAGE\r\n\r\n")
                raw.append(connection.recv(65_536))
                connection.sendall(b"more of it")
            other.get("/livez")
            thread = ask(client, late)
            time.sleep(0.3)
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.1)
            seen["ready"] = other.get("/readyz")
            seen["refused"] = other.get("/v1/items")
            thread.join()

    visitor = threading.Thread(target=visit)
    serve(settings, bound, visitor.start)
    visitor.join()
    statuses = [answer.status_code for answer in answers]
    assert set(statuses) == {200, 503}
    assert statuses.count(200) >= 2
    assert seen["live"].status_code == 200
    assert 'hashguard_rejected_total{reason="overloaded"}' in seen["metrics"].text
    assert b"application/problem+json" in raw[0]
    assert (seen["ready"].status_code, seen["ready"].json()["ready"]) == (503, False)
    assert "draining" in seen["ready"].json()["reasons"]
    assert (seen["refused"].status_code, seen["refused"].json()["code"]) == (503, "draining")
    assert int(seen["refused"].headers["retry-after"]) > 0
    assert late[0].status_code == 200


def test_a_second_signal_ends_at_once() -> None:
    context = types.SimpleNamespace(gate=Gate(1), settings=Settings())

    async def story() -> None:
        server = DrainingServer(Config(lambda: None, log_config=None), context, lambda: None)  # type: ignore[arg-type]
        server.handle_exit(signal.SIGTERM, None)
        assert (server.should_exit, server.force_exit) == (
            True,
            False,
        )  # it had not started: nothing to drain
        server = DrainingServer(Config(lambda: None, log_config=None), context, lambda: None)  # type: ignore[arg-type]
        server.started = True
        server.handle_exit(signal.SIGINT, None)
        assert not server.should_exit
        server.handle_exit(signal.SIGINT, None)
        assert (server.should_exit, server.force_exit) == (True, True)

    asyncio.run(story())


def test_an_address_that_is_not_ours_cannot_be_bound() -> None:
    with pytest.raises(OSError, match="assign"):
        bind("192.0.2.1", 0)


def test_the_factory_reads_the_environment(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HASHGUARD_HOME", str(home))
    monkeypatch.setenv("HASHGUARD_DEVICE", "cpu")
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        with TestClient(create(), base_url="http://localhost") as client:
            assert client.get("/readyz").json()["model_version"] == "tiny/1"
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
        structlog.reset_defaults()


class Silence:
    """A transport that remembers what was written."""

    def __init__(self) -> None:
        self.written = b""
        self.closed = False

    def get_extra_info(self, name: str) -> Any:
        return {"peername": ("127.0.0.1", 1), "sockname": ("127.0.0.1", 2)}.get(name)

    def write(self, data: bytes) -> None:
        self.written += data

    def close(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed

    def __getattr__(self, name: str) -> Any:
        return lambda *_: None


def connection() -> tuple[ProblemProtocol, Silence]:
    config = Config(lambda: None, log_config=None)
    config.load()
    made, transport = ProblemProtocol(config, ServerState(), {}), Silence()
    made.connection_made(transport)  # type: ignore[arg-type]
    return made, transport


def test_a_client_that_never_sends_its_request_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "HEAD_TIMEOUT_S", 0.05)

    async def story() -> None:
        made, transport = connection()
        made.data_received(b"GET / HT")
        await asyncio.sleep(0.1)
        assert transport.closed
        made.connection_lost(None)
        gone, transport = connection()
        gone.connection_lost(None)
        served, open_transport = connection()
        served.cycle = types.SimpleNamespace(response_complete=True)  # type: ignore[assignment]
        await asyncio.sleep(0.1)
        assert (transport.closed, open_transport.closed) == (True, False)

    asyncio.run(story())


def test_bytes_after_an_answer_has_begun_close_the_connection_without_a_second_answer() -> None:
    async def story() -> None:
        made, transport = connection()
        made.conn.receive_data(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
        made.conn.next_event()
        made.conn.send(h11.Response(status_code=200, headers=[(b"content-length", b"2")]))
        made.send_400_response("no")
        assert (transport.closed, transport.written) == (True, b"")
        made.connection_lost(None)

    asyncio.run(story())


@pytest.mark.system
def test_the_page_works_in_a_browser(server: httpx.Client, tmp_path: Path) -> None:
    if CHROMIUM is None:
        if REQUIRED:
            pytest.fail("Chromium is not installed, and HASHGUARD_REQUIRE_SYSTEM=1 wants it")
        pytest.skip("Chromium is not installed")
    shot = tmp_path / "page.png"
    address = f"{server.base_url}/?q=two+red+circles"
    browse(CHROMIUM, tmp_path, f"--screenshot={shot}", address)
    pixels = Image.open(shot).convert("RGB")
    assert pixels.size == (1000, 900)
    assert len(pixels.getcolors(1_000_000) or ()) > 1000  # the pictures are there, not only words
    assert "5 hits for “two red circles”" in browse(CHROMIUM, tmp_path, "--dump-dom", address)


def test_the_client_library_speaks_to_a_real_server(server: httpx.Client) -> None:
    with Client(str(server.base_url)) as client:
        assert client.ready()["ready"] is True
        client.put_item("by-client", image=picture(70), text="a striped cat", metadata={"tags": ["x"]})
        made = client.create_item(text="a nameless cat")
        assert client.text_to_text("a striped cat", k=1)["hits"][0]["id"] == "by-client"
        wanted = {"must": [{"key": "tags", "eq": "x"}]}
        found = client.image_to_image(picture(70), k=5, filter=wanted, max_distance=0)
        assert [hit["id"] for hit in found["hits"]] == ["by-client"]
        assert client.like_item("by-client", "text", "text", k=1)["hits"]
        assert client.encode_image(picture(70))["bits"] == client.encode_text("a")["bits"]
        results = client.search_batch([{"to": "text", "image": picture(70)}, {"to": "text"}])
        assert [entry["status"] for entry in results] == [200, 422]
        stored = client.put_items([{"text": "batch"}, {"id": "a b", "text": "x"}])
        assert [entry["status"] for entry in stored] == [201, 422]
        ids = [item["id"] for item in client.items(page_size=3)]
        assert len(ids) == len(set(ids)) == 8
        assert client.image("by-client") == picture(70)
        assert len(client.image("by-client", size=32)) > 0
        for item_id in ("by-client", made["id"], stored[0]["id"]):
            client.delete_item(item_id)
        with pytest.raises(ServiceProblem, match="404 not_found"):
            client.item("by-client")


def browse(chromium: str, folder: Path, *options: str) -> str:
    """Run headless Chromium once; what it printed."""
    quiet = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-sync",
    ]
    quiet += ["--disable-background-networking", "--disable-component-update", "--window-size=1000,900"]
    command = [chromium, *quiet, f"--user-data-dir={folder / 'profile'}", *options]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout
