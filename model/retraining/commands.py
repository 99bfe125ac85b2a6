"""`hashguard retrain`: the command's options; what it does is loaded by name when it runs, as for `train`."""

from importlib import import_module
from pathlib import Path
from typing import Annotated

import typer

DEFAULT_HOME = Path("hashguard-home")


def retrain(
    data: Annotated[Path, typer.Option(help="A manifest folder, with labels.", metavar="DIR")],
    home: Annotated[
        Path, typer.Option("--home", envvar="HASHGUARD_HOME", help="Home folder of the service.")
    ] = DEFAULT_HOME,
    url: Annotated[str, typer.Option(help="Address of the service.")] = "http://127.0.0.1:8000",
    key_file: Annotated[
        Path | None,
        typer.Option(
            "--key-file", envvar="HASHGUARD_API_KEY_FILE", help="File that holds an API key of scope admin."
        ),
    ] = None,
    if_new_data: Annotated[
        bool,
        typer.Option("--if-new-data", help="Do nothing on data that was trained on, or refused, before."),
    ] = False,
    recipe: Annotated[str | None, typer.Option(help="A recipe, in place of the live model's.")] = None,
    defence: Annotated[str | None, typer.Option(help="In place of the live model's.")] = None,
    bits: Annotated[int | None, typer.Option(help="In place of the live model's.")] = None,
    name: Annotated[str | None, typer.Option(help="In place of the live model's.")] = None,
    backbone: Annotated[str | None, typer.Option(help="Pretrained image backbone of the recipe.")] = None,
    seed: Annotated[int | None, typer.Option(help="In place of the recipe's.")] = None,
    epochs: Annotated[int | None, typer.Option(help="In place of the recipe's.")] = None,
    attacks: Annotated[str, typer.Option(help="What both models are attacked with: see evaluate.")] = "quick",
    queries: Annotated[int | None, typer.Option(help="At most so many queries.", min=1)] = None,
    max_clean_drop: Annotated[
        float, typer.Option(help="Refuse a clean mAP that is lower than the live one by more.", min=0, max=1)
    ] = 0.02,
    max_robust_drop: Annotated[
        float, typer.Option(help="Refuse a worst case that is lower than the live one by more.", min=0, max=1)
    ] = 0.02,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")] = False,
) -> None:
    """Train on new data, judge the model beside the live one, and have a running service take it in.

    The model is published only if all its gates hold and neither its clean mAP nor a worst case is lower than
    the live one's by more than allowed. Run it again after whatever stopped it: it goes on where it was.
    Exit status: 0 served, or nothing to do; 1 refused or failed, the live model stays; 130 or 143 stopped.
    """
    import_module("model.retraining.launch").launch(
        {
            "data": data,
            "home": home,
            "if_new_data": if_new_data,
            "recipe": recipe,
            "defence": defence,
            "bits": bits,
            "name": name,
            "backbone": backbone,
            "seed": seed,
            "epochs": epochs,
            "attacks": attacks,
            "queries": queries,
            "device": device,
        },
        drops=(max_clean_drop, max_robust_drop),
        service=(url, key_file),
        as_json=as_json,
    )
