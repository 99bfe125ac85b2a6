"""`hashguard index build | verify | rollback`: the index of a home folder, without a running service.

A service that runs on the same home follows within a second.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Annotated

import typer

from service.application.errors import ServiceError
from service.application.findings import Finding, mended
from service.application.types import Generation
from service.commands import transfer
from service.commands.console import FAILED, JsonOption, fail, say, show_json, show_table
from service.commands.home import (
    adopt_model,
    build_index,
    doubts,
    import_folder,
    make_live,
    opened,
    report_import,
    resolved,
)
from service.commands.inspecting import GRACE_H, GraceOption, RepairOption, documents, show_findings
from service.commands.options import DeviceOption, HomeOption, KeepOption, settings_with
from service.inspection_wiring import build_generation_inspection
from service.wiring import Parts

app = typer.Typer(no_args_is_help=True, help="Index generations: build, verify, roll back, move.")
app.command("export")(transfer.export)
app.command("import")(transfer.take)
app.command("import-codes")(transfer.import_codes)


@app.command()
def build(
    home: HomeOption = None,
    data: Annotated[
        Path | None, typer.Option(help="Manifest folder to import first (pairs.jsonl and images).")
    ] = None,
    model: Annotated[str, typer.Option(help="Folder of a model, NAME/VERSION, or latest.")] = "latest",
    device: DeviceOption = None,
    keep: KeepOption = None,
    as_json: JsonOption = False,
) -> None:
    """Import a corpus, encode it, build an index and make it live. Status 1 when a line did not come in."""
    settings = settings_with(home=home, device=device, keep_generations=keep)
    label = adopt_model(settings, model)
    with opened(settings) as parts:
        label = resolved(parts, label)
        report = import_folder(parts, data, label, as_json) if data is not None else None
        job = build_index(parts, label, as_json)
        live = parts.catalog.generations.live()
        count = parts.catalog.items.count()
    if report is not None:
        report_import(report)
    if as_json:
        imported = None if report is None else vars(report)
        show_json({"generation": job.generation_id, "model": label, "items": count, "import": imported})
    else:
        codes = f"{live.image_count} image and {live.text_count} text codes" if live else "nothing"
        say(f"generation {job.generation_id} of {label} is live: {count} items, {codes}")
    if report is not None and report.failed:
        fail(f"{report.failed} of {report.done} lines did not come in")


@app.command()
def verify(
    home: HomeOption = None,
    repair: RepairOption = False,
    grace: GraceOption = GRACE_H,
    as_json: JsonOption = False,
) -> None:
    """Check generations, aliases, models and left-over builds; each code against the catalog.

    Nothing is repaired when the home was written with another catalog. Status 0 when nothing is wrong (any
    more), 1 when something is.
    """
    age = timedelta(hours=grace)
    with opened(settings_with(home=home), existing=True) as parts:
        doubt = list(doubts(parts, age))
        findings = list(build_generation_inspection(parts, age).find())
        findings = [*doubt, *_acted_on(findings, repair, bool(doubt))]
        rows = [(one, _found_of(one, findings)) for one in parts.catalog.generations.all()]
    ok = not any(finding.open for finding in findings)
    if as_json:
        generations = [_row(*row) for row in rows]
        show_json({"ok": ok, "generations": generations, "findings": documents(findings)})
    else:
        cells = [
            (one.id, f"{one.model_name}/{one.model_version}", one.image_count, one.text_count,
             "live" if one.live else "", trouble or "sound")
            for one, trouble in rows
        ]  # fmt: skip
        show_table("generations", ("id", "model", "images", "texts", "", "state"), cells)
        show_findings(findings)
    if not ok:
        raise typer.Exit(FAILED)


@app.command()
def rollback(
    generation: Annotated[
        str | None,
        typer.Argument(help="The predecessor when not given, else the next older.", show_default=False),
    ] = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make another generation live, after checking it and encoding what its model has not seen.

    The predecessor is the one that was live before: a second call without a name leads forward again.
    """
    with opened(settings_with(home=home)) as parts:
        chosen = _chosen(parts.catalog.generations.all(), generation)
        trouble = _trouble(parts, chosen)
        if trouble:
            fail(f"generation {chosen.id} cannot be served: {trouble}")
        make_live(parts, chosen, as_json)
    if as_json:
        show_json(_row(chosen, "") | {"live": True})
    else:
        say(f"generation {chosen.id} of {chosen.model_name}/{chosen.model_version} is live")


def _chosen(kept: list[Generation], wanted: str | None) -> Generation:
    """The one that was asked for, or the predecessor, or the next older one of `kept`, newest first."""
    if wanted is not None:
        found = next((one for one in kept if one.id == wanted), None)
        return found or fail(f"there is no generation {wanted!r}; `hashguard index verify` lists them")
    live = next((position for position, one in enumerate(kept) if one.live), None)
    if live is None:
        fail("no generation is live: name the one to serve")
    before = [one for one in kept if one.predecessor] or kept[live + 1 :]
    return before[0] if before else fail(f"there is no generation before the live one, {kept[live].id}")


def _acted_on(findings: Sequence[Finding], repair: bool, doubtful: bool) -> Sequence[Finding]:
    """The findings, mended if they are to be; none is while the catalog is in doubt."""
    if doubtful:
        step = "first the catalog: while it is in doubt, nothing is mended by what it says"
        return [replace(one, mend=None, next_step=step) if one.mend else one for one in findings]
    return mended(findings) if repair else findings


def _found_of(generation: Generation, findings: Sequence[Finding]) -> str:
    """What is wrong with a generation or its model still, or an empty text."""
    concerned = {generation.id, f"{generation.model_name}/{generation.model_version}"}
    return "; ".join(finding.detail for finding in findings if finding.open and finding.subject in concerned)


def _trouble(parts: Parts, generation: Generation) -> str:
    """Why a generation cannot be served, or an empty text."""
    try:
        indexes = parts.store.load(generation)
    except ServiceError as error:
        return error.detail
    shared = any(index.shared for index in indexes.values())
    counts = {side: len(index) for side, index in indexes.items()}
    if not shared and counts != {"image": generation.image_count, "text": generation.text_count}:
        return f"it holds {counts}, the catalog says otherwise"
    if generation.model_digest not in {ref.digest for ref in parts.shelf.refs()}:
        return f"its model {generation.model_name}/{generation.model_version} is not here"
    return ""


def _row(generation: Generation, trouble: str) -> dict[str, object]:
    return {
        "id": generation.id,
        "model": f"{generation.model_name}/{generation.model_version}",
        "image_count": generation.image_count,
        "text_count": generation.text_count,
        "live": generation.live,
        "problem": trouble or None,
    }
