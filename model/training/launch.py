"""What `hashguard train` does: the recipe with the command line's changes, a display, signals, the report."""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import typer

from model.data.console import errors_end_the_command, show_line
from model.training.config import Recipe, load_recipe
from model.training.display import Display, Silent, Terminal
from model.training.distributed import World, joined_world
from model.training.fit import Order, Outcome, default_name, fit
from model.training.stopping import Stopped, StopWish, listening


def launch(order: Mapping[str, Any], *, recipe: Mapping[str, Any], device: str, as_json: bool) -> None:
    """Train as the command line says; ends the process by typer.Exit on an error or a signal.

    Args:
        order: the fields of `Order` but the recipe; ``name`` may be None.
        recipe: ``what`` (name or file), ``changes`` (see `load_recipe`), ``backbone``, ``wordnet``, ``seed``,
            ``epochs``; None keeps the recipe's own.
        device: see `pick_device`.
        as_json: one JSON document on stdout in place of lines.

    """
    with errors_end_the_command():
        name = order["name"] or default_name(order["data"], order["defence"], order["bits"])
        complete = Order(**{**order, "name": name}, recipe=_recipe(**recipe))
        outcome = _run(complete, device)
    if outcome is not None:
        _report(complete, outcome, as_json=as_json)


def _recipe(
    what: str,
    changes: list[str],
    backbone: str | None,
    wordnet: Path | None,
    seed: int | None,
    epochs: int | None,
) -> Recipe:
    """The recipe with the command line's changes."""
    recipe = load_recipe(what, changes).with_changes(seed=seed, epochs=epochs)
    if wordnet is not None:
        recipe = recipe.with_wordnet(str(wordnet))
    return recipe if backbone is None else recipe.with_source(backbone)


def _run(order: Order, device: str) -> Outcome | None:
    """Train in this process's place among the others; a stop ends the command with 128 + the signal."""
    with listening() as wish, joined_world(device) as world:
        try:
            return _shown(order, world, wish)
        except Stopped as stop:
            if world.leads:
                way_on = "the same command with --resume continues" if stop.resumable else "nothing was lost"
                typer.echo(f"{stop}; {way_on}", err=True)
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
