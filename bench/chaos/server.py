"""The real `hashguard serve` on a home folder, with its real workers, for somebody to kill.

The port stays the same over restarts. Everything that was started is gone when `close` returns.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import httpx

ROOT = Path(__file__).resolve().parents[2]
READY_S = 180


class Server:
    """One service process at a time; `start` and `kill` belong to one thread, `workers` to any.

    Service and workers have `threads` threads for their mathematics.
    """

    def __init__(self, home: Path, settings: dict[str, object], threads: int = 1) -> None:
        self.home = home.absolute()
        self._settings = settings
        self._threads = threads
        self._log = home.parent / "serve.log"
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"

    def start(self, keep: int) -> None:
        """Start a process that keeps so many generations; it is not ready yet."""
        mine = {"home": self.home, "device": "cpu", "keep_generations": keep} | self._settings
        environment = self.environment()
        environment |= {f"HASHGUARD_{name.upper()}": str(value) for name, value in mine.items()}
        command = [sys.executable, "-m", "service.cli", "serve", "--port", str(self.port)]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)

    def environment(self) -> dict[str, str]:
        """That of this process without its settings, for a child with as many threads."""
        inherited = {name: text for name, text in os.environ.items() if not name.startswith("HASHGUARD_")}
        threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(self._threads))
        return inherited | threads | {"PYTHONPATH": str(ROOT)}

    def wait_ready(self) -> float:
        """Wait until `/readyz` says 200; when that was. Raises RuntimeError when it does not."""
        until = time.monotonic() + READY_S
        while time.monotonic() < until:
            if self._process is None or self._process.poll() is not None:
                break
            with suppress(httpx.TransportError):
                if httpx.get(f"{self.url}/readyz", timeout=10).status_code == 200:
                    return time.monotonic()
            time.sleep(0.05)
        raise RuntimeError(f"the service is not ready: {self._log.read_text(errors='replace')[-2000:]}")

    def kill(self) -> None:
        """SIGKILL to the service; its workers live on."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def workers(self) -> list[int]:
        """Ids of the processes that work on reindexes of this home, whoever started them."""
        found = []
        for folder in Path("/proc").iterdir():
            if folder.name.isdigit():
                with suppress(OSError):
                    if b"service.worker" in (folder / "cmdline").read_bytes().split(b"\0") and (
                        f"HASHGUARD_HOME={self.home}".encode()
                        in (folder / "environ").read_bytes().split(b"\0")
                    ):
                        found.append(int(folder.name))
        return found

    def kill_workers(self) -> list[int]:
        """SIGKILL to the workers; the ids of those that were hit."""
        hit = []
        for pid in self.workers():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
                hit.append(pid)
        return hit

    def close(self) -> None:
        """End all processes of this home."""
        if self._process is not None:
            self._process.send_signal(signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout=30)
        self.kill()
        self.kill_workers()
