"""`hashguard evaluate`: the command's options.

What it does is in model/evaluation/launch.py, which is loaded by name when the command runs, as for
`hashguard train`: torch takes seconds to load, and `hashguard --help` must not wait for it.
"""

from importlib import import_module
from pathlib import Path
from typing import Annotated

import typer


def evaluate(
    data: Annotated[Path, typer.Option(help="A manifest folder.", metavar="DIR")],
    model: Annotated[list[Path], typer.Option(help="Model directory; give it once a model.", metavar="DIR")],
    out: Annotated[Path, typer.Option(help="A new or empty folder, or with --resume one begun.")],
    attacks: Annotated[
        str,
        typer.Option(
            help="quick, standard, full, or names such as apgd:mainstay@4/255,words:mainstay,natural:jpeg@3.",
            metavar="PROFILE",
        ),
    ] = "quick",
    resume: Annotated[bool, typer.Option("--resume", help="Keep the units that are finished.")] = False,
    twin: Annotated[
        Path | None, typer.Option(help="Undefended model like the defended ones.", metavar="DIR")
    ] = None,
    surrogate: Annotated[
        list[Path] | None,
        typer.Option(help="Model that the attacker has; else the other models are.", metavar="DIR"),
    ] = None,
    queries: Annotated[
        int | None, typer.Option(help="At most so many queries; else the profile's number.", min=1)
    ] = None,
    wordnet: Annotated[
        Path | None,
        typer.Option(help="WordNet's files (Debian: wordnet-base); else label words stay.", metavar="DIR"),
    ] = None,
    seed: Annotated[int, typer.Option(help="The same seed makes the same report.", min=0, max=2**31)] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    record: Annotated[
        bool,
        typer.Option(
            "--record",
            help="Write the figures and a new model card into the models, if every judged gate holds.",
        ),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")] = False,
) -> None:
    """Attack models in every way there is, judge the attacks, and write OUT/report.json and report.html.

    Exit status: 0 every gate of honesty holds, 1 one does not (the report is written) or the run failed,
    2 wrong usage. With --record, a gate that fails leaves all models as they are. Ctrl-C or SIGTERM leave
    the finished units, which --resume takes up (status 130 or 143).
    """
    import_module("model.evaluation.launch").launch(
        {
            "data": data,
            "models": model,
            "out": out,
            "attacks": attacks,
            "resume": resume,
            "twin": twin,
            "surrogates": surrogate or [],
            "queries": queries,
            "wordnet": wordnet,
            "seed": seed,
            "device": device,
            "record": record,
        },
        as_json=as_json,
    )
