"""Worker processes: started by a service, and found dead by whoever comes after a crash.

The log file of a worker is locked for as long as the worker lives. One that is killed frees the lock, since
the kernel does: it is known at once, and not after a time of silence, that nobody works on its job. The
lock belongs to the open file, so a process that writes its output there holds it from before its first
instruction, also when its parent is gone.

A lock says nothing across machines that share a folder: the first line names the machine, and nothing is
known of a worker on another one.
"""

from __future__ import annotations

import fcntl
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import service
from service.application.life_cycle_ports import Launcher
from service.settings import Settings


@dataclass(frozen=True)
class ProcessWorker:
    """A reindex worker in a process of its own."""

    process: subprocess.Popen[bytes]

    def poll(self) -> int | None:
        """Exit status, None while it runs."""
        return self.process.poll()

    def terminate(self) -> None:
        """Ask it to stop at the next batch; a worker that does not within its time is killed."""
        self.process.terminate()
        try:
            self.process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def worker_launcher(settings: Settings) -> Launcher:
    """Starts `python -m service.worker` with these settings; its output goes to the logs folder."""

    def launch(job_id: str) -> ProcessWorker:
        environment = settings.child_environment()
        root = str(Path(service.__file__).parent.parent)
        path = [root, *filter(None, [environment.get("PYTHONPATH")])]
        environment["PYTHONPATH"] = os.pathsep.join(path)
        command = [sys.executable, "-m", "service.worker", job_id]
        with open_log(settings.logs_folder, job_id) as log:
            return ProcessWorker(
                subprocess.Popen(  # noqa: S603 - this very program and the id of a job
                    command,
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,  # Ctrl-C ends the service, which then ends its workers
                )
            )

    return launch


@contextmanager
def open_log(folder: Path, job_id: str) -> Iterator[BinaryIO]:
    """The log of a job's worker, open for appending and locked. Raises BlockingIOError when it is taken."""
    folder.mkdir(parents=True, exist_ok=True)
    with _path(folder, job_id).open("ab") as log:
        fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
        log.write(_first_line())
        log.flush()
        yield log


def worker_is_dead(folder: Path, job_id: str) -> bool:
    """True when a worker of this machine had the job and is dead; False when it lives or is not known."""
    try:
        with _path(folder, job_id).open("rb") as log:
            if log.readline(1000) != _first_line():
                return False
            fcntl.flock(log, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except (FileNotFoundError, BlockingIOError):
        return False
    return True


def _path(folder: Path, job_id: str) -> Path:
    return folder / f"reindex-{job_id}.log"


def _first_line() -> bytes:
    return f"worker on {socket.gethostname()}\n".encode()
