"""`hashguard data check | sample | import`."""

from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import typer

from model.data.console import errors_end_the_command, show_json, show_line, show_table
from model.data.importers.commands import import_app
from model.data.manifest import Manifest, inspect_manifest
from model.data.progress import progress_bar
from model.data.sample import write_sample

app = typer.Typer(
    name="data", help="Data sets: draw, import and check manifest folders.", no_args_is_help=True
)
app.add_typer(import_app, name="import")

SHOWN = 200

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of a table.")]


@app.command()
def check(
    folder: Annotated[Path, typer.Argument(help="A manifest folder.", metavar="DIR")],
    as_json: Json = False,
) -> None:
    """Check every line and decode every image; names each bad line and exits 1 when there is any."""
    with errors_end_the_command(), progress_bar("checking", quiet=as_json) as progress:
        manifest, problems = inspect_manifest(folder, progress)
    summary = _summary(manifest)
    if as_json:
        listed = [{"line": problem.line, "message": problem.message} for problem in problems]
        show_json({**summary, "ok": not problems, "problems": listed})
    elif problems:
        rows = [(str(problem.line) if problem.line else "-", problem.message) for problem in problems[:SHOWN]]
        show_table(f"{len(problems)} problem(s)", ("line", "what is wrong"), rows)
        if len(problems) > SHOWN:
            show_line(f"... and {len(problems) - SHOWN} more (--json lists them all)")
    else:
        show_table("no problems", ("what", "how many"), _rows(summary))
    if problems:
        raise typer.Exit(1)


@app.command()
def sample(
    out: Annotated[Path, typer.Argument(help="A new or empty folder.", metavar="OUT")],
    pairs: Annotated[int, typer.Option(help="How many image-text pairs.")] = 4000,
    seed: Annotated[int, typer.Option(help="The same seed draws the same bytes.")] = 0,
    as_json: Json = False,
) -> None:
    """Draw the project's own data set: scenes of coloured objects with captions and labels."""
    with errors_end_the_command(), progress_bar("drawing", quiet=as_json) as progress:
        write_sample(out, pairs, seed, progress)
    if as_json:
        show_json({"folder": str(out), "pairs": pairs, "seed": seed})
    else:
        show_line(f"{pairs} pairs, seed {seed}: {out}")


def _summary(manifest: Manifest) -> dict[str, Any]:
    records = manifest.records
    return {
        "items": len(records),
        "splits": dict(sorted(Counter(record.split for record in records).items())),
        "labels": len(manifest.label_names),
        "unlabelled": sum(not record.labels for record in records),
        "images": sum(record.image is not None for record in records),
        "texts": sum(len(record.texts) for record in records),
    }


def _rows(summary: dict[str, Any]) -> list[tuple[str, str]]:
    rows = [(name, str(value)) for name, value in summary.items() if name != "splits"]
    return [rows[0], *((f"  {name}", str(count)) for name, count in summary["splits"].items()), *rows[1:]]
