"""What the `hashguard data` commands share: one console for results, one way to end on an error."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from model.errors import ModelError


@contextmanager
def errors_end_the_command() -> Iterator[None]:
    """Turns what the package or the file system refuses into one line on stderr and exit status 1."""
    try:
        yield
    except (ModelError, OSError) as error:
        Console(stderr=True, soft_wrap=True).print(Text(f"error: {error}"))
        raise typer.Exit(1) from error


def show_json(value: Mapping[str, Any]) -> None:
    """One JSON document on stdout."""
    typer.echo(json.dumps(value, ensure_ascii=True))


def show_line(text: str) -> None:
    """One line on stdout, never read as markup: it may hold what a stranger wrote."""
    Console(soft_wrap=True).print(Text(text))


def show_table(title: str, columns: tuple[str, str], rows: list[tuple[str, str]]) -> None:
    """A table of two columns on stdout; cells are plain text."""
    table = Table(*columns, title=title, title_justify="left")
    for left, right in rows:
        table.add_row(Text(left), Text(right))
    Console().print(table)
