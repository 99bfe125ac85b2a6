"""A home folder as the commands work on it: opened and closed, models brought in, corpus and index built."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

from model.artefact import ModelCard, carry_robustness, read_card, verify
from model.errors import ArtefactError
from service.api.logs import configure_logs
from service.application.building import choose_model
from service.application.errors import NotFound
from service.application.findings import Finding
from service.application.inspect_catalog import CatalogFit
from service.application.manifest_import import ImportReport
from service.application.types import Generation, Job, JobPhase
from service.catalog.catalog import catalog_exists, catalog_place
from service.catalog_wiring import utc_now
from service.commands.console import fail, note, progress_bar
from service.inspection_wiring import build_blob_inspection, build_generation_inspection
from service.settings import Settings
from service.wiring import Parts, build_blobs, build_importer, open_parts, rebuild, roll_back

MANIFEST = "manifest.json"


@contextmanager
def opened(settings: Settings, existing: bool = False) -> Iterator[Parts]:
    """The parts of a home folder; warnings go to standard error as plain lines.

    A catalog that is not there is made, or with `existing` raises `NotFound`: what inspects and mends must
    never take a new one for the home's.
    """
    configure_logs("warning", as_json=False)
    if existing and not catalog_exists(settings.database_url()):
        raise NotFound(no_catalog(settings), code="catalog_not_found")
    parts = open_parts(settings)
    try:
        yield parts
    finally:
        parts.close()


def no_catalog(settings: Settings) -> str:
    """That there is no catalog, where one was wanted, and what there is of the home without it."""
    there = remains(settings)
    home = f"the home has {', '.join(there)}" if there else "the home is empty"
    return f"wanted a catalog in {catalog_place(settings.database_url())}, there is none; {home}"


def remains(settings: Settings) -> list[str]:
    """What a home has that only a catalog explains: of images and generations those that there are.

    Models may be there before the first start. Raises OSError when a folder or the blob store cannot be read.
    """
    images = next(build_blobs(settings).entries(), None) is not None
    folder = settings.generations_folder
    generations = folder.is_dir() and any(folder.iterdir())
    return [name for name, there in (("images", images), ("generations", generations)) if there]


def doubts(parts: Parts, grace: timedelta) -> Iterator[Finding]:
    """Signs that the home was written with another catalog, by which nothing is to be mended then.

    Raises `Unavailable` when the catalog cannot be read, OSError when the blob store cannot.
    """
    images, index = build_blob_inspection(parts, grace), build_generation_inspection(parts, grace)
    fit = CatalogFit(
        parts.catalog.codes.last_seq,
        parts.catalog.generations,
        index.folders,
        images.listing,
        utc_now,
        grace,
    )
    return fit.find()


def adopt_model(settings: Settings, model: str) -> str:
    """Make sure that the home has the model; its label `name/version`.

    `model` is the folder of an artefact, which is verified and copied in, or the label of one that is
    there already, or `latest`, which is given back as it is. What was recorded of a model's evaluation in
    the folder comes along, also into a copy that is there and has no record of its own.

    Raises:
        ArtefactError: the folder holds no sound artefact, or one that differs from the home's of that name.
    """
    folder = Path(model)
    if not (folder / MANIFEST).is_file():
        if folder.is_dir():
            raise ArtefactError(f"{folder} holds no {MANIFEST}: a model artefact was wanted")
        return model
    card = verify(folder)
    place = settings.models_folder / card.name / card.version
    if place.is_dir():
        _check_same(card, place)
        carry_robustness(folder, place)
    else:
        _copy_in(folder, place)
    return f"{card.name}/{card.version}"


def _check_same(card: ModelCard, place: Path) -> None:
    present = read_card(place)
    if present.digest != card.digest:
        raise ArtefactError(
            f"the home has another model {card.name}/{card.version} (digest {present.digest[:12]}, "
            f"wanted {card.digest[:12]}): give the new one another version"
        )
    verify(place)


def _copy_in(folder: Path, place: Path) -> None:
    """Copy beside the place, then rename: a copy that is cut off is never taken for a model."""
    place.parent.mkdir(parents=True, exist_ok=True)
    partial = place.with_name(f".{uuid.uuid4().hex}")
    try:
        shutil.copytree(folder, partial)
        verify(partial)  # somebody may have recorded an evaluation there while it was copied
        partial.replace(place)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def import_folder(parts: Parts, data: Path, model: str, quiet: bool = False) -> ImportReport:
    """Bring a manifest folder into the catalog with codes of the model `name/version`.

    What is there unchanged is passed over, so an import that was interrupted goes on where it stopped.
    """
    name, _, version = model.rpartition("/")
    encoder = parts.shelf.load(name, version)
    with progress_bar("importing", None, quiet) as bar:
        return build_importer(parts, encoder).run(data, bar.at)


def build_index(parts: Parts, model: str, quiet: bool = False) -> Job:
    """Build a generation of the whole corpus with the model and make it live; ends the command on failure."""
    with progress_bar("building", None, quiet) as bar:
        job = rebuild(parts, model, lambda seen: bar.at(seen.done, seen.total or None, seen.phase.value))
    if job.phase is not JobPhase.DONE:
        fail(f"the index was not built, the job {job.phase.value}: {job.error or 'no reason given'}")
    _name_left_out(job)
    return job


def _name_left_out(job: Job) -> None:
    """Name the items that a job went on without."""
    for one in job.validation.left_out if job.validation is not None else ():
        note(f"{one.count} items are not in it ({one.reason}): {', '.join(one.ids)}")


def make_live(parts: Parts, generation: Generation, quiet: bool = False) -> None:
    """Make a kept generation live, brought up to date first; ends the command on failure."""
    with progress_bar("catching up", None, quiet) as bar:
        job = roll_back(
            parts, generation, lambda seen: bar.at(seen.done, seen.total or None, seen.phase.value)
        )
    if job is not None and job.phase is not JobPhase.DONE:
        fail(f"generation {generation.id} is not live, the job {job.phase.value}: {job.error or 'no reason'}")
    if job is not None:
        _name_left_out(job)


def resolved(parts: Parts, model: str) -> str:
    """The label of a model given as `latest` or as a label. Raises `NotFound`."""
    live = parts.catalog.generations.live()
    return choose_model(parts.shelf, model, live.model_name if live else None).label


def report_import(report: ImportReport) -> None:
    """Name the lines of an import that did not come in."""
    for problem in report.problems:
        note(f"not imported: {problem}")
