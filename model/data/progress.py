"""A progress bar on stderr for work that turns out to take more than a second."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from model.data.manifest import Progress as Report

_PATIENCE_S = 1.0
_BETWEEN_S = 0.1


@contextmanager
def progress_bar(what: str, *, quiet: bool = False) -> Iterator[Report]:
    """Gives a function to call with (done, in all; 0 for unknown).

    Nothing is shown in the first second, when `quiet`, or when stderr is no terminal.
    """
    console = Console(stderr=True)
    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    bar = Progress(*columns, console=console, transient=True, disable=quiet or not console.is_terminal)
    task = bar.add_task(what)
    shown = time.monotonic() + _PATIENCE_S - _BETWEEN_S

    def report(done: int, total: int) -> None:
        nonlocal shown
        now = time.monotonic()
        if now - shown >= _BETWEEN_S:
            shown = now
            bar.start()
            bar.update(task, completed=done, total=total or None)

    try:
        yield report
    finally:
        bar.stop()
