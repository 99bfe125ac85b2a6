"""What a user sees of a run: a progress bar with ETA and losses, a line per epoch, a TensorBoard log."""

import sys
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.text import Text
from torch.utils.tensorboard import SummaryWriter


class Display(Protocol):
    """Where a run speaks to."""

    def say(self, message: str) -> None:
        """One line that a user should read."""
        ...

    def progress(self, what: str, done: int, total: int, note: str = "") -> None:
        """How far ``what`` is; another ``what`` begins another bar."""
        ...


class Silent:
    """Shows nothing: for every process but the first."""

    def say(self, message: str) -> None:
        """Drop it."""

    def progress(self, what: str, done: int, total: int, note: str = "") -> None:
        """Drop it."""


class Terminal(AbstractContextManager["Terminal"]):
    """Rich on stderr; without a terminal only the lines, so that logs stay readable."""

    def __init__(self) -> None:
        """Nothing is shown before the first call."""
        self._console = Console(file=sys.stderr, soft_wrap=True)
        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}", markup=False),
        )
        self._bar = Progress(
            *columns, console=self._console, transient=True, disable=not self._console.is_terminal
        )
        self._task: tuple[str, TaskID] | None = None

    def say(self, message: str) -> None:
        """Print a line above the bar; it may hold what a stranger wrote, so it is never markup."""
        self._console.print(Text(message))

    def progress(self, what: str, done: int, total: int, note: str = "") -> None:
        """Move the bar."""
        if self._task is None or self._task[0] != what:
            if self._task is not None:
                self._bar.remove_task(self._task[1])
            self._bar.start()
            self._task = (what, self._bar.add_task(what, total=total, note=note))
        self._bar.update(self._task[1], completed=done, total=total, note=note)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()


class Scalars:
    """TensorBoard's event files of one run."""

    def __init__(self, folder: Path) -> None:
        """Write below ``folder``."""
        self._writer = SummaryWriter(str(folder))

    def step(self, step: int, terms: Mapping[str, float], rate: float) -> None:
        """Losses and rate of a step (counted from 1)."""
        for name, value in terms.items():
            self._writer.add_scalar(f"loss/{name}", value, step)
        self._writer.add_scalar("loss/total", sum(terms.values()), step)
        self._writer.add_scalar("rate", rate, step)

    def epoch(self, step: int, record: Mapping[str, Any]) -> None:
        """Held-out scores and figures of an epoch."""
        for kind in ("held_out", "figures"):
            for name, value in record.get(kind, {}).items():
                self._writer.add_scalar(f"{kind}/{name}", value, step)
        self._writer.flush()

    def close(self) -> None:
        """Flush and close the files."""
        self._writer.close()


def epoch_line(record: Mapping[str, Any], epochs: int) -> str:
    """One line about an epoch."""
    parts = {"": record["losses"], "  | figures: ": record.get("figures", {})}
    parts["  | held out: "] = record.get("held_out", {})
    shown = [
        head + "  ".join(f"{name} {value:.3f}" for name, value in numbers.items())
        for head, numbers in parts.items()
        if numbers
    ]
    return f"epoch {record['epoch']}/{epochs}  " + "".join(shown)
