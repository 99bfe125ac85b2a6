"""Inspects the catalog: the database, its counter, rows without an item, jobs without a worker.

And whether it is the home's at all: to a new, an older or another catalog every image and every generation
is nobody's, and a repair that believed it would remove them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta

from service.application.errors import Unavailable
from service.application.findings import Fault, Finding, some
from service.application.inspection_ports import AuditRepository, BlobListing, GenerationFolders
from service.application.life_cycle_ports import GenerationRepository, JobRepository, WorkerWatch
from service.application.ports import Clock

_NAMED = 5
_RESTORE = "restore the catalog from a back-up (docs/operations.md, Files)"
_FITTING = (
    "restore the newest catalog from a back-up, or set HASHGUARD_CATALOG_URL to the one that the service "
    "uses; if this is the right one, move aside what it does not know"
)


@dataclass(frozen=True)
class CatalogInspection:
    """Finds what is wrong in the catalog; `end_abandoned` ends the jobs whose worker is dead."""

    audit: AuditRepository
    jobs: JobRepository
    is_dead: WorkerWatch
    end_abandoned: Callable[[], None]

    def find(self, quick: bool = False) -> Iterator[Finding]:
        """All of it, one after the other; `quick` as in `AuditRepository.damage`.

        Raises `Unavailable` when the catalog cannot be read.
        """
        damage = self.audit.damage(quick)
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


@dataclass(frozen=True)
class CatalogFit:
    """Finds signs that what lies in the home was written with a newer catalog, or with another one.

    `grace` is how old an image must be to be a sign: a writer stores the first ones before the first item.
    """

    last_seq: Callable[[], int]
    generations: GenerationRepository
    folders: GenerationFolders
    listing: BlobListing
    clock: Clock
    grace: timedelta

    def find(self) -> Iterator[Finding]:
        """One finding for each sign; none when all fits. Raises `Unavailable` and OSError."""
        present = self.folders.present()  # before the catalog: what is built meanwhile is in both
        known = {one.id for one in self.generations.all()}
        last = self.last_seq()
        for generation_id in present:
            seen = None if generation_id in known else self._seen(generation_id)
            if seen is not None and seen > last:
                yield _behind(
                    f"generation {generation_id}, which it does not know, was built after change {seen}, "
                    f"its own last change has number {last}"
                )
        if last == 0 and self._has_old_image():
            yield _behind("nothing was ever written to it, and the store holds images")

    def _seen(self, generation_id: str) -> int | None:
        """The last change of the catalog that a generation holds; None when it cannot say."""
        try:
            return self.folders.read(generation_id).snapshot_seq
        except Unavailable:
            return None

    def _has_old_image(self) -> bool:
        now = self.clock()
        for entry in self.listing.entries():
            written = None if entry.digest is None else self.listing.modified(entry.path)
            if written is not None and now - written >= self.grace:
                return True
        return False


def _behind(detail: str) -> Finding:
    return Finding(Fault.CATALOG_BEHIND, "catalog", detail, _FITTING)
