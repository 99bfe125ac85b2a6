"""Inspects the index generations: files, counts, codes, models, aliases, and what dead builders have left.

An index is its snapshot plus what was written since; so codes are compared for the items that have not
changed since the snapshot, also those of an index in an engine, which goes on changing while it is served.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta

from service.application.bulk_ports import BulkRepository
from service.application.comparing import Differences, compare
from service.application.errors import Conflict, NotFound, ServiceError, Unavailable
from service.application.findings import ANSWER, REPAIR, Fault, Finding, some
from service.application.inspect_aliases import AliasInspection
from service.application.inspection_ports import AuditRepository, GenerationFolders, ModelChecks, Rebuild
from service.application.life_cycle_ports import GenerationRepository, JobRepository
from service.application.ports import Clock, CodeRepository, GenerationStore, ModelShelf, SearchIndex
from service.application.types import Generation, Side

_PAGE = 16_384
_NAMED = 5
_IMPORT = (
    "import the bare ones anew (hashguard index import-codes), or PUT or DELETE them: no model encodes them"
)


@dataclass(frozen=True)
class _Seen:
    """A generation, what is wrong with its model, and what its codes and the catalog's say differently."""

    generation: Generation
    model: Finding | None
    differences: Mapping[Side, Differences] = field(default_factory=dict)

    @property
    def bare(self) -> bool:
        """Whether it differs in codes that nothing could make again."""
        return any(found.bare for found in self.differences.values())


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
    _made: dict[tuple[str, Side], set[str]] = field(default_factory=dict)

    def find(self) -> Iterator[Finding]:
        """All of it, one after the other. Raises `Unavailable` when the catalog cannot be read."""
        pointed = self.audit.aliases()  # before the rows, so that each row that they name was there
        kept = {one.id: one for one in self.generations.all()}
        yield from self._left_behind()
        aliases = AliasInspection(self.audit, self.folders, self.store, pointed, kept)
        lost = aliases.lost()
        yield from aliases.find(lost)
        yield from self._unknown({*kept, *pointed.values()})
        troubles = self.models.troubles()
        for generation in kept.values():
            found = list(self._generation(generation, troubles))
            if found and self.generations.get(generation.id) is not None:  # else a reindex has removed it
                yield from found
        for adopted in lost.values():
            if isinstance(adopted, Generation):
                yield from self._generation(adopted, troubles)
        yield from self._tables()

    def _left_behind(self) -> Iterator[Finding]:
        for name in self.folders.left_behind():
            yield Finding(
                Fault.LEFT_BEHIND,
                name,
                "a build, a deletion or a new table whose process is dead",
                REPAIR,
                lambda name=name: self._swept(name),  # type: ignore[misc]
            )

    def _swept(self, name: str) -> str:
        self.folders.sweep()
        if name in self.folders.left_behind():
            raise Unavailable("the engine that holds its tables does not answer")
        return "removed, with its tables"

    def _unknown(self, named: set[str]) -> Iterator[Finding]:
        for generation_id in self.folders.present():
            young = self.folders.age(generation_id, self.clock()) < self.grace
            if generation_id in named or young or self.jobs.active():
                continue
            yield Finding(
                Fault.GENERATION_UNKNOWN,
                generation_id,
                "a whole generation of which the catalog knows nothing: its builder died before it said so",
                REPAIR,
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
            yield self._unloaded(_Seen(one, model), error)
            return
        found: dict[Side, Differences] = {}
        for side, index in indexes.items():
            try:
                held = index.codes()
            except Unavailable as error:
                yield self._unloaded(_Seen(one, model), error)
                return
            found[side] = self._compared(one, side, compare(*held, self.bulk.coded(one.model_digest, side)))
        seen = _Seen(one, model, found)
        yield from self._counts(seen, indexes)
        yield from self._codes(seen)
        if model is None and (one.live or one.predecessor):
            yield from self._lacking(seen)

    def _unloaded(self, seen: _Seen, error: Unavailable) -> Finding:
        if error.code == "generation_damaged":
            return self._broken(Fault.GENERATION_DAMAGED, seen, error.detail)
        return Finding(Fault.ENGINE_UNREACHABLE, seen.generation.id, error.detail, ANSWER)

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

    def _counts(self, seen: _Seen, indexes: Mapping[Side, SearchIndex]) -> Iterator[Finding]:
        wanted = {"image": seen.generation.image_count, "text": seen.generation.text_count}
        for side, index in indexes.items():
            if not index.shared and len(index) != wanted[side]:
                detail = f"it holds {len(index)} {side} codes, the catalog says {wanted[side]}"
                yield self._broken(Fault.GENERATION_COUNT, seen, detail)

    def _codes(self, seen: _Seen) -> Iterator[Finding]:
        details = [f"{side} codes: {found}" for side, found in seen.differences.items() if found]
        if not details:
            return
        if seen.bare:
            yield Finding(Fault.CODE_DAMAGED, seen.generation.id, "; ".join(details), _IMPORT)
        yield self._broken(Fault.GENERATION_CODES, seen, "; ".join(details))

    def _compared(self, one: Generation, side: Side, found: Differences) -> Differences:
        """The differences that are not changes since the snapshot, by what the catalog has of the items."""
        if not found:
            return found
        found = found.without(self._changed(one))
        items: dict[str, bool] = {}
        for start in range(0, len(found.extra), _PAGE):
            for item in self.codes.versions(found.extra[start : start + _PAGE], one.model_digest).values():
                items[item.id] = (item.image_digest if side == "image" else item.text) is not None
        return found.knowing(items)

    def _changed(self, one: Generation) -> set[str]:
        """Ids of what was written since the snapshot; read last, so that writers at work are no fault."""
        changed: set[str] = set()
        after = one.snapshot_seq
        while page := self.codes.changes(after, _PAGE):
            changed.update(item_id for _, item_id in page)
            after = page[-1][0]
        return changed

    def _lacking(self, seen: _Seen) -> Iterator[Finding]:
        one = seen.generation
        try:
            sides = self.shelf.load(one.model_name, one.model_version).modalities
        except ServiceError as error:
            label = f"{one.model_name}/{one.model_version}"
            yield Finding(Fault.MODEL_DAMAGED, label, error.detail, "put it back whole")
            return
        lacking = self.codes.lacking(one.model_digest, sides, None, _NAMED)
        if not lacking:
            return
        count = self.codes.count_lacking(one.model_digest, sides)
        detail = (
            f"without a code, and so found by no search there: {some(count, [item.id for item in lacking])}"
        )
        finding = self._broken(Fault.CODE_MISSING, seen, detail)
        if finding.mend is not None:
            step = "run again with --repair; what cannot be encoded is named among the blobs"
            finding = replace(finding, next_step=step, mend=lambda: self._encoded(seen, sides))
        yield finding

    def _encoded(self, seen: _Seen, sides: frozenset[str]) -> str:
        done = self._built_anew(seen)
        left = self.codes.count_lacking(seen.generation.model_digest, sides)
        if left:
            raise NotFound(f"{done}, but {left} items cannot be encoded")
        return done

    def _broken(self, fault: Fault, seen: _Seen, detail: str) -> Finding:
        """A finding about a generation, which is built anew when nothing is lost by that."""
        subject = seen.generation.id
        if seen.model is not None:
            return Finding(fault, subject, detail, f"first its model: {seen.model.next_step}")
        if seen.bare:  # an index is built from the catalog, and this one may have the only sound copy
            return Finding(fault, subject, detail, f"first {_IMPORT}")
        return Finding(fault, subject, detail, REPAIR, lambda: self._built_anew(seen))

    def _built_anew(self, seen: _Seen) -> str:
        """Build a generation in another's place, once however much is wrong with that one."""
        one = seen.generation
        if one.id not in self._rebuilt:
            doubt = {
                side: [each for each in found.doubt if each not in self._known(one, side)]
                for side, found in seen.differences.items()
            }
            built = self.rebuild(one, doubt)
            if built is None:
                return "it is not kept any more, and nothing is left to do"
            for side, made in built.encoded.items():
                self._known(one, side).update(made)
            count = len({each for made in built.encoded.values() for each in made})
            anew = f"{count} items were encoded anew, and " if count else ""
            self._rebuilt[one.id] = f"{anew}generation {built.id} was built in its place"
        return self._rebuilt[one.id]

    def _known(self, one: Generation, side: Side) -> set[str]:
        """Ids whose codes of a model were made anew already, for another of its generations."""
        return self._made.setdefault((one.model_digest, side), set())

    def _tables(self) -> Iterator[Finding]:
        try:
            tables = self.folders.unknown_tables()
        except Unavailable as error:
            yield Finding(Fault.ENGINE_UNREACHABLE, "tables", error.detail, ANSWER)
            return
        for table in tables:
            yield Finding(
                Fault.TABLE_UNKNOWN,
                table,
                "a table or collection in the engine that this home knows nothing of",
                "it may be another home's: drop it by hand when it is nobody's",
            )
