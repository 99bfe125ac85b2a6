"""`hashguard keys create | list | revoke`: the API keys of a home folder, with or without a running service.

Every service on the same catalog follows within two seconds.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Annotated

import typer

from service.application.keys import Keys, key_id_of
from service.application.types import ApiKey, Scope
from service.catalog_wiring import build_catalog, build_keys, utc_now
from service.commands.console import JsonOption, escape, fail, note, say, show_json, show_table
from service.commands.options import HomeOption, settings_with
from service.settings import Settings

app = typer.Typer(no_args_is_help=True, help="API keys: create, list, revoke.")

_DURATION = re.compile(r"([1-9][0-9]{0,5})([hd])")
_UNITS = {"h": timedelta(hours=1), "d": timedelta(days=1)}


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="What the key is for; several keys may have one name.")],
    scope: Annotated[list[Scope], typer.Option(help="What it may do; may be given several times.")] = [  # noqa: B006 - Typer copies it
        Scope.SEARCH
    ],
    expires: Annotated[
        str | None, typer.Option(help="90d, 12h, or a date or time as in ISO 8601 (UTC).", show_default=False)
    ] = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a key and print it, once: the catalog keeps only its hash."""
    settings = settings_with(home=home)
    with _keys(settings) as keys:
        key, text = keys.create(name, scope, None if expires is None else _end(expires))
    if as_json:
        show_json(_row(key) | {"key": text})
        return
    until = "" if key.expires is None else f" until {_minute(key.expires)} UTC"
    note(
        f"key {key.id} for {escape(repr(name))}: {', '.join(sorted(key.scopes))}{until}; it is shown only now"
    )
    typer.echo(text)


@app.command("list")
def list_keys(home: HomeOption = None, as_json: JsonOption = False) -> None:
    """All keys, oldest first, without their secrets."""
    settings = settings_with(home=home)
    _want_catalog(settings)
    with _keys(settings) as keys:
        found = keys.all()
    if as_json:
        show_json({"keys": [_row(key) for key in found]})
        return
    cells = [
        (key.id, key.name, " ".join(sorted(key.scopes)), key.state(utc_now()),
         _minute(key.created), _minute(key.expires), _minute(key.last_used))
        for key in found
    ]  # fmt: skip
    show_table(
        "API keys (times in UTC)", ("id", "name", "scopes", "state", "created", "expires", "last used"), cells
    )


@app.command()
def revoke(
    key: Annotated[str, typer.Argument(help="Id of the key, or the key itself.")],
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Revoke a key for good; a second time changes nothing."""
    settings = settings_with(home=home)
    key_id = key_id_of(key)
    _want_catalog(settings)
    with _keys(settings) as keys:
        revoked = keys.revoke(key_id)
    if as_json:
        show_json(_row(revoked))
    else:
        say(f"key {revoked.id} ({escape(revoked.name)}) is revoked; services refuse it within 2 seconds")


@contextmanager
def _keys(settings: Settings) -> Iterator[Keys]:
    catalog = build_catalog(settings)
    try:
        yield build_keys(catalog)
    finally:
        catalog.close()


def _want_catalog(settings: Settings) -> None:
    if not settings.catalog_is_there():
        fail(f"{settings.home} holds no catalog, so no keys")


def _end(text: str) -> datetime:
    """When a key expires; ends the command when the text cannot be read."""
    duration = _DURATION.fullmatch(text)
    try:
        if duration is not None:
            return utc_now() + int(duration[1]) * _UNITS[duration[2]]
        end = datetime.fromisoformat(text)
    except (ValueError, OverflowError):
        fail(f"--expires takes 90d, 12h, or a date or time as in ISO 8601, got {text!r}")
    return end.replace(tzinfo=UTC) if end.tzinfo is None else end


def _row(key: ApiKey) -> dict[str, object]:
    times = {
        "created": key.created,
        "expires": key.expires,
        "last_used": key.last_used,
        "revoked": key.revoked,
    }
    return {
        "id": key.id,
        "name": key.name,
        "scopes": sorted(key.scopes),
        "state": key.state(utc_now()),
        **{name: None if time is None else time.isoformat() for name, time in times.items()},
    }


def _minute(time: datetime | None) -> str:
    return "" if time is None else f"{time.astimezone(UTC):%Y-%m-%d %H:%M}"
