"""What a person sees while an evaluation runs, and where a wish to stop is answered."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from model.training.stopping import Stopped, StopWish

BETWEEN_S = 30.0  # lines for who has no terminal


class Terminal:
    """A bar per model on stderr with the unit at work and the time left; lines where there is no terminal.

    Every call is a safe place to stop: what is finished lies on disk, what is begun is done again.
    """

    def __init__(self, wish: StopWish, models: int, *, quiet: bool) -> None:
        self._wish, self._models, self._quiet = wish, models, quiet
        self._console = Console(stderr=True)
        columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[left]}"))
        silent = quiet or not self._console.is_terminal
        self.bar = Progress(*columns, console=self._console, transient=True, disable=silent)
        self._task: TaskID | None = None
        self._longest: dict[str, float] = {}
        self._last = monotonic()

    def encoding(self, label: str, done: int, total: int) -> None:
        """The data set is being encoded."""
        self._stop()
        self._show(f"{label}: encoding the data set", done / max(total, 1), f"{done}/{total}")

    def working(self, label: str, what: str, share: float, left_s: float) -> None:
        """A unit is at work."""
        self._stop()
        longest = self._longest[label] = max(self._longest.get(label, 0.0), left_s)
        others = f" (this model, of {self._models})" if self._models > 1 else ""
        self._show(f"{label}: {what}", 1 - left_s / max(longest, 1e-9), f"about {span(left_s)} left{others}")

    def judging(self, label: str) -> None:
        """The gates look at a model."""
        self._stop()
        self._show(f"{label}: gates", 1.0, "")

    def _stop(self) -> None:
        if self._wish:
            raise Stopped(self._wish.signum, "stopped; finished units are kept", resumable=True)

    def _show(self, text: str, share: float, left: str) -> None:
        if self._quiet:
            return
        if self._console.is_terminal:
            if self._task is None:
                self._task = self.bar.add_task(text, total=1.0, left=left)
            self.bar.update(self._task, description=_plain(text), completed=share, left=left)
        elif monotonic() - self._last >= BETWEEN_S:
            self._last = monotonic()
            typer.echo(f"{text}, {left}", err=True)


@contextmanager
def terminal(wish: StopWish, models: int, *, quiet: bool) -> Iterator[Terminal]:
    """A display that is taken away at the end."""
    shown = Terminal(wish, models, quiet=quiet)
    with shown.bar:
        yield shown


def span(seconds: float) -> str:
    """As "40 s", "12 min", "3.5 h"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _plain(text: str) -> str:
    """Text without markup: labels come from model cards."""
    return text.replace("[", "(").replace("]", ")")
