"""Runs one job, a reindex or a catch-up, in whatever process it was given to, and keeps its row.

A thread beats the job's heart while the work goes on, so that a process that dies is noticed by silence,
and hears there whether somebody asked to stop; the work looks at that between batches.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass

import structlog

from service.application.building import Builder, Progress, Report, choose_model
from service.application.errors import NotFound, ServiceError
from service.application.life_cycle_ports import GenerationRepository, JobRepository
from service.application.ports import ModelShelf
from service.application.ticker import Ticker
from service.application.types import Generation, Job, JobKind, JobPhase

_REPORT_EVERY_S = 0.5  # each report is a write to the disk

_log = structlog.get_logger(__name__)


class _StoppedError(Exception):
    """Somebody asked the job to stop, or it is final already."""


@dataclass(frozen=True)
class JobRunner:
    """Runs jobs; `quality_floor` is for those whose request names none."""

    jobs: JobRepository
    generations: GenerationRepository
    shelf: ModelShelf
    builder: Builder
    heartbeat_s: float
    keep_generations: int
    quality_floor: float | None = None

    def run(self, job_id: str, stop: threading.Event) -> Job:
        """Run a queued job to its end; `stop` asks it to stop. What goes wrong stands on the job.

        Raises `NotFound` for an unknown job.
        """
        job = self.jobs.get(job_id)
        if job is None:
            raise NotFound(f"there is no job {job_id!r}")
        heart = Ticker("heart", self.heartbeat_s, lambda: self._beat(job_id, stop))
        heart.start()
        try:
            self._work(job, stop)
        except _StoppedError:
            self.jobs.end(job_id, JobPhase.CANCELLED)
        except KeyboardInterrupt:
            self.jobs.end(job_id, JobPhase.CANCELLED)
            raise
        except Exception as error:  # noqa: BLE001 - a job that fails says so, whatever it was
            detail = error.detail if isinstance(error, ServiceError) else f"{type(error).__name__}: {error}"
            _log.exception("job_failed", job=job_id)
            self.jobs.end(job_id, JobPhase.FAILED, detail)
        finally:
            heart.stop()
        return self.jobs.get(job_id) or job

    def _beat(self, job_id: str, stop: threading.Event) -> None:
        if self.jobs.beat(job_id):
            stop.set()

    def _work(self, job: Job, stop: threading.Event) -> None:
        self._beat(job.id, stop)
        reporter = _Reporter(self.jobs, job.id, stop)
        if job.kind is JobKind.CATCH_UP:
            self._catch_up(job, stop, reporter)
        else:
            self._reindex(job, stop, reporter)
        self.jobs.advance(job.id, phase=JobPhase.DONE, eta_s=None)

    def _reindex(self, job: Job, stop: threading.Event, report: Report) -> None:
        live = self.generations.live()
        model = choose_model(self.shelf, job.model or "latest", live.model_name if live else None)
        self.jobs.advance(job.id, model=model.label)  # what "latest" was, whatever comes later
        floor = self.quality_floor if job.quality_floor is None else job.quality_floor
        generation = self.builder.build(model.name, model.version, report, floor)
        if stop.is_set() or not self._hand_over(job, generation.id):
            self.builder.discard(generation.id)
            raise _StoppedError
        try:
            self.builder.prune(self.keep_generations)
        except (ServiceError, OSError) as error:  # the next reindex prunes again
            _log.warning("not_pruned", error=repr(error))

    def _catch_up(self, job: Job, stop: threading.Event, report: Report) -> None:
        generation = self._kept(job)
        self.builder.catch_up(generation, report)
        if stop.is_set() or not self.jobs.swap(job.id, generation.id):
            raise _StoppedError

    def _kept(self, job: Job) -> Generation:
        found = self.generations.get(job.generation_id or "")
        if found is None:
            raise NotFound(f"the generation {job.generation_id} is not kept any more")
        return found

    def _hand_over(self, job: Job, generation_id: str) -> bool:
        """Name the generation on the job and make it live if asked; False when the job is final."""
        if not self.jobs.advance(job.id, generation_id=generation_id):
            return False
        return not job.activate or self.jobs.swap(job.id, generation_id)


class _Reporter:
    """Writes progress on the job's row, not too often; raises when the job is to stop."""

    def __init__(self, jobs: JobRepository, job_id: str, stop: threading.Event) -> None:
        self._jobs = jobs
        self._job_id = job_id
        self._stop = stop
        self._phase: JobPhase | None = None
        self._due = 0.0

    def __call__(self, progress: Progress) -> None:
        if self._stop.is_set():
            raise _StoppedError
        now = time.monotonic()
        last = progress.done == progress.total
        if progress.phase == self._phase and now < self._due and not last:
            return
        changes: dict[str, object] = {"eta_s": progress.eta_s}
        if progress.validation is not None:
            changes["validation"] = progress.validation
        if progress.phase is not self._phase:
            changes["phase"] = progress.phase
        if progress.phase is JobPhase.ENCODING:
            changes |= {"done": progress.done, "total": progress.total, "rate": progress.rate}
        if not self._jobs.advance(self._job_id, **changes):
            raise _StoppedError
        self._phase, self._due = progress.phase, now + _REPORT_EVERY_S
