"""`hashguard model list | show | verify | record`: what a folder of models holds; weights are only hashed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from model.artefact import ModelCard, find_model, full_card, read_card, scan_models, verify
from model.data.console import errors_end_the_command, show_json, show_line, show_table
from model.evaluation.recording import read_report, record

app = typer.Typer(
    name="model",
    help="Trained models: list, show, verify artefacts; record evaluations.",
    no_args_is_help=True,
)

Home = Annotated[
    Path, typer.Option("--home", envvar="HASHGUARD_HOME", help="Home folder; its models/ is looked at.")
]
Models = Annotated[Path | None, typer.Option("--models", help="A folder of models, in place of the home's.")]
Wanted = Annotated[
    str, typer.Argument(help='A folder, "name/version", "name" (its newest) or "latest".', metavar="MODEL")
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]

DEFAULT_HOME = Path("hashguard-home")


@app.command("list")
def list_command(home: Home = DEFAULT_HOME, models: Models = None, as_json: Json = False) -> None:
    """List the models; damaged ones are named and make the exit status 1."""
    cards, errors = scan_models(models or home / "models")
    if as_json:
        show_json({"models": [card.public() for card in cards], "errors": [str(error) for error in errors]})
    else:
        show_table(f"{len(cards)} model(s)", ("model", "what"), [_row(card) for card in cards])
        for error in errors:
            show_line(f"damaged: {error}")
    if errors:
        raise typer.Exit(1)


@app.command()
def show(model: Wanted, home: Home = DEFAULT_HOME, models: Models = None, as_json: Json = False) -> None:
    """Show a model's card, with the line that says where it breaks."""
    with errors_end_the_command():
        card = full_card(_wanted(model, models or home / "models"))
    if as_json:
        show_json(card)
    else:
        show_line(card["readme"])
        show_line(f"digest {card['digest']}")


@app.command("verify")
def verify_command(
    model: Wanted, home: Home = DEFAULT_HOME, models: Models = None, as_json: Json = False
) -> None:
    """Compare every file of a model with its manifest; exit status 1 when one differs."""
    with errors_end_the_command():
        card = verify(_wanted(model, models or home / "models").folder)
    if as_json:
        show_json({"model": f"{card.name}/{card.version}", "ok": True, "digest": card.digest})
    else:
        show_line(f"{card.name}/{card.version}: all files are as the manifest says; digest {card.digest}")


@app.command("record")
def record_command(
    model: Wanted,
    report: Annotated[
        Path, typer.Option(help="The folder of a `hashguard evaluate`, or its report.json.", metavar="REPORT")
    ],
    home: Home = DEFAULT_HOME,
    models: Models = None,
    as_json: Json = False,
) -> None:
    """Write an evaluation's figures into a model: robustness.json, and a card that says where it breaks.

    Exit status 1, and nothing is written, when a gate does not hold or the report is on another model. The
    model stays the one that its indexes were built with.
    """
    with errors_end_the_command():
        card = record(read_report(report), [_wanted(model, models or home / "models").folder])[0]
        shown = full_card(card)
    label, line = f"{card.name}/{card.version}", shown["known_to_break_at"]
    if as_json:
        show_json({"model": label, "digest": card.digest, "recorded": True, "known_to_break_at": line})
    else:
        show_line(f"{label}: recorded; known to break at: {line}")


def _wanted(model: str, models: Path) -> ModelCard:
    """The model that the user named, by the folder that `train` printed or by its label in `models`."""
    folder = Path(model)
    return read_card(folder) if folder.is_dir() else find_model(models, model)


def _row(card: ModelCard) -> tuple[str, str]:
    defence = card.manifest["defence"].get("name", "none")
    sides = " and ".join(sorted(card.modalities))
    return f"{card.name}/{card.version}", f"{card.bits} bits, {sides}, defence {defence}, {card.created}"
