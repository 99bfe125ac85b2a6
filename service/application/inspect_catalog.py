"""Inspects the catalog by itself: the database, its counter, rows without an item, jobs without a worker."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from service.application.findings import Fault, Finding, some
from service.application.inspection_ports import AuditRepository
from service.application.life_cycle_ports import JobRepository, WorkerWatch

_NAMED = 5
_RESTORE = "restore the catalog from a back-up (docs/operations.md, Files)"


@dataclass(frozen=True)
class CatalogInspection:
    """Finds what is wrong in the catalog; `end_abandoned` ends the jobs whose worker is dead."""

    audit: AuditRepository
    jobs: JobRepository
    is_dead: WorkerWatch
    end_abandoned: Callable[[], None]

    def find(self) -> Iterator[Finding]:
        """All of it, one after the other. Raises `Unavailable` when the catalog cannot be read."""
        damage = self.audit.damage()
        for line in damage:
            yield Finding(Fault.CATALOG_DAMAGED, "catalog", line, _RESTORE)
        if damage:
            return  # what such a file says of anything else is not to be believed
        yield from self._counts()
        yield from self._rows()
        yield from self._jobs()

    def _counts(self) -> Iterator[Finding]:
        counted, rows = self.audit.item_counts()
        if counted != rows:
            yield Finding(
                Fault.ITEM_COUNT,
                "catalog",
                f"it holds {rows} items, its counter says {counted}",
                "run again with --repair",
                lambda: f"the counter says {self.audit.recount()}",
            )

    def _rows(self) -> Iterator[Finding]:
        for table, (count, ids) in self.audit.strays().items():
            yield Finding(
                Fault.ROW_MISSING,
                table,
                f"rows there belong to items that have no row of their own: {some(count, ids)}",
                f"{_RESTORE}; what a row said cannot be made again",
            )
        count, ids = self.audit.empty_items(_NAMED)
        if count:
            yield Finding(
                Fault.ITEM_EMPTY,
                "items",
                f"neither image nor text nor a code: {some(count, ids)}",
                "import their codes (hashguard index import-codes), PUT their content, or DELETE them",
            )

    def _jobs(self) -> Iterator[Finding]:
        for job_id in self.jobs.active():
            if self.is_dead(job_id):
                yield Finding(
                    Fault.JOB_ABANDONED,
                    job_id,
                    "the job counts as running and its worker is dead",
                    "start the service, or run again with --repair",
                    self._ended,
                )

    def _ended(self) -> str:
        self.end_abandoned()
        return "the job has ended, and another one may start"
