"""`hashguard index export | import | import-codes`: codes out of a home and into one, without encoding.

`export` and `import` move the codes of a model between homes and backends; `import-codes` takes in codes that
were computed elsewhere, by the million. docs/operations.md describes the files.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from service.application.ports import Encoder, ModelRef
from service.application.types import Side
from service.bulk_wiring import (
    FolderExports,
    build_bulk_import,
    build_transfer,
    check_backend,
    model_of,
    read_codes,
)
from service.commands.console import JsonOption, fail, note, progress_bar, say, show_json
from service.commands.home import build_index, opened, resolved
from service.commands.options import DeviceOption, HomeOption, KeepOption, settings_with
from service.wiring import Parts

_NAMED = 5

BackendOption = Annotated[
    str | None,
    typer.Option(
        "--backend",
        help="Backend of the new index (HASHGUARD_INDEX_BACKEND); its engine's URL: HASHGUARD_INDEX_URL.",
        show_default=False,
    ),
]


def export(
    target: Annotated[Path, typer.Argument(help="Folder to make; it must not be there.", show_default=False)],
    home: HomeOption = None,
    model: Annotated[
        str | None, typer.Option(help="NAME/VERSION; the live model when not given.", show_default=False)
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Write all codes of a model to a folder that any home with the same model can import."""
    with opened(settings_with(home=home)) as parts:
        chosen = _exported_model(parts, model)
        with progress_bar("exporting", None, as_json) as bar:
            counts = build_transfer(parts).export(
                chosen, target, lambda label, done, total: bar.at(done, total or None, label)
            )
    if as_json:
        show_json({"export": str(target), "model": chosen.label, "digest": chosen.digest, "codes": counts})
    else:
        say(f"{counts['image']} image and {counts['text']} text codes of {chosen.label} are in {target}")


def take(
    folder: Annotated[Path, typer.Argument(help="Folder that `index export` made.", show_default=False)],
    home: HomeOption = None,
    backend: BackendOption = None,
    codes_only: Annotated[
        bool, typer.Option("--codes-only", help="Keep the codes, build no index: `index build` does later.")
    ] = False,
    device: DeviceOption = None,
    keep: KeepOption = None,
    as_json: JsonOption = False,
) -> None:
    """Take in exported codes, build an index of them in any backend and make it live.

    A code is taken for the item of its id when that has the content that the code was made of; what has none
    is encoded. Codes of another model than one of this home's are refused, and then nothing is kept.
    """
    settings = settings_with(home=home, index_backend=backend, device=device, keep_generations=keep)
    check_backend(settings)
    with opened(settings) as parts:
        file = FolderExports().open(folder)
        chosen = model_of(parts, file.head)
        encoder = parts.shelf.load(chosen.name, chosen.version)
        with progress_bar("comparing", None, as_json) as bar:
            taken = build_transfer(parts).take(
                encoder, file, lambda label, done, total: bar.at(done, total, label)
            )
        lacking = parts.catalog.codes.count_lacking(encoder.digest, encoder.modalities)
        job = None if codes_only else build_index(parts, chosen.label, as_json)
    counted = {**vars(taken), "encoded": 0 if codes_only else lacking}
    if as_json:
        generation = None if job is None else job.generation_id
        show_json({"generation": generation, "model": chosen.label, "codes": counted})
        return
    say(
        f"codes of {chosen.label}: {taken.new} new, {taken.known} known, {taken.changed} of items that have "
        f"changed, {taken.absent} of items that are not here"
    )
    if job is not None:
        made = f"generation {job.generation_id} is live in {settings.index_backend}"
        say(f"{made}; {lacking} items were encoded")


def import_codes(
    ids: Annotated[Path, typer.Option("--ids", help="Ids, one a line.", show_default=False)],
    model: Annotated[
        str,
        typer.Option("--model", help="NAME/VERSION of the model that made the codes.", show_default=False),
    ],
    image_codes: Annotated[
        Path | None,
        typer.Option(help="Image codes: .npy, uint8 (n, bits/8), row i for line i.", show_default=False),
    ] = None,
    text_codes: Annotated[
        Path | None, typer.Option(help="Text codes, in the same form.", show_default=False)
    ] = None,
    home: HomeOption = None,
    backend: BackendOption = None,
    device: DeviceOption = None,
    keep: KeepOption = None,
    as_json: JsonOption = False,
) -> None:
    """Take in ready codes by the million, build an index of them and make it live.

    An id that is not in the corpus becomes an item with neither text nor image: no other model can encode
    that one.
    """
    settings = settings_with(home=home, index_backend=backend, device=device, keep_generations=keep)
    check_backend(settings)
    given: dict[Side, Path | None] = {"image": image_codes, "text": text_codes}
    files = {side: path for side, path in given.items() if path is not None}
    if not files:
        fail("give --image-codes, --text-codes or both")
    with opened(settings) as parts:
        name, _, version = resolved(parts, model).rpartition("/")
        encoder = parts.shelf.load(name, version)
        started = time.monotonic()
        ready = read_codes(ids, files, encoder.bits)
        with progress_bar("storing", len(ready.ids), as_json) as bar:
            done = build_bulk_import(parts).run(
                encoder, ready, lambda label, at, total: bar.at(at, total or None, label)
            )
        seconds = time.monotonic() - started
        left_out, first = _left_out(parts, encoder)
    if as_json:
        show_json(
            {"generation": done.generation.id, "model": f"{name}/{version}", "items": done.items,
             "created": done.created, "seconds": round(seconds, 3), "catalog_s": round(done.catalog_s, 3),
             "index_s": round(done.index_s, 3), "left_out": {"count": left_out, "ids": first}}
        )  # fmt: skip
    else:
        rate = done.items / max(seconds, 1e-3)
        say(
            f"generation {done.generation.id} of {name}/{version} is live: {done.items} items, "
            f"{done.created} of them new, {rate:.0f} items/s"
        )


def _left_out(parts: Parts, encoder: Encoder) -> tuple[int, list[str]]:
    """How many bare items have no code of the model, and the first; they are named as well."""
    count, first = parts.catalog.codes.stranded(encoder.digest, _NAMED)
    if count:
        note(
            f"{count} items are not in it: they came as bare codes of another model, and none of "
            f"{encoder.model_name}/{encoder.model_version} came for them; the first are {', '.join(first)}"
        )
    return count, first


def _exported_model(parts: Parts, model: str | None) -> ModelRef:
    """The model whose codes are to be exported; ends the command when there is none."""
    label = model
    if label is None:
        live = parts.catalog.generations.live()
        if live is None:
            fail("no generation is live: name the model whose codes to export")
        label = f"{live.model_name}/{live.model_version}"
    label = resolved(parts, label)
    return next(ref for ref in parts.shelf.refs() if ref.label == label)
