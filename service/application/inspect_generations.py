"""Inspects the index generations: files, counts, codes, models, aliases, and what dead builders have left.

An index is its snapshot plus what was written since; so codes are compared for the items that have not
changed since the snapshot, also those of an index in an engine, which goes on changing while it is served.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta

from service.application.bulk_ports import BulkRepository
from service.application.comparing import Differences, compare
from service.application.errors import Conflict, NotFound, ServiceError, Unavailable
from service.application.findings import Fault, Finding, some
from service.application.inspection_ports import AuditRepository, GenerationFolders, ModelChecks, Rebuild
from service.application.life_cycle_ports import GenerationRepository, JobRepository
from service.application.ports import Clock, CodeRepository, GenerationStore, ModelShelf, SearchIndex
from service.application.types import Generation, Side

LIVE, PREDECESSOR = "live", "predecessor"
_PAGE = 16_384
_NAMED = 5
_REPAIR = "run again with --repair"


@dataclass(frozen=True)
class GenerationInspection:
    """Finds what is wrong with generations; `grace` is how old must be what counts as left behind."""

    audit: AuditRepository
    generations: GenerationRepository
    codes: CodeRepository
    bulk: BulkRepository
    jobs: JobRepository
    store: GenerationStore
    folders: GenerationFolders
    shelf: ModelShelf
    models: ModelChecks
    rebuild: Rebuild
    clock: Clock
    grace: timedelta
    _rebuilt: dict[str, str] = field(default_factory=dict)
    _doubted: dict[tuple[str, Side], set[str]] = field(default_factory=dict)

    def find(self) -> Iterator[Finding]:
        """All of it, one after the other. Raises `Unavailable` when the catalog cannot be read."""
        kept = self.generations.all()
        yield from self._left_behind()
        yield from self._aliases({one.id for one in kept})
        yield from self._unknown({one.id for one in kept})
        troubles = self.models.troubles()
        for generation in kept:
            yield from self._generation(generation, troubles)
        yield from self._tables()

    def _left_behind(self) -> Iterator[Finding]:
        for name in self.folders.left_behind():
            yield Finding(
                Fault.LEFT_BEHIND,
                name,
                "a build, a deletion or a new table whose process is dead",
                _REPAIR,
                lambda name=name: self._swept(name),  # type: ignore[misc]
            )

    def _swept(self, name: str) -> str:
        self.folders.sweep()
        if name in self.folders.left_behind():
            raise Unavailable("the engine that holds its tables does not answer")
        return "removed, with its tables"

    def _aliases(self, kept: set[str]) -> Iterator[Finding]:
        aliases = self.audit.aliases()
        for name, wanted in sorted(aliases.items()):
            if wanted not in kept:
                yield self._dangling(name, wanted, aliases, kept)
        if kept and LIVE not in aliases:
            yield self._dangling(LIVE, "", aliases, kept)

    def _dangling(self, name: str, wanted: str, aliases: Mapping[str, str], kept: set[str]) -> Finding:
        detail = f"it points at {wanted or 'nothing'}, which the catalog does not know"
        finding = Finding(Fault.ALIAS_DANGLING, name, detail, _REPAIR)
        if wanted in self.folders.present():
            return _with(finding, lambda: self._adopted(wanted))
        if name == PREDECESSOR:
            return _with(finding, lambda: self._pointed(name, None))
        before = aliases.get(PREDECESSOR, "")
        only = before if before in kept else next(iter(kept)) if len(kept) == 1 else None
        if only is not None:
            return _with(finding, lambda: self._pointed(LIVE, only))
        choice = ", ".join(sorted(kept)) or "none: build an index (hashguard index build)"
        next_step = f"say which one to serve: hashguard index rollback GENERATION; there are {choice}"
        return Finding(Fault.ALIAS_DANGLING, name, detail, next_step)

    def _adopted(self, generation_id: str) -> str:
        self.audit.adopt(self.folders.read(generation_id))
        return "its row was made again from META.json"

    def _pointed(self, name: str, generation_id: str | None) -> str:
        self.audit.point(name, generation_id)
        if name == LIVE and self.audit.aliases().get(PREDECESSOR) == generation_id:
            self.audit.point(PREDECESSOR, None)
        return f"it points at {generation_id}" if generation_id else "dropped"

    def _unknown(self, kept: set[str]) -> Iterator[Finding]:
        named = {*kept, *self.audit.aliases().values()}
        for generation_id in self.folders.present():
            young = self.folders.age(generation_id, self.clock()) < self.grace
            if generation_id in named or young or self.jobs.active():
                continue
            yield Finding(
                Fault.GENERATION_UNKNOWN,
                generation_id,
                "a whole generation of which the catalog knows nothing: its builder died before it said so",
                _REPAIR,
                lambda generation_id=generation_id: self._dropped(generation_id),  # type: ignore[misc]
            )

    def _dropped(self, generation_id: str) -> str:
        if self.generations.get(generation_id) is not None:
            raise Conflict("the catalog knows it by now")
        self.store.delete(generation_id)
        return "removed; its codes are in the catalog"

    def _generation(self, one: Generation, troubles: Mapping[str, str]) -> Iterator[Finding]:
        model = self._model(one, troubles)
        if model is not None:
            yield model
        try:
            indexes = self.store.load(one)
        except Unavailable as error:
            lost = error.code == "generation_damaged"
            next_step = _REPAIR if lost else "see that the engine answers, and run again"
            yield self._broken(Fault.GENERATION_DAMAGED, one, error.detail, model, next_step, mend=lost)
            return
        yield from self._counts(one, indexes, model)
        yield from self._codes(one, indexes, model)
        if model is None and (one.live or one.predecessor):
            yield from self._lacking(one)

    def _model(self, one: Generation, troubles: Mapping[str, str]) -> Finding | None:
        label = f"{one.model_name}/{one.model_version}"
        choice = "put it back into the models folder, or serve another generation (hashguard index rollback)"
        found = next((ref for ref in self.shelf.refs() if ref.label == label), None)
        if label in troubles:
            return Finding(Fault.MODEL_DAMAGED, label, troubles[label], choice)
        if found is None:
            detail = f"the model of generation {one.id} is not here"
            return Finding(Fault.MODEL_MISSING, label, detail, choice)
        if found.digest != one.model_digest:
            detail = (
                f"generation {one.id} wants the digest {one.model_digest[:12]}, here is {found.digest[:12]}"
            )
            return Finding(Fault.MODEL_CHANGED, label, detail, choice)
        return None

    def _counts(
        self, one: Generation, indexes: Mapping[Side, SearchIndex], model: Finding | None
    ) -> Iterator[Finding]:
        wanted = {"image": one.image_count, "text": one.text_count}
        for side, index in indexes.items():
            if not index.shared and len(index) != wanted[side]:
                detail = f"it holds {len(index)} {side} codes, the catalog says {wanted[side]}"
                yield self._broken(Fault.GENERATION_COUNT, one, detail, model)

    def _codes(
        self, one: Generation, indexes: Mapping[Side, SearchIndex], model: Finding | None
    ) -> Iterator[Finding]:
        found = {
            side: compare(*index.codes(), self.bulk.coded(one.model_digest, side))
            for side, index in indexes.items()
        }
        if any(found.values()):
            changed = self._changed(one)
            found = {side: differences.without(changed) for side, differences in found.items()}
        details = [f"{side} codes: {differences}" for side, differences in found.items() if differences]
        if not details:
            return
        detail = "; ".join(details)
        if any(differences.bare for differences in found.values()):
            step = "import the bare ones anew (hashguard index import-codes): no model can encode them"
            yield Finding(Fault.CODE_DAMAGED, one.id, detail, step)
        finding = self._broken(Fault.GENERATION_CODES, one, detail, model)
        yield _with(finding, lambda: self._encoded_anew(one, found)) if finding.mend else finding

    def _changed(self, one: Generation) -> set[str]:
        """Ids of what was written since the snapshot; read last, so that writers at work are no fault."""
        changed: set[str] = set()
        after = one.snapshot_seq
        while page := self.codes.changes(after, _PAGE):
            changed.update(item_id for _, item_id in page)
            after = page[-1][0]
        return changed

    def _encoded_anew(self, one: Generation, found: Mapping[Side, Differences]) -> str:
        """Drop the codes in doubt that can be made again, once for all generations of a model, and build."""
        dropped: set[str] = set()
        for side, differences in found.items():
            known = self._doubted.setdefault((one.model_digest, side), set())
            fresh = [item_id for item_id in differences.differ if item_id not in known]
            dropped.update(self.audit.drop_codes(one.model_digest, side, fresh))
            known.update(fresh)
        done = self._built_anew(one)
        return f"{len(dropped)} items were encoded anew, and {done}" if dropped else done

    def _lacking(self, one: Generation) -> Iterator[Finding]:
        try:
            sides = self.shelf.load(one.model_name, one.model_version).modalities
        except ServiceError as error:
            yield Finding(
                Fault.MODEL_DAMAGED,
                f"{one.model_name}/{one.model_version}",
                error.detail,
                "put it back whole",
            )
            return
        lacking = self.codes.lacking(one.model_digest, sides, None, _NAMED)
        if not lacking:
            return
        count = self.codes.count_lacking(one.model_digest, sides)
        yield Finding(
            Fault.CODE_MISSING,
            one.id,
            f"without a code, and so found by no search there: {some(count, [item.id for item in lacking])}",
            "run again with --repair; what cannot be encoded is named among the blobs",
            lambda: self._encoded(one, sides),
        )

    def _encoded(self, one: Generation, sides: frozenset[str]) -> str:
        done = self._built_anew(one)
        left = self.codes.count_lacking(one.model_digest, sides)
        if left:
            raise NotFound(f"{done}, but {left} items cannot be encoded")
        return done

    def _broken(
        self,
        fault: Fault,
        one: Generation,
        detail: str,
        model: Finding | None,
        next_step: str = _REPAIR,
        *,
        mend: bool = True,
    ) -> Finding:
        """A finding about a generation, which is built anew when its model is sound."""
        if model is not None:
            step = f"first its model: {model.next_step}"
            return Finding(fault, one.id, detail, step)
        return Finding(fault, one.id, detail, next_step, (lambda: self._built_anew(one)) if mend else None)

    def _built_anew(self, one: Generation) -> str:
        """Build a generation in another's place, once however much is wrong with that one."""
        if one.id not in self._rebuilt:
            self._rebuilt[one.id] = self.rebuild(one)
        return f"generation {self._rebuilt[one.id]} was built in its place"

    def _tables(self) -> Iterator[Finding]:
        for table in self.folders.unknown_tables():
            yield Finding(
                Fault.TABLE_UNKNOWN,
                table,
                "a table or collection in the engine that this home knows nothing of",
                "it may be another home's: drop it by hand when it is nobody's",
            )


def _with(finding: Finding, mend: Callable[[], str]) -> Finding:
    return replace(finding, mend=mend)
