"""The `hashguard` command: finds sub-commands, loads only the one that runs, and keeps errors to one line.

The service's own sub-commands stand in the table below; those of other packages come through the
entry-point group `hashguard.commands`, so that no import crosses packages and an installation without the
training extra simply lacks them, with a hint. `hashguard --help` imports none of them.

Exit status: 0 done; 1 it failed, or a check found problems (one line on standard error says what); 2 wrong
usage; 130 interrupted. `--debug` shows the stack trace of a failure.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING

import typer
from typer.core import TyperCommand, TyperGroup

from service.commands.console import err, escape
from service.version import distribution_version

if TYPE_CHECKING:
    from typer._click import Command, Context

GROUP = "hashguard.commands"


@dataclass(frozen=True)
class Known:
    """A sub-command that users may look for: its help, where it is, or what to install for it."""

    help: str
    target: str | None = None
    extra: str | None = None


# In the order of a newcomer's way through them.
COMMANDS: dict[str, Known] = {
    "demo": Known("Sample corpus, model, index and service in one go.", "service.commands.demo:demo"),
    "serve": Known("Serve a home folder over HTTP.", "service.commands.serve:serve"),
    "data": Known("Data sets: draw, import and check manifest folders.", extra="training"),
    "train": Known("Train a hasher on a manifest folder.", extra="training"),
    "retrain": Known("Train on new data, judge the model, have a service take it in.", extra="training"),
    "attack": Known("Attack items of a data set; what a client could upload.", extra="training"),
    "evaluate": Known("Attack models and judge the attacks: report.json and report.html.", extra="training"),
    "model": Known("Model artefacts: list, show, verify.", extra="training"),
    "index": Known("Index generations: build, verify, roll back, move.", "service.commands.index:app"),
    "reindex": Known("Rebuild the index of a running service.", "service.commands.reindex:reindex"),
    "keys": Known("API keys: create, list, revoke.", "service.commands.keys:app"),
    "doctor": Known("Check this installation and a home folder.", "service.commands.doctor:doctor"),
}


class LazyGroup(TyperGroup):
    """A group whose members are imported when they run, not when they are listed."""

    def list_commands(self, ctx: Context) -> list[str]:
        """Known commands in their order, then those of other distributions by name."""
        foreign = sorted(point.name for point in entry_points(group=GROUP))
        return [*COMMANDS, *(name for name in foreign if name not in COMMANDS)]

    def get_command(self, ctx: Context, cmd_name: str) -> Command | None:
        """A stand-in that has the help line only; None for what is not known."""
        if cmd_name not in self.list_commands(ctx):
            return None
        known = COMMANDS.get(cmd_name, Known(f"From another package ({GROUP})."))
        return TyperCommand(name=cmd_name, help=known.help)

    def resolve_command(self, ctx: Context, args: list[str]) -> tuple[str | None, Command | None, list[str]]:
        """The real command, loaded now."""
        name, stand_in, rest = super().resolve_command(ctx, args)
        return name, None if name is None or stand_in is None else load(name), rest


class MissingCommandError(Exception):
    """A known command whose package is not installed."""


def load(name: str) -> Command:
    """Import a sub-command; raises `MissingCommandError` with a hint when its package is not there."""
    known = COMMANDS.get(name, Known(""))
    if known.target is not None:
        point: EntryPoint | None = EntryPoint(name, known.target, GROUP)
    else:
        point = next(iter(entry_points(group=GROUP, name=name)), None)
    if point is None:
        raise MissingCommandError(f"hashguard {name} is not installed here{_hint(known)}")
    try:
        target = getattr(import_module(point.module), point.attr)
    except ModuleNotFoundError as error:
        raise MissingCommandError(f"hashguard {name} needs the module {error.name}{_hint(known)}") from error
    if not isinstance(target, typer.Typer):
        app = typer.Typer(add_completion=False)
        app.command(name=name)(target)
        target = app
    command = typer.main.get_command(target)
    command.name = name
    return command


def _hint(known: Known) -> str:
    return f"; install it with: pip install 'hashguard[{known.extra}]'" if known.extra else ""


app = typer.Typer(
    cls=LazyGroup,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Images find texts and texts find images, through short binary codes.",
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"hashguard {distribution_version()}")
        raise typer.Exit


@app.callback()
def options(
    debug: bool = typer.Option(False, "--debug", help="Show the stack trace of a failure."),
    version: bool = typer.Option(
        False, "--version", help="Show the version and end.", is_eager=True, callback=_show_version
    ),
) -> None:
    """Images find texts and texts find images, through short binary codes."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and end the process with its status."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        app(given, prog_name="hashguard")
    except Exception as error:
        if "--debug" in given[:1]:
            raise
        err.print(f"[bold red]error:[/] {escape(str(error) or type(error).__name__)}")
        sys.exit(1)


if __name__ == "__main__":
    main()
