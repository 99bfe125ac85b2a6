"""What an inspection of a home finds, and how it is put right.

A finding names what is wrong, in words that stay the same (`Fault`), and what it is about. One that can be
mended brings the act along; the others say what somebody has to do. Nothing here ever deletes what exists
only once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from enum import StrEnum

from service.application.errors import ServiceError


class Fault(StrEnum):
    """Kinds of inconsistency; docs/operations.md says how each is found and mended."""

    CATALOG_DAMAGED = "catalog-damaged"
    CATALOG_MISSING = "catalog-missing"
    CATALOG_BEHIND = "catalog-behind"
    ITEM_COUNT = "item-count"
    ROW_MISSING = "row-missing"
    ITEM_EMPTY = "item-empty"
    CODE_MISSING = "code-missing"
    CODE_DAMAGED = "code-damaged"
    ALIAS_DANGLING = "alias-dangling"
    JOB_ABANDONED = "job-abandoned"
    MODEL_MISSING = "model-missing"
    MODEL_CHANGED = "model-changed"
    MODEL_DAMAGED = "model-damaged"
    GENERATION_DAMAGED = "generation-damaged"
    GENERATION_COUNT = "generation-count"
    GENERATION_CODES = "generation-codes"
    GENERATION_UNKNOWN = "generation-unknown"
    ENGINE_UNREACHABLE = "engine-unreachable"
    LEFT_BEHIND = "left-behind"
    TABLE_UNKNOWN = "table-unknown"
    BLOB_MISSING = "blob-missing"
    BLOB_DAMAGED = "blob-damaged"
    BLOB_UNDECODABLE = "blob-undecodable"
    BLOB_ORPHANED = "blob-orphaned"
    BLOB_PARTIAL = "blob-partial"
    BLOB_UNREADABLE = "blob-unreadable"
    CHECK_ENDED = "check-ended"


NOTES = frozenset({Fault.TABLE_UNKNOWN})
"""What is named but is no problem of this home."""

DOUBTS = frozenset({Fault.CATALOG_DAMAGED, Fault.CATALOG_MISSING, Fault.CATALOG_BEHIND, Fault.CHECK_ENDED})
"""What, found of the catalog, leaves nothing that it says of images and generations to be acted on."""


REPAIR = "run again with --repair"
"""The next step where a repair is at hand."""

ANSWER = (
    "see that the engine answers, that HASHGUARD_INDEX_BACKEND and HASHGUARD_INDEX_URL are set here as for "
    "the service, and that its client library is installed; then run again"
)
"""The next step where an engine elsewhere cannot be asked."""


@dataclass(frozen=True)
class Finding:
    """One inconsistency. `mend` puts it right and says how; without it, `next_step` says what to do.

    `repaired` says what was done; None while nothing was.
    """

    fault: Fault
    subject: str
    detail: str
    next_step: str
    mend: Callable[[], str] | None = None
    repaired: str | None = None

    @property
    def open(self) -> bool:
        """Whether it is a problem still."""
        return self.repaired is None and self.fault not in NOTES

    def line(self) -> str:
        """All of it in one line for people."""
        end = self.next_step if self.repaired is None else f"repaired: {self.repaired}"
        return f"{self.fault.value} {self.subject}: {self.detail}; {end}"


def mended(findings: Iterable[Finding]) -> list[Finding]:
    """The findings after all were mended that can be; one whose act fails stays open and says why."""
    return [_mended(finding) for finding in findings]


def _mended(finding: Finding) -> Finding:
    if finding.mend is None:
        return finding
    try:
        return replace(finding, repaired=finding.mend())
    except (ServiceError, OSError) as error:
        reason = error.detail if isinstance(error, ServiceError) else str(error)
        return replace(finding, next_step=f"the repair failed: {reason}; {finding.next_step}")


def some(count: int, ids: Iterable[str]) -> str:
    """A number of items and the first few of them, for a finding's detail."""
    named = list(ids)
    more = ", ..." if count > len(named) else ""
    return f"{count} ({', '.join(named)}{more})"
