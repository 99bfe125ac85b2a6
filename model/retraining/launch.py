"""What `hashguard retrain` does: the order, signals, and one line about what came of it."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

import typer

from model.data.console import errors_end_the_command, show_json, show_line
from model.retraining.floors import Floors
from model.retraining.job import Order, Result, retrain
from model.retraining.live import Service, read_key
from model.training.stopping import Stopped, listening


def launch(
    options: Mapping[str, Any],
    *,
    drops: tuple[float, float],
    service: tuple[str, Path | None],
    as_json: bool,
) -> None:
    """Run the command; ends the process by typer.Exit on an error, a refusal or a signal.

    Args:
        options: fields of `Order` but the floors.
        drops: the floors, clean and robust.
        service: the address, and the file that holds the key.
        as_json: one JSON document on stdout in place of a line.

    """
    url, key_file = service
    with errors_end_the_command():
        order = Order(**options, floors=Floors(*drops))
        with closing(Service(url, read_key(key_file))) as running:
            result = _run(order, running)
    _show(result, as_json=as_json)


def _run(order: Order, service: Service) -> Result:
    with listening() as wish:
        try:
            return retrain(order, service, wish)
        except Stopped as stop:
            typer.echo(f"{stop}; the same command continues", err=True)
            raise typer.Exit(128 + stop.signum) from stop


def _show(result: Result, *, as_json: bool) -> None:
    if as_json:
        show_json(asdict(result))
    else:
        show_line(f"{result.outcome}: {result.model}: {result.why}")
