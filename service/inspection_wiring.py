"""The part of the composition root that inspects a home and mends it (`hashguard doctor`, `index verify`)."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path

from index.claims import is_remote, left_behind, sweep_claims, unknown_tables
from index.errors import HashIndexError
from index.store import META, list_generations, read_meta, sweep
from model.artefact import scan_models, verify
from model.errors import ArtefactError
from service.application.acceptance import BuildFailed
from service.application.errors import Unavailable
from service.application.inspect_blobs import BlobInspection
from service.application.inspect_catalog import CatalogInspection
from service.application.inspect_generations import GenerationInspection
from service.application.inspection_ports import Rebuilt
from service.application.recoding import Recoding
from service.application.reindex import end_abandoned
from service.application.types import Generation, JobKind, JobPhase, Side
from service.catalog.audit import SqlAudit
from service.catalog.bulk import SqlBulk
from service.catalog_wiring import utc_now
from service.wiring import Parts, build_blobs, build_builder, job_options, run_here

_FOLLOWED_AFTER_POLLS = 10


class StoredGenerations:
    """What lies in the folder of generations and in the engine, a `GenerationFolders`."""

    def __init__(self, folder: Path, backend: str, url: str | None) -> None:
        self._folder = folder
        self._backend = backend
        self._url = url

    def present(self) -> list[str]:
        """Ids of the complete generations."""
        return list_generations(self._folder)

    def read(self, generation_id: str) -> Generation:
        """What META.json says. Raises `Unavailable` when it is damaged."""
        try:
            meta = read_meta(self._folder / generation_id)
        except HashIndexError as error:
            raise Unavailable(f"generation {generation_id}: {error}", code="generation_damaged") from error
        return Generation(
            id=generation_id,
            model_name=meta.model_name,
            model_version=meta.model_version,
            model_digest=meta.model_digest,
            preprocessing_digest=meta.preprocessing_digest,
            bits=meta.bits,
            snapshot_seq=meta.snapshot_seq,
            image_count=meta.counts["image"],
            text_count=meta.counts["text"],
            created=datetime.fromisoformat(meta.created),
            live=False,
        )

    def age(self, generation_id: str, now: datetime) -> timedelta:
        """How long ago META.json, which is written last, was."""
        written = (self._folder / generation_id / META).stat().st_mtime
        return timedelta(seconds=now.timestamp() - written)

    def left_behind(self) -> list[str]:
        """Hidden folders of builds, deletions and tables whose process is dead."""
        return left_behind(self._folder)

    def sweep(self) -> list[str]:
        """Remove them, and drop the tables they refer to; those that are gone. Raises OSError."""
        return [*sweep(self._folder, self._url), *sweep_claims(self._folder, self._url)]

    def unknown_tables(self) -> list[str]:
        """Tables in the engine that this home knows nothing of. Raises `Unavailable`."""
        if self._url is None or not is_remote(self._backend):
            return []
        try:
            return unknown_tables(self._folder, self._backend, self._url)
        except HashIndexError as error:
            raise Unavailable(str(error), code="index_unavailable") from error


class StoredModels:
    """The artefacts of a home, each verified once, a `ModelChecks`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._found: Mapping[str, str] | None = None

    def troubles(self) -> Mapping[str, str]:
        """What is wrong with each damaged artefact, by `name/version`."""
        if self._found is None:
            cards, errors = scan_models(self._folder)
            found = {self._label(str(error)): str(error) for error in errors}
            for card in cards:
                try:
                    verify(card.folder)
                except ArtefactError as error:
                    found[f"{card.name}/{card.version}"] = str(error)
            self._found = found
        return self._found

    def _label(self, error: str) -> str:
        """`name/version` of the folder that an error is about; else the error itself."""
        for place in self._folder.glob("*/*"):
            if error.startswith((f"{place}:", f"{place}/")):
                return f"{place.parent.name}/{place.name}"
        return error


def build_catalog_inspection(parts: Parts) -> CatalogInspection:
    """Inspects the catalog."""
    options = job_options(parts.settings)
    return CatalogInspection(
        SqlAudit(parts.catalog.database),
        parts.catalog.jobs,
        options.is_dead,
        partial(end_abandoned, parts.catalog.jobs, options),
    )


def build_blob_inspection(parts: Parts, grace: timedelta) -> BlobInspection:
    """Inspects the images."""
    blobs = build_blobs(parts.settings)
    return BlobInspection(SqlAudit(parts.catalog.database), blobs, blobs, utc_now, grace)


def build_generation_inspection(parts: Parts, grace: timedelta) -> GenerationInspection:
    """Inspects the index generations."""
    settings = parts.settings
    return GenerationInspection(
        audit=SqlAudit(parts.catalog.database),
        generations=parts.catalog.generations,
        codes=parts.catalog.codes,
        bulk=SqlBulk(parts.catalog.database),
        jobs=parts.catalog.jobs,
        store=parts.store,
        folders=StoredGenerations(settings.generations_folder, settings.index_backend, settings.engine_url()),
        shelf=parts.shelf,
        models=StoredModels(settings.models_folder),
        rebuild=partial(rebuild_in_place, parts),
        clock=utc_now,
        grace=grace,
    )


def rebuild_in_place(parts: Parts, old: Generation, doubt: Mapping[Side, Sequence[str]]) -> Rebuilt | None:
    """Build a generation in another's place; see `Rebuild`.

    It is a reindex with the same model, so that everything of a reindex holds (one at a time, checked before
    an alias moves, a running service follows). Nothing sound is pruned for it, and what cannot be encoded
    does not keep it from being built, since that was not in the old one either. Where the aliases point is
    looked at in the end, since the build may take hours and somebody may roll back meanwhile.
    """
    label = f"{old.model_name}/{old.model_version}"
    jobs, generations = parts.catalog.jobs, parts.catalog.generations
    end_abandoned(jobs, job_options(parts.settings))
    job, _ = jobs.create(JobKind.REINDEX, label, False, None, timedelta(0), None, 1.0)
    if generations.get(old.id) is None:  # from here on nobody else removes any
        jobs.end(job.id, JobPhase.CANCELLED, f"generation {old.id} is not kept any more")
        return None
    keep = {"keep_generations": len(generations.all()) + 1, "reindex_skips_broken_items": True}
    room = replace(parts, settings=parts.settings.model_copy(update=keep))
    recoding = Recoding(parts.catalog.codes, parts.blobs, parts.settings.reindex_batch_size, doubt)
    done = run_here(room, job, None, replace(build_builder(room), before=recoding))
    if done.phase is not JobPhase.DONE or done.generation_id is None:
        raise BuildFailed(f"the index was not built, the job {done.phase.value}: {done.error}")
    _take_place(parts, old.id, done.generation_id)
    return Rebuilt(done.generation_id, recoding.made)


def _take_place(parts: Parts, old_id: str, new_id: str) -> None:
    """Point the aliases at the new generation that point at the old one now, and remove that.

    Its tables in an engine stay until the services that search them have followed. Somebody who made it live
    again meanwhile keeps it.
    """
    audit = SqlAudit(parts.catalog.database)
    if audit.take_place(old_id, new_id) and parts.settings.engine_url() is not None:
        time.sleep(_FOLLOWED_AFTER_POLLS * parts.settings.follower_poll_s)
    if audit.forget(old_id):
        parts.store.delete(old_id)
