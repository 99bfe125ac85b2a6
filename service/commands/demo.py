"""`hashguard demo`: from nothing to a service that answers, with the sample corpus and the sample model.

Each step leaves its result whole or not at all, and a step whose result is there is skipped: a second
start takes seconds, and a first start that was cut off goes on where it stopped.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from importlib.resources import files
from pathlib import Path
from typing import Annotated

import typer

import service
from service.commands.console import err, escape, fail, note, say
from service.commands.home import adopt_model, build_index, import_folder, opened, report_import
from service.commands.options import DeviceOption, HomeOption, settings_with
from service.commands.serve import listen, run
from service.settings import Settings
from service.wiring import Parts

PAIRS = 4000
SEED = 0


def demo(
    home: HomeOption = None,
    port: Annotated[int, typer.Option(help="Port on 127.0.0.1; 0 picks a free one.")] = 8000,
    no_serve: Annotated[bool, typer.Option("--no-serve", help="Prepare everything, then end.")] = False,
    pairs: Annotated[int, typer.Option(min=1, help="Size of the sample corpus, in pairs.")] = PAIRS,
    device: DeviceOption = None,
) -> None:
    """Prepare the sample corpus, model and index, and serve them on this machine."""
    settings = settings_with(home=home, host="127.0.0.1", port=port, device=device)
    bound = None if no_serve else listen(settings)
    corpus = _corpus(settings, pairs)
    label = adopt_model(settings, str(sample_model()))
    with opened(settings) as parts:
        _index(parts, settings, corpus, label)
    if bound is not None:
        run(settings, bound, lambda address: _announce(address, corpus))


def sample_model() -> Path:
    """The newest sample model that is shipped with the package; ends the command when there is none."""
    shelf = Path(str(files(service).joinpath("assets/models/sample")))
    versions = [folder for folder in shelf.glob("*") if (folder / "manifest.json").is_file()]
    if not versions:
        fail(f"this installation has no sample model (looked in {shelf}); `make sample-model` makes it")
    return max(versions, key=lambda folder: int(folder.name))


def _corpus(settings: Settings, pairs: int) -> Path:
    """The folder of the sample corpus, drawn by `hashguard data sample` in a process of its own."""
    folder = settings.home / "demo" / f"sample-{pairs}"
    if folder.is_dir():
        return folder
    partial = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.parent.mkdir(parents=True, exist_ok=True)
    note(f"drawing {pairs} pairs of the sample corpus")
    command = [sys.executable, "-m", "service.cli", "data", "sample", str(partial)]
    options = ["--pairs", str(pairs), "--seed", str(SEED)]
    drawn = subprocess.run(  # noqa: S603 - this very program with fixed words
        [*command, *options], env=_environment(), stdout=subprocess.DEVNULL, check=False
    )
    if drawn.returncode != 0:
        fail(f"`hashguard data sample` ended with status {drawn.returncode}")
    partial.rename(folder)
    return folder


def _environment() -> dict[str, str]:
    """The environment of a child that finds the same packages as this process."""
    root = str(Path(str(service.__file__)).parent.parent)
    return os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))}


def _index(parts: Parts, settings: Settings, corpus: Path, label: str) -> None:
    """Import the corpus and build an index, unless that was done before."""
    done = settings.home / "demo" / "indexed.json"
    wanted = {"corpus": corpus.name, "model": label}
    known = json.loads(done.read_text(encoding="utf-8")) if done.is_file() else None
    if known == wanted and parts.catalog.generations.live() is not None:
        return
    report = import_folder(parts, corpus, label)
    report_import(report)
    job = build_index(parts, label)
    done.write_text(json.dumps(wanted), encoding="utf-8")
    note(f"{parts.catalog.items.count()} items indexed as generation {job.generation_id}")


def _announce(address: str, corpus: Path) -> None:
    """The address, and two calls to try with what is really there."""
    with (corpus / "pairs.jsonl").open(encoding="utf-8") as lines:
        pair = json.loads(next(lines))
    body = json.dumps({"text": pair["texts"][0], "k": 3})
    say(f"hashguard is ready: {address}")
    say("Images for a text:")
    header = "-H 'Content-Type: application/json'"
    say(f"  curl -s {address}/v1/search/text-to-image {header} -d {escape(shlex.quote(body))}")
    say("Texts for an image:")
    image = escape(shlex.quote(f"image=@{(corpus / pair['image']).resolve()}"))
    say(f"  curl -s {address}/v1/search/image-to-text -F k=3 -F {image}")
    err.print("Ctrl-C ends it.")
