"""How commands speak: tables and lines for people, one JSON document for machines, errors as one line.

Results go to standard output, everything else (progress, errors) to standard error.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated, NoReturn

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

out = Console(soft_wrap=True, highlight=False)
err = Console(stderr=True, soft_wrap=True, highlight=False)

FAILED = 1
"""Exit status of a command that could not do what it was asked, or that found problems."""

JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]


def fail(message: str) -> NoReturn:
    """Say in one line what went wrong and end with status 1."""
    err.print(f"[bold red]error:[/] {escape(message)}")
    raise typer.Exit(FAILED)


def escape(text: object) -> str:
    """Text for Rich, whose markup in it (square brackets) is taken literally."""
    return str(text).replace("[", r"\[")


def say(text: str) -> None:
    """One line of a result; `text` may hold Rich's markup."""
    out.print(text)


def note(text: str) -> None:
    """One line about what is going on, for people only."""
    err.print(text)


def show_json(document: object) -> None:
    """A JSON document for machines."""
    typer.echo(json.dumps(document, ensure_ascii=False, default=str))


def show_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """A table for people."""
    table = Table(title=title, title_justify="left")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(escape(cell) for cell in row))
    out.print(table)


@contextmanager
def progress_bar(label: str, total: int | None, quiet: bool = False) -> Iterator[ProgressBar]:
    """A bar on standard error; nothing when `quiet` or when nobody looks at a terminal."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=err, disable=quiet or not err.is_terminal) as progress:
        yield ProgressBar(progress, label, total)


class ProgressBar:
    """One task of a progress display."""

    def __init__(self, progress: Progress, label: str, total: int | None) -> None:
        self._progress = progress
        self._task = progress.add_task(label, total=total, rate="")

    def at(self, done: int, total: int | None = None, label: str | None = None) -> None:
        """Show that `done` of `total` are done."""
        task = self._progress.tasks[0]
        rate = f"{task.speed:.0f}/s" if task.speed else ""
        self._progress.update(self._task, completed=done, total=total, description=label, rate=rate)
