"""What the life cycle of an index needs from the outside: generations, jobs, workers, a score of quality.

`ports.py` has what the rest needs.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from service.application.ports import CodeArray
from service.application.types import Generation, Job, JobKind, JobPhase


class GenerationRepository(Protocol):
    """Index generations and the alias `live`."""

    def add(self, generation: Generation) -> None:
        """Record a generation."""
        ...

    def get(self, generation_id: str) -> Generation | None:
        """One generation, or None."""
        ...

    def all(self) -> list[Generation]:
        """All generations, newest first."""
        ...

    def live(self) -> Generation | None:
        """The generation that the alias names, or None."""
        ...

    def predecessor(self) -> Generation | None:
        """The generation that was live before the live one while it is kept, or None."""
        ...

    def set_live(self, generation_id: str) -> None:
        """Move the alias; what was live becomes the predecessor. `NotFound` without such a generation."""
        ...

    def remove(self, generation_id: str) -> None:
        """Forget a generation; `Conflict` when it is live."""
        ...


class JobRepository(Protocol):
    """Persistent jobs, one active of each kind at a time; a reindex and a catch-up exclude each other."""

    def create(
        self,
        kind: JobKind,
        model: str,
        activate: bool,
        key: str | None,
        keep_key: timedelta,
        generation_id: str | None = None,
        quality_floor: float | None = None,
    ) -> tuple[Job, bool]:
        """A new job and True, or the job that the idempotency key made before and False.

        Raises `Conflict` when one is active beside which it cannot run, or when the key was used for
        something else.
        """
        ...

    def get(self, job_id: str) -> Job | None:
        """One job, or None."""
        ...

    def recent(self, limit: int) -> list[Job]:
        """Jobs, newest first."""
        ...

    def active(self) -> list[str]:
        """Ids of the jobs that are not final."""
        ...

    def advance(self, job_id: str, **changes: object) -> bool:
        """Change an active job and beat its heart; False (nothing changed) when it is final already."""
        ...

    def swap(self, job_id: str, generation_id: str) -> bool:
        """Move the alias on behalf of an active job, in one transaction; False when the job is final."""
        ...

    def end(self, job_id: str, phase: JobPhase, error: str | None = None) -> JobPhase | None:
        """End an active job: `done` when the alias was moved on its behalf, else as said; None when final."""
        ...

    def beat(self, job_id: str) -> bool:
        """Record that the worker is alive; True when the job was asked to stop or is final."""
        ...

    def request_cancel(self, job_id: str) -> Job | None:
        """Ask an active job to stop; the job as it is now, or None when unknown."""
        ...

    def fail_silent(self, silent_for: timedelta, reason: str) -> list[str]:
        """End, as `end` does, the active jobs whose worker was silent for so long; those that failed."""
        ...


class Worker(Protocol):
    """A started worker process."""

    def poll(self) -> int | None:
        """Exit status, None while it runs."""
        ...

    def terminate(self) -> None:
        """Ask it to stop at the next batch."""
        ...


class Launcher(Protocol):
    """Starts worker processes."""

    def __call__(self, job_id: str) -> Worker:
        """Start a worker for the job."""
        ...


class WorkerWatch(Protocol):
    """Knows of worker processes that nobody here has started."""

    def __call__(self, job_id: str) -> bool:
        """True when the job's worker is certainly dead; False when it lives or nobody can tell."""
        ...


class PairScore(Protocol):
    """Scores codes of queries against codes of items."""

    def __call__(
        self, queries: CodeArray, items: CodeArray, relevance: NDArray[np.bool_], bits: int
    ) -> float:
        """Tie-aware mAP, 0 to 1, of packed codes (q, bits / 8) against (n, bits / 8), `relevance` (q, n).

        Queries without a relevant item do not count; NaN when none does.
        """
        ...
