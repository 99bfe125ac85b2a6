"""`hashguard train`."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from model.data.console import errors_end_the_command, show_line
from model.training.config import Recipe, load_recipe
from model.training.display import Display, Silent, Terminal
from model.training.distributed import World, joined_world
from model.training.fit import Order, Outcome, default_name, fit
from model.training.stopping import Stopped, StopWish, listening

DEFAULT_RECIPE = "default"


def train(
    data: Annotated[Path, typer.Option(help="A manifest folder.", metavar="DIR")],
    bits: Annotated[int, typer.Option(help="Code length: a multiple of 8 from 16 to 256.")] = 64,
    out: Annotated[Path, typer.Option(help="Folder of models.", metavar="MODELS")] = Path("models"),
    defence: Annotated[str, typer.Option(help="Name of the defence.")] = "none",
    name: Annotated[
        str | None, typer.Option(help="The model's name; made from data, defence and bits.")
    ] = None,
    recipe: Annotated[str, typer.Option(help="A shipped recipe's name or a TOML file.")] = DEFAULT_RECIPE,
    backbone: Annotated[
        str | None, typer.Option(help="Hub name or folder of the recipe's pretrained image backbone.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, ...")] = "auto",
    seed: Annotated[int | None, typer.Option(help="In place of the recipe's.")] = None,
    epochs: Annotated[int | None, typer.Option(help="In place of the recipe's.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue from the last checkpoint.")] = False,
    previous: Annotated[
        bool, typer.Option("--previous", help="With --resume: from the checkpoint before the last.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")] = False,
) -> None:
    """Train a hasher on pairs of images and texts and write MODELS/NAME/VERSION; prints that folder last.

    Ctrl-C or SIGTERM leave a state that --resume continues bit for bit (exit status 130 or 143). Several
    processes: torchrun --nproc-per-node N -m model.cli train ...
    """
    with errors_end_the_command():
        order = Order(
            data=data,
            models=out,
            name=name or default_name(data, defence, bits),
            bits=bits,
            defence=defence,
            recipe=_recipe(recipe, backbone, seed, epochs),
            resume=resume,
            previous=previous,
        )
        outcome = _run(order, device)
    if outcome is not None:
        _report(order, outcome, as_json=as_json)


def _recipe(what: str, backbone: str | None, seed: int | None, epochs: int | None) -> Recipe:
    """The recipe with the command line's changes."""
    recipe = load_recipe(what).with_changes(seed=seed, epochs=epochs)
    return recipe if backbone is None else recipe.with_source(backbone)


def _run(order: Order, device: str) -> Outcome | None:
    """Train in this process's place among the others; a stop ends the command with 128 + the signal."""
    with listening() as wish, joined_world(device) as world:
        try:
            return _shown(order, world, wish)
        except Stopped as stop:
            if world.leads:
                typer.echo(f"{stop}; the same command with --resume continues", err=True)
            raise typer.Exit(128 + stop.signum) from stop


def _shown(order: Order, world: World, wish: StopWish) -> Outcome | None:
    """Train with a display in the first process and none in the others."""
    if not world.leads:
        silent: Display = Silent()
        return fit(order, world, silent, wish)
    with Terminal() as terminal:
        return fit(order, world, terminal, wish)


def _report(order: Order, outcome: Outcome, *, as_json: bool) -> None:
    """What came of it on stdout, the folder last."""
    if as_json:
        document = {
            "folder": str(outcome.folder),
            "name": order.name,
            "version": outcome.folder.name,
            "bits": order.bits,
            "defence": order.defence,
            "seed": order.recipe.seed,
            "epoch": outcome.epoch,
            "held_out_map": outcome.scores,
            "seconds": round(outcome.seconds, 1),
        }
        json.dump(document, sys.stdout)
        sys.stdout.write("\n")
        return
    scores = ", ".join(f"{task} {value:.3f}" for task, value in outcome.scores.items()) or "nothing held out"
    show_line(f"held-out mAP: {scores} (epoch {outcome.epoch}, {outcome.seconds:.0f} s)")
    show_line(str(outcome.folder))
