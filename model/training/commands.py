"""`hashguard train`: the command's options.

What it does is in model/training/launch.py, which is loaded by name when the command runs: torch and
transformers take seconds to load, and `hashguard --help` must not wait for them.
"""

from importlib import import_module
from pathlib import Path
from typing import Annotated

import typer

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
    wordnet: Annotated[
        Path | None,
        typer.Option(
            help="WordNet's files (Debian: wordnet-base): labels' words in edited texts become synonyms.",
            metavar="DIR",
        ),
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, ...")] = "auto",
    seed: Annotated[int | None, typer.Option(help="In place of the recipe's.")] = None,
    epochs: Annotated[int | None, typer.Option(help="In place of the recipe's.")] = None,
    changes: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="In place of the recipe's: a dotted key and a TOML value. Repeatable.",
            metavar="KEY=VALUE",
        ),
    ] = None,
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
    import_module("model.training.launch").launch(
        {
            "data": data,
            "models": out,
            "name": name,
            "bits": bits,
            "defence": defence,
            "resume": resume,
            "previous": previous,
        },
        recipe={
            "what": recipe,
            "changes": changes or [],
            "backbone": backbone,
            "wordnet": wordnet,
            "seed": seed,
            "epochs": epochs,
        },
        device=device,
        as_json=as_json,
    )
