"""The reindex worker: `python -m service.worker JOB_ID`, started by the service with its own settings.

It runs one job and exits; what went wrong stands on the job. SIGTERM and SIGINT ask it to stop between
two batches. It is nice to the service that runs beside it.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType

from service.application.ports import ModelShelf
from service.application.types import JobPhase
from service.settings import Settings
from service.wiring import build_runner, open_parts

_NICENESS = 5


def main(
    arguments: Sequence[str] | None = None, make_shelf: Callable[[Settings], ModelShelf] | None = None
) -> int:
    """Run the job that the command line names; 0 when it was done, 1 otherwise."""
    parser = argparse.ArgumentParser(prog="python -m service.worker", description=__doc__)
    parser.add_argument("--home", type=Path, help="home folder (default: HASHGUARD_HOME)")
    parser.add_argument("job_id", help="the reindex job to run")
    given = parser.parse_args(arguments)
    settings = Settings() if given.home is None else Settings(home=given.home)
    stop = threading.Event()
    _stop_on_signals(stop)
    os.nice(_NICENESS)
    parts = open_parts(settings, None if make_shelf is None else make_shelf(settings))
    try:
        job = build_runner(parts).run(given.job_id, stop)
    finally:
        parts.close()
    return 0 if job.phase is JobPhase.DONE else 1


def _stop_on_signals(stop: threading.Event) -> None:
    def handle(_signal: int, _frame: FrameType | None) -> None:
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, handle)


if __name__ == "__main__":
    sys.exit(main())
