"""Inspects the aliases of the index generations: what they point at, and whether anything is live.

A generation whose row is lost is recorded again when it is whole on disk; else the alias goes to another.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace

from service.application.errors import Conflict, Unavailable
from service.application.findings import ANSWER, REPAIR, Fault, Finding
from service.application.inspection_ports import AuditRepository, GenerationFolders
from service.application.ports import GenerationStore
from service.application.types import Generation

LIVE, PREDECESSOR = "live", "predecessor"


@dataclass(frozen=True)
class AliasInspection:
    """Finds aliases that point nowhere. `aliases` were read before `kept`, the ids that the catalog knows."""

    audit: AuditRepository
    folders: GenerationFolders
    store: GenerationStore
    aliases: Mapping[str, str]
    kept: Collection[str]

    def find(self, found: Mapping[str, Generation | Unavailable]) -> Iterator[Finding]:
        """What is wrong with them; `found` is what `lost` gives."""
        for name, wanted in sorted(self._dangling().items()):
            yield self._finding(name, wanted, found.get(wanted))
        if self.kept and LIVE not in self.aliases:
            yield self._finding(LIVE, None, None)

    def lost(self) -> dict[str, Generation | Unavailable]:
        """What lies on disk under the ids that aliases name in vain: generations, or why they do not load."""
        present = self.folders.present()
        dangling = self._dangling().items()
        return {wanted: self._loaded(name, wanted) for name, wanted in dangling if wanted in present}

    def _dangling(self) -> dict[str, str]:
        """The aliases that pointed nowhere and do so still: a reindex may have moved one meanwhile."""
        found = {name: wanted for name, wanted in self.aliases.items() if wanted not in self.kept}
        now = self.audit.aliases() if found else {}
        return {name: wanted for name, wanted in found.items() if now.get(name) == wanted}

    def _loaded(self, name: str, generation_id: str) -> Generation | Unavailable:
        try:
            found = self.folders.read(generation_id)
            self.store.load(found)
        except Unavailable as error:
            return error
        return replace(found, live=name == LIVE, predecessor=name == PREDECESSOR)

    def _finding(self, name: str, wanted: str | None, lost: Generation | Unavailable | None) -> Finding:
        detail = f"it points at {wanted or 'nothing'}, which the catalog does not know"
        finding = Finding(Fault.ALIAS_DANGLING, name, detail, REPAIR)
        if isinstance(lost, Generation):
            return replace(finding, mend=lambda: self._adopted(lost))
        if lost is not None:
            finding = replace(finding, detail=f"{detail}; on disk: {lost.detail}")
            if lost.code != "generation_damaged":
                return replace(finding, next_step=ANSWER)
        if name == PREDECESSOR:
            return replace(finding, mend=lambda: self._pointed(name, wanted, None))
        before = self.aliases.get(PREDECESSOR, "")
        only = before if before in self.kept else next(iter(self.kept)) if len(self.kept) == 1 else None
        if only is not None:
            return replace(finding, mend=lambda: self._pointed(LIVE, wanted, only))
        choice = ", ".join(sorted(self.kept)) or "none: build an index (hashguard index build)"
        next_step = f"say which one to serve: hashguard index rollback GENERATION; there are {choice}"
        return replace(finding, next_step=next_step)

    def _adopted(self, generation: Generation) -> str:
        self.audit.adopt(generation)
        return "its row was made again from META.json"

    def _pointed(self, name: str, before: str | None, generation_id: str | None) -> str:
        if not self.audit.point(name, generation_id, before):
            raise Conflict("somebody has moved it meanwhile")
        if name == LIVE and self.aliases.get(PREDECESSOR) == generation_id:
            self.audit.point(PREDECESSOR, None, generation_id)
        return f"it points at {generation_id}" if generation_id else "dropped"
