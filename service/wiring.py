"""The composition root: the one place that knows concrete classes and joins them to an application.

`build_application` makes what is served; `open_parts` what the command line and the worker work with.
Importing this module loads torch and Faiss.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from functools import partial

from service.adapters import DiskGenerations, DiskModels, jpeg_thumbnail
from service.application.acceptance import Acceptance
from service.application.app import Application
from service.application.batching import BatchingOptions, ModelThread
from service.application.building import Builder, choose_model
from service.application.catchup import CatchUp
from service.application.follower import Follower, Loader
from service.application.health import Health
from service.application.images import Thumbnails
from service.application.ingest import Items
from service.application.jobs import JobRunner
from service.application.life_cycle_ports import Launcher
from service.application.manifest_import import Importer
from service.application.models import Models
from service.application.ports import BlobStore, Encoder, GenerationStore, ModelShelf, SearchIndex
from service.application.quality import QualityCheck
from service.application.reindex import Reindexing, ReindexOptions, end_abandoned
from service.application.search import Retrieval
from service.application.serving import ServingState
from service.application.standby import StandbyKeeper
from service.application.ticker import Ticker
from service.application.types import Generation, Job, JobKind
from service.application.validation import Limits
from service.application.writing import Writer
from service.catalog.blobs import FsspecBlobs
from service.catalog.catalog import SqlCatalog
from service.catalog_wiring import build_catalog, build_keyring, utc_now
from service.scoring import packed_map
from service.settings import Settings
from service.worker_processes import open_log, worker_is_dead, worker_launcher

_WATCH_S = 1.0
_LAST_USE_S = 60.0


@dataclass(frozen=True)
class Parts:
    """The pieces that everything is made of, over one home folder."""

    settings: Settings
    catalog: SqlCatalog
    blobs: BlobStore
    shelf: ModelShelf
    store: GenerationStore

    def close(self) -> None:
        """Close the catalog."""
        self.catalog.close()


def build_blobs(settings: Settings) -> FsspecBlobs:
    """The blob store."""
    return FsspecBlobs(settings.blob_store_url())


def build_shelf(settings: Settings) -> DiskModels:
    """The models of the home folder, with attack scores when they are on."""
    return DiskModels(settings.models_folder, settings.device, scores=settings.attack_score == "on")


def build_generations(settings: Settings) -> DiskGenerations:
    """The index generations, in the configured backend."""
    return DiskGenerations(settings.generations_folder, settings.index_backend, settings.engine_url())


def build_index(settings: Settings, bits: int) -> SearchIndex:
    """An empty index of the configured backend."""
    return build_generations(settings).new_index(bits)


def load_encoder(settings: Settings, model: str) -> Encoder:
    """Load "latest" or "name/version" of the home's models. Raises `NotFound`, `Unavailable`."""
    shelf = build_shelf(settings)
    chosen = choose_model(shelf, model, None)
    return shelf.load(chosen.name, chosen.version)


def open_parts(settings: Settings, shelf: ModelShelf | None = None) -> Parts:
    """Open a home folder; another `shelf` of models may be given instead of the one on disk."""
    return Parts(
        settings,
        build_catalog(settings),
        build_blobs(settings),
        shelf or build_shelf(settings),
        build_generations(settings),
    )


def build_limits(settings: Settings) -> Limits:
    """What clients may send."""
    return Limits(**{name: getattr(settings, name) for name in Limits.__dataclass_fields__})


def build_builder(parts: Parts) -> Builder:
    """Builds generations."""
    return Builder(
        codes=parts.catalog.codes,
        generations=parts.catalog.generations,
        blobs=parts.blobs,
        shelf=parts.shelf,
        store=parts.store,
        acceptance=Acceptance(
            parts.catalog.generations,
            parts.store,
            QualityCheck(parts.catalog.codes, parts.catalog.items, packed_map),
        ),
        clock=utc_now,
        batch_size=parts.settings.reindex_batch_size,
        skip_broken=parts.settings.reindex_skips_broken_items,
    )


def build_runner(parts: Parts, builder: Builder | None = None) -> JobRunner:
    """Runs reindex jobs in this process, with another `builder` when given."""
    return JobRunner(
        jobs=parts.catalog.jobs,
        generations=parts.catalog.generations,
        shelf=parts.shelf,
        builder=builder or build_builder(parts),
        heartbeat_s=parts.settings.worker_heartbeat_s,
        keep_generations=parts.settings.keep_generations,
        quality_floor=parts.settings.quality_floor,
    )


def build_importer(parts: Parts, encoder: Encoder) -> Importer:
    """Imports manifest folders with codes of this encoder."""
    return Importer(
        items=parts.catalog.items,
        codes=parts.catalog.codes,
        blobs=parts.blobs,
        encoder=encoder,
        limits=build_limits(parts.settings),
        clock=utc_now,
        batch_size=parts.settings.reindex_batch_size,
    )


def ensure_generation(parts: Parts, model: str = "latest") -> Generation | None:
    """The live generation; a home that has none but has a model gets an empty one, which is ready at once.

    None when there is no model either. Raises `NotFound` when `model` names one that is not there.
    """
    live = parts.catalog.generations.live()
    if live is not None:
        return live
    if model == "latest" and not parts.shelf.refs():
        return None
    generation = build_builder(parts).empty(choose_model(parts.shelf, model, None))
    parts.catalog.generations.set_live(generation.id)
    return parts.catalog.generations.live()


def rebuild(parts: Parts, model: str, watch: Callable[[Job], None] | None = None) -> Job:
    """Reindex in this process, without a service, and make the result live; the finished job.

    `watch` sees the job about twice a second. Raises `Conflict` while another job runs.
    """
    end_abandoned(parts.catalog.jobs, job_options(parts.settings))
    job, _ = parts.catalog.jobs.create(JobKind.REINDEX, model, True, None, timedelta(0))
    return run_here(parts, job, watch)


def roll_back(parts: Parts, generation: Generation, watch: Callable[[Job], None] | None = None) -> Job | None:
    """Make a kept generation live without a service; the catch-up job that did so, if one was needed.

    The predecessor and the live one need none. Raises `Unavailable` when such a one is damaged, `Conflict`
    while another job runs.
    """
    if generation.live or generation.predecessor:
        parts.store.load(generation)
        parts.catalog.generations.set_live(generation.id)
        return None
    jobs = parts.catalog.jobs
    end_abandoned(jobs, job_options(parts.settings))
    label = f"{generation.model_name}/{generation.model_version}"
    job, _ = jobs.create(JobKind.CATCH_UP, label, True, None, timedelta(0), generation.id)
    return run_here(parts, job, watch)


def run_here(
    parts: Parts, job: Job, watch: Callable[[Job], None] | None, builder: Builder | None = None
) -> Job:
    """Run a job in this process, as a worker would: with its log locked, so that a crash is seen at once.

    `builder` replaces the usual one.
    """
    watcher = Ticker("watch", 0.5, lambda: _show(parts, job.id, watch))
    with open_log(parts.settings.logs_folder, job.id):
        watcher.start()
        try:
            return build_runner(parts, builder).run(job.id, threading.Event())
        finally:
            watcher.stop()


def build_application(
    settings: Settings, shelf: ModelShelf | None = None, launch: Launcher | None = None
) -> Application:
    """The application over `settings.home`; call `start` before use and `close` after.

    A home with a model but no generation gets an empty generation. `shelf` and `launch` replace the models
    on disk and the worker processes.
    """
    parts = open_parts(settings, shelf)
    ensure_generation(parts)
    state = ServingState()
    thread = ModelThread(_batching(settings))
    catch_up = CatchUp(parts.catalog.codes, parts.blobs)
    loader = Loader(parts.shelf, parts.store, thread)
    follower = Follower(state, parts.catalog.generations, loader, catch_up)
    reindexing = Reindexing(
        parts.catalog.jobs,
        parts.catalog.generations,
        parts.shelf,
        launch or worker_launcher(settings),
        state,
        follower,
        job_options(settings),
    )
    standby = StandbyKeeper(state, parts.catalog.generations, loader, catch_up)
    keyring = build_keyring(parts.catalog)
    health = Health(state, parts.catalog.items, settings.canary_max_age_s)
    return Application(
        retrieval=Retrieval(
            state, parts.catalog.items, parts.catalog.codes, parts.blobs, build_limits(settings)
        ),
        items=_items(parts, state),
        reindexing=reindexing,
        models=Models(parts.shelf),
        keyring=keyring,
        health=health,
        follower=follower,
        thread=thread,
        tickers=(
            Ticker("follower", settings.follower_poll_s, follower.tick),
            Ticker("standby", settings.follower_poll_s, standby.tick),
            Ticker("canary", settings.canary_interval_s, health.probe),
            Ticker("jobs", _WATCH_S, reindexing.watch),
            Ticker("keys", _LAST_USE_S, keyring.flush),
        ),
        catalog=parts.catalog,
    )


def job_options(settings: Settings) -> ReindexOptions:
    """How jobs are watched."""
    return ReindexOptions(
        timedelta(seconds=settings.worker_timeout_s),
        partial(worker_is_dead, settings.logs_folder),
        timedelta(hours=settings.idempotency_hours),
    )


def _items(parts: Parts, state: ServingState) -> Items:
    repository, blobs = parts.catalog.items, parts.blobs
    return Items(
        state=state,
        repository=repository,
        blobs=blobs,
        thumbnails=Thumbnails(blobs, jpeg_thumbnail, parts.settings.cache_folder / "thumbnails"),
        writer=Writer(state, repository, blobs, utc_now),
        limits=build_limits(parts.settings),
    )


def _batching(settings: Settings) -> BatchingOptions:
    return BatchingOptions(
        max_batch=settings.model_batch_size,
        max_delay_s=settings.model_batch_delay_ms / 1000,
        max_queue=settings.model_queue_size,
        deadline_s=settings.model_deadline_s,
        max_decodes=settings.image_decodes_at_once,
    )


def _show(parts: Parts, job_id: str, watch: Callable[[Job], None] | None) -> None:
    job = parts.catalog.jobs.get(job_id)
    if watch is not None and job is not None:
        watch(job)
