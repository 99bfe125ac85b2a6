"""Options that several commands share, and what they make: settings, and the head of calls to a service."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from pydantic import ValidationError

from service.commands.console import fail
from service.settings import CallerSettings, Settings

HomeOption = Annotated[
    Path | None,
    typer.Option("--home", help="Home folder of the service (HASHGUARD_HOME).", show_default=False),
]
DeviceOption = Annotated[str | None, typer.Option("--device", help="auto, cpu or cuda.", show_default=False)]
KeepOption = Annotated[
    int | None,
    typer.Option(
        "--keep",
        help="Index generations to keep (HASHGUARD_KEEP_GENERATIONS); 1 keeps nothing to roll back to.",
        show_default=False,
    ),
]
KeyOption = Annotated[
    str | None,
    typer.Option(
        "--key", help="API key (HASHGUARD_API_KEY); others on this machine may see it.", show_default=False
    ),
]
KeyFileOption = Annotated[
    Path | None,
    typer.Option(
        "--key-file", help="File that holds the API key (HASHGUARD_API_KEY_FILE).", show_default=False
    ),
]
_VISIBLE = re.compile("[!-~]+")


def settings_with(**given: Any) -> Settings:  # noqa: ANN401 - the values are checked by Settings itself
    """The settings with the options that were given on the command line (None: not given)."""
    try:
        return Settings(**{name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        _fail_for(error)


def key_headers(key: str | None, key_file: Path | None) -> dict[str, str]:
    """The headers that show a key to a service; none without a key. Options win over the environment.

    Ends the command, without a word of the key, when it cannot be read or sent.
    """
    given: dict[str, Any] = {}
    if key is not None or key_file is not None:
        given = {"api_key": key, "api_key_file": key_file}
    try:
        found = CallerSettings(**given).key()
    except ValidationError as error:
        _fail_for(error)
    except (OSError, UnicodeDecodeError) as error:
        fail(f"the key file cannot be read: {type(error).__name__}")
    if found is None:
        return {}
    if _VISIBLE.fullmatch(found) is None:
        fail("the API key is empty or holds characters that no key has")
    return {"Authorization": f"Bearer {found}"}


def _fail_for(error: ValidationError) -> NoReturn:
    faults = "; ".join(
        f"{'.'.join(str(part) for part in fault['loc']) or 'settings'}: {fault['msg']}"
        for fault in error.errors(include_url=False, include_input=False)
    )
    fail(f"the settings do not fit: {faults}")
