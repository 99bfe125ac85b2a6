"""Reindexing as a client sees it: start a job, watch it, stop it; look at generations and roll back.

The work is done by another process (see `jobs.py`), so that it neither slows the service's model thread
nor takes the service down with it. A job counts as done here when this process serves its generation:
whoever reads "done" and searches gets the new model's answer.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, replace
from datetime import timedelta

import structlog

from service.application.building import choose_model
from service.application.errors import InvalidInput, NotFound
from service.application.follower import Follower
from service.application.life_cycle_ports import (
    GenerationRepository,
    JobRepository,
    Launcher,
    Worker,
    WorkerWatch,
)
from service.application.ports import ModelShelf
from service.application.serving import ServingState
from service.application.types import Generation, Job, JobKind, JobPhase

_MAX_JOBS = 1000
_MAX_KEY = 200

_log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class ReindexOptions:
    """How long a worker may be silent, who knows better, and how long an idempotency key counts."""

    worker_timeout: timedelta
    is_dead: WorkerWatch
    keep_key: timedelta


def end_abandoned(jobs: JobRepository, options: ReindexOptions) -> None:
    """End the jobs whose worker is known to be dead, or has not been heard of for too long."""
    reason = "the worker process died before the job was done"
    for job_id in jobs.active():
        if options.is_dead(job_id) and jobs.end(job_id, JobPhase.FAILED, reason) is JobPhase.FAILED:
            _log.error("worker_dead", job=job_id)
    silence = options.worker_timeout
    reason = f"the worker has not been heard of for {silence.total_seconds():g} s"
    for job_id in jobs.fail_silent(silence, reason):
        _log.error("worker_silent", job=job_id)


class Reindexing:
    """Jobs and generations; safe to call from any thread."""

    def __init__(
        self,
        jobs: JobRepository,
        generations: GenerationRepository,
        shelf: ModelShelf,
        launch: Launcher,
        state: ServingState,
        follower: Follower,
        options: ReindexOptions,
    ) -> None:
        self._jobs = jobs
        self._generations = generations
        self._shelf = shelf
        self._launch = launch
        self._state = state
        self._follower = follower
        self._options = options
        self._workers: dict[str, Worker] = {}
        self._lock = threading.Lock()

    def start(
        self, model: str, activate: bool, idempotency_key: str | None, quality_floor: float | None = None
    ) -> Job:
        """Start a reindex with "latest" or "name/version"; the active model builds a new generation too.

        `quality_floor`: how much lower than the live model's an mAP may be, 0 to 1; None for the service's
        own. Raises `NotFound` (model), `InvalidInput` (key, floor), `Conflict` while one runs or when the
        key was used for another request. The same key and request give the same job, whatever has become
        of it.
        """
        if quality_floor is not None and not 0 <= quality_floor <= 1:
            raise InvalidInput(f"a quality floor is 0 to 1, got {quality_floor}", code="bad_quality_floor")
        if idempotency_key is not None and not 1 <= len(idempotency_key) <= _MAX_KEY:
            raise InvalidInput(
                f"an Idempotency-Key has 1 to {_MAX_KEY} characters", code="bad_idempotency_key"
            )
        live = self._generations.live()
        choose_model(self._shelf, model, live.model_name if live else None)
        self.watch()
        keep_key = self._options.keep_key
        job, new = self._jobs.create(
            JobKind.REINDEX, model, activate, idempotency_key, keep_key, None, quality_floor
        )
        if new:
            self._start_worker(job.id)
        return self.job(job.id)

    def job(self, job_id: str) -> Job:
        """One job. Raises `NotFound`."""
        return self._as_seen_here(self._known(self._jobs.get(job_id), job_id))

    def jobs(self, limit: int) -> list[Job]:
        """Jobs, newest first. Raises `InvalidInput`."""
        if not 1 <= limit <= _MAX_JOBS:
            raise InvalidInput(f"limit is 1 to {_MAX_JOBS}, got {limit}", code="bad_limit")
        return [self._as_seen_here(job) for job in self._jobs.recent(limit)]

    def cancel(self, job_id: str) -> Job:
        """Ask a job to stop; it does so between two batches. A job that is final stays what it is.

        Raises `NotFound`.
        """
        return self._as_seen_here(self._known(self._jobs.request_cancel(job_id), job_id))

    def generations(self) -> list[Generation]:
        """The kept generations, newest first."""
        return self._generations.all()

    def activate(self, generation_id: str) -> Generation | Job:
        """Serve a kept generation that holds all that was written since.

        The predecessor is served when this returns: its model has encoded every write. An older generation,
        or one that never was live, lacks codes: a job encodes them first and then serves it. Raises
        `NotFound`, `Conflict` while another job runs that an older one would need to wait for, and
        `Unavailable` when the generation cannot be loaded: the alias stays where it was then.
        """
        generation = self._generations.get(generation_id)
        if generation is None:
            raise NotFound(
                f"there is no index generation {generation_id[:80]!r}", code="generation_not_found"
            )
        if not generation.live and not generation.predecessor:
            return self._catch_up(generation)
        current = self._state.current
        if current is None or current.generation.id != generation_id or not generation.live:
            self._follower.switch(generation, lambda: self._generations.set_live(generation_id))
        return replace(generation, live=True, predecessor=False)

    def watch(self) -> None:
        """Fail the jobs whose worker has died; called again and again while the service runs."""
        with self._lock:
            ended = {
                job_id: code for job_id, one in self._workers.items() if (code := one.poll()) is not None
            }
            for job_id in ended:
                del self._workers[job_id]
            running = list(self._workers)
        for job_id, code in ended.items():
            reason = f"the worker process ended with status {code} before the job was done"
            if self._jobs.end(job_id, JobPhase.FAILED, reason) is not None:
                _log.error("worker_died", job=job_id, status=code)
        for job_id in running:
            self._vouch(job_id)
        end_abandoned(self._jobs, self._options)

    def close(self) -> None:
        """Stop the workers that this process started."""
        with self._lock:
            workers, self._workers = self._workers, {}
        for worker in workers.values():
            worker.terminate()

    def _catch_up(self, generation: Generation) -> Job:
        self.watch()
        label = f"{generation.model_name}/{generation.model_version}"
        job, _ = self._jobs.create(JobKind.CATCH_UP, label, True, None, self._options.keep_key, generation.id)
        self._start_worker(job.id)
        return self.job(job.id)

    def _start_worker(self, job_id: str) -> None:
        try:
            worker = self._launch(job_id)
        except OSError as error:
            self._jobs.end(job_id, JobPhase.FAILED, f"no worker could start: {error}")
        else:
            with self._lock:
                self._workers[job_id] = worker

    def _vouch(self, job_id: str) -> None:
        """Beat the heart of a job whose process lives but has not begun: loading libraries takes a while."""
        job = self._jobs.get(job_id)
        if job is not None and job.phase is JobPhase.QUEUED:
            self._jobs.beat(job_id)

    def _as_seen_here(self, job: Job) -> Job:
        """The job, still `swapping` while this process does not serve the generation that it made live."""
        if job.phase is not JobPhase.DONE or not job.activate or job.generation_id is None:
            return job
        live = self._generations.live()
        current = self._state.current
        if live is None or live.id != job.generation_id or (current and current.generation.id == live.id):
            return job
        failure = self._follower.failure(live.id)
        if failure is not None:
            return replace(job, phase=JobPhase.FAILED, error=failure)
        return replace(job, phase=JobPhase.SWAPPING, finished=None)

    @staticmethod
    def _known(job: Job | None, job_id: str) -> Job:
        if job is None:
            raise NotFound(f"there is no job {job_id[:80]!r}", code="job_not_found")
        return job
