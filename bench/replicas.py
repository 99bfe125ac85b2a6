"""The profile `scale` of the compose file as processes on loopback: two replicas, and nginx before them.

The replicas are `hashguard serve` on one home folder, one catalog and one engine; nginx runs on
docker/nginx/nginx.conf with other ports. PostgreSQL and the engine are the caller's. Whatever is started here
ends with the context manager that started it.
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx

ROOT = Path(__file__).resolve().parents[1]
PROXY_FILE = ROOT / "docker" / "nginx" / "nginx.conf"
NAMES = ("replica-a", "replica-b")
"""The replicas as the files of docker/ call them."""

COMMAND = [sys.executable, "-m", "service.cli"]
READY_S = 300.0
END_S = 60.0


class NotStarted(RuntimeError):
    """A process that the topology needs is not there, ended, or did not become ready."""


def nginx_path() -> str | None:
    """Where nginx is; None when it is not installed."""
    return shutil.which("nginx", path=os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin"]))


def shared_settings(
    folder: Path, catalog_url: str, engine: str, engine_url: str, **more: str
) -> dict[str, str]:
    """The environment that makes processes replicas of one service; URLs go by files below `folder`."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("HASHGUARD_")}
    settings = {"HOME": str(folder / "home"), "INDEX_BACKEND": engine, "AUTHENTICATION": "required"}
    for name, url in (("CATALOG_URL", catalog_url), ("INDEX_URL", engine_url)):
        path = folder / name.lower()
        path.touch(mode=0o600)
        path.write_text(url, encoding="utf-8")
        settings[f"{name}_FILE"] = str(path)
    settings |= {"DEVICE": "cpu"} | more
    mine = {f"HASHGUARD_{name}": value for name, value in settings.items()}
    return inherited | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"} | mine


def command(environment: Mapping[str, str], *arguments: object) -> str:
    """Run `hashguard` to its end; what it printed. Raises NotStarted with its errors when it fails."""
    words = [*COMMAND, *map(str, arguments)]
    done = subprocess.run(words, env=dict(environment), capture_output=True, text=True, check=False)
    if done.returncode:
        raise NotStarted(f"hashguard {arguments[0]} ended with {done.returncode}: {done.stderr[-2000:]}")
    return done.stdout


@dataclass
class Replica:
    """One `hashguard serve`, which can be killed and started again on its port."""

    name: str
    port: int
    folder: Path
    environment: Mapping[str, str]
    process: subprocess.Popen[bytes] | None = field(default=None, init=False)

    @property
    def url(self) -> str:
        """Its own address, past nginx."""
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start the process; `await_ready` waits for it."""
        with (self.folder / f"{self.name}.log").open("ab") as log:
            self.process = subprocess.Popen(
                [*COMMAND, "serve", "--port", str(self.port)],
                env=dict(self.environment),
                stdout=log,
                stderr=log,
            )

    def await_ready(self) -> float:
        """Seconds until `/readyz` says 200; raises NotStarted when the process ends or takes READY_S."""
        begun = time.monotonic()
        while time.monotonic() - begun < READY_S:
            if self.process is None or self.process.poll() is not None:
                raise NotStarted(f"{self.name} ended: {self.tail()}")
            try:
                if httpx.get(f"{self.url}/readyz", timeout=5.0).status_code == httpx.codes.OK:
                    return time.monotonic() - begun
            except httpx.TransportError:
                pass
            time.sleep(0.05)
        raise NotStarted(f"{self.name} is not ready after {READY_S:g} s: {self.tail()}")

    def tail(self) -> str:
        """The end of its log."""
        return (self.folder / f"{self.name}.log").read_text(encoding="utf-8", errors="replace")[-2000:]

    def end(self, number: signal.Signals) -> int:
        """Send a signal, wait for the end, and return the status; kills what does not end within END_S."""
        if self.process is None:
            return 0
        self.process.send_signal(number)
        try:
            return self.process.wait(timeout=END_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise NotStarted(f"{self.name} went on for {END_S:g} s after {number.name}") from None


@dataclass(frozen=True)
class Stack:
    """What runs: the address that clients use, and the replicas behind it."""

    url: str
    replicas: tuple[Replica, ...]


@contextmanager
def running(folder: Path, environment: Mapping[str, str]) -> Iterator[Stack]:
    """Two ready replicas behind nginx; raises NotStarted when one of the three does not start."""
    front, *ports = free_ports(1 + len(NAMES))
    replicas = tuple(
        Replica(name, port, folder, environment) for name, port in zip(NAMES, ports, strict=True)
    )
    with ExitStack() as stack:
        for replica in replicas:
            stack.callback(replica.end, signal.SIGKILL)
            replica.start()
        for replica in replicas:
            replica.await_ready()
        stack.enter_context(_proxy(folder, front, replicas))
        yield Stack(f"http://127.0.0.1:{front}", replicas)


def proxy_text(folder: Path, port: int, replicas: tuple[Replica, ...]) -> str:
    """docker/nginx/nginx.conf on these ports; raises NotStarted when it no longer holds what is replaced."""
    swaps = {"listen 8080;": f"listen 127.0.0.1:{port};", "/tmp/": f"{folder}/"}
    swaps |= {f"{replica.name}:8000": f"127.0.0.1:{replica.port}" for replica in replicas}
    text = PROXY_FILE.read_text(encoding="utf-8")
    for old, new in swaps.items():
        if old not in text:
            raise NotStarted(f"{PROXY_FILE.name}: wanted {old!r} in it")
        text = text.replace(old, new)
    return text


@contextmanager
def _proxy(folder: Path, port: int, replicas: tuple[Replica, ...]) -> Iterator[None]:
    program = nginx_path()
    if program is None:
        raise NotStarted("there is no nginx")
    path, log = folder / "nginx.conf", folder / "nginx.log"
    path.write_text(proxy_text(folder, port, replicas), encoding="utf-8")
    # As root its workers would become another user, who may not enter the folder.
    extra = "daemon off;" + (" user root;" if os.geteuid() == 0 else "")
    with log.open("ab") as sink:
        process = subprocess.Popen(
            [program, "-p", str(folder), "-c", str(path), "-e", "stderr", "-g", extra], stderr=sink
        )
    try:
        for _ in range(200):
            if process.poll() is not None:
                raise NotStarted(f"nginx ended: {log.read_text(encoding='utf-8')[-2000:]}")
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.05)
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def free_ports(count: int) -> list[int]:
    """Ports of loopback that nobody uses now."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()
