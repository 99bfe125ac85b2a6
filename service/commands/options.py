"""Options that several commands share, and the settings that they make."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError

from service.commands.console import fail
from service.settings import Settings

HomeOption = Annotated[
    Path | None,
    typer.Option("--home", help="Home folder of the service (HASHGUARD_HOME).", show_default=False),
]
DeviceOption = Annotated[str | None, typer.Option("--device", help="auto, cpu or cuda.", show_default=False)]


def settings_with(**given: Any) -> Settings:  # noqa: ANN401 - the values are checked by Settings itself
    """The settings with the options that were given on the command line (None: not given)."""
    try:
        return Settings(**{name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        faults = "; ".join(
            f"{'.'.join(str(part) for part in fault['loc']) or 'settings'}: {fault['msg']}"
            for fault in error.errors(include_url=False)
        )
        fail(f"the settings do not fit: {faults}")
