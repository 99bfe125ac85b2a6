"""A real service process with fake models and real workers: `python fake_service.py`, settings from the
environment. It prints its address.

A file `kill` in the home names a moment at which a process that starts then kills itself: service or worker,
at once, as `kill -9` does.
"""

from __future__ import annotations

import os
import signal
import sys
from contextlib import suppress

from fake_homes import process_launcher
from fake_models import FakeShelf

import index.store
import service.main
from service.adapters import DiskGenerations
from service.application.acceptance import Acceptance
from service.application.serving import ServingState
from service.catalog.codes import SqlCodes
from service.catalog.generations import SqlGenerations
from service.catalog.jobs import SqlJobs
from service.settings import Settings
from service.wiring import build_application
from service.worker import main as run_worker

MOMENTS = {
    "worker while it encodes": (SqlCodes, "add", "after"),
    "worker before it builds": (DiskGenerations, "new_index", "before"),
    "worker with half a generation": (index.store, "write_json", "before"),
    "worker before it validates": (Acceptance, "examine", "before"),
    "worker before the catalog knows": (SqlGenerations, "add", "before"),
    "worker before the alias moves": (SqlJobs, "swap", "before"),
    "worker when the alias has moved": (SqlJobs, "swap", "after"),
    "service before it serves the new one": (ServingState, "swap", "before"),
}


def arrange_death(moment: str) -> None:
    """Kill this process before or after the call of the moment; a service's first one is its start."""
    owner, name, when = MOMENTS[moment]
    original = getattr(owner, name)
    spared = [1] if owner is ServingState else []

    def deadly(*arguments, **more):
        if spared:
            spared.pop()
            return original(*arguments, **more)
        if when == "after":
            original(*arguments, **more)
        return os.kill(os.getpid(), signal.SIGKILL)

    setattr(owner, name, deadly)


def obey(settings: Settings, role: str) -> None:
    """Arrange this process's death when the home's file `kill` names a moment of its role."""
    order = settings.home / "kill"
    if order.is_file() and order.read_text().startswith(role):
        arrange_death(order.read_text())


def be_worker(arguments: list[str]) -> int:
    """Run the job of the arguments, settings from the environment."""
    obey(Settings(), "worker")
    return run_worker(arguments, make_shelf=lambda given: FakeShelf(given.models_folder))


def main() -> int:
    """Serve; with a job's id as the only argument, be its worker."""
    if len(sys.argv) > 1:
        return be_worker(sys.argv[1:])
    settings = Settings()
    obey(settings, "service")
    service.main.build_application = lambda given: build_application(
        given, FakeShelf(given.models_folder), process_launcher(given, "fake_service.py")
    )
    bound = service.main.bind(settings.host, settings.port)
    with suppress(KeyboardInterrupt):
        service.main.serve(settings, bound, lambda: print("port", bound.getsockname()[1], flush=True))
    return 0


if __name__ == "__main__":
    sys.exit(main())
