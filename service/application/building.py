"""What a reindex worker does: encode the corpus with a model, build a generation, check it, make it live.

The snapshot's sequence number is read before the last pass over the items that lack a code. So every item
that was there then has its code in the snapshot, and whatever changes later is in the log beyond that
number, which the serving processes replay. The service goes on taking writes all the while.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime

import structlog

from service.application.acceptance import Acceptance, BuildFailed, Sample, refusal
from service.application.encoding import encode_versions
from service.application.errors import NotFound, ServiceError
from service.application.life_cycle_ports import GenerationRepository
from service.application.ports import (
    BlobStore,
    Clock,
    CodeArray,
    CodeRepository,
    Encoder,
    GenerationStore,
    ModelRef,
    ModelShelf,
    SearchIndex,
)
from service.application.quality import sample_ids
from service.application.serving import check_pairing
from service.application.types import SIDES, Generation, JobPhase, LeftOut, Side, Validation

_PASSES = 5
_SAMPLE = 32
_NAMED = 5

_log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Progress:
    """Where a build stands; `rate` in items per second, `eta_s` in seconds, `validation` once it is done."""

    phase: JobPhase
    done: int
    total: int
    rate: float | None = None
    eta_s: float | None = None
    validation: Validation | None = None


Report = Callable[[Progress], None]
"""Hears of progress; raises to stop the build."""

Preparation = Callable[[Encoder, Report], None]
"""What is done with the model before a build; raises to prevent it."""


class _Meter:
    """Counts the items of all passes and reports them with rate and remaining time."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self._started = time.monotonic()
        self._done = 0
        self._total = 0

    def more(self, lacking: int) -> _Meter:
        """A pass begins, over so many items."""
        self._total = self._done + lacking
        self.count(0)
        return self

    def count(self, items: int) -> None:
        """So many more are done."""
        self._done += items
        self._total = max(self._total, self._done)
        rate = self._done / max(1e-6, time.monotonic() - self._started)
        left = self._total - self._done
        eta_s = left / rate if rate else None
        self._report(Progress(JobPhase.ENCODING, self._done, self._total, rate or None, eta_s))


@dataclass(frozen=True)
class Builder:
    """Builds generations; `batch_size` items are encoded at a time, `before` comes before all of them."""

    codes: CodeRepository
    generations: GenerationRepository
    blobs: BlobStore
    shelf: ModelShelf
    store: GenerationStore
    acceptance: Acceptance
    clock: Clock
    batch_size: int
    skip_broken: bool
    before: Preparation | None = None

    def build(self, name: str, version: str, report: Report, floor: float | None = None) -> Generation:
        """Encode what lacks a code, build, write and check a generation; it is not live yet.

        Raises `BuildFailed` when an item cannot be encoded, for what it holds or because it came as a code of
        another model (unless `skip_broken`: then the report of the validation names it), when what was
        written does not hold what it should, or when its mAP is lower than the live one's by more than
        `floor`; `NotFound` for an unknown model, and what `report` and `before` raise.
        """
        encoder = self.shelf.load(name, version)
        if self.before is not None:
            self.before(encoder, report)
        snapshot, left_out = self._encode(encoder, report)
        report(Progress(JobPhase.BUILDING, 0, 0))
        generation, sample = self._write(encoder, snapshot)
        try:
            self._accept(generation, sample, floor, lambda found: report(_validated(found, left_out)))
        except BaseException:
            self.store.delete(generation.id)
            raise
        self.generations.add(generation)
        return generation

    def catch_up(self, generation: Generation, report: Report) -> None:
        """Encode what a kept generation's model has not seen, so that it can be served at once.

        Its index follows when it is loaded, from the log of changes. Raises as `build` does, and
        `Unavailable` when the generation or its model is damaged or another one.
        """
        encoder = self.shelf.load(generation.model_name, generation.model_version)
        check_pairing(generation, encoder)
        _, left_out = self._encode(encoder, report)
        report(Progress(JobPhase.VALIDATING, 0, 0))
        counts = {side: len(index) for side, index in self.store.load(generation).items()}
        found = Validation(counts["image"], counts["text"], 0, note="counted before what was written since")
        report(_validated(found, left_out))

    def discard(self, generation_id: str) -> None:
        """Remove a generation that is not live. Raises `Conflict` when it is."""
        self.generations.remove(generation_id)
        self.store.delete(generation_id)

    def empty(self, ref: ModelRef) -> Generation:
        """Write and record a generation without any code, not live yet: the start of a new home."""
        generation = _generation(ref, 0, dict.fromkeys(SIDES, 0), self.clock())
        self.store.write(generation, {side: self.store.new_index(ref.bits) for side in SIDES})
        self.generations.add(generation)
        return generation

    def prune(self, keep: int) -> list[str]:
        """Remove all but the `keep` newest generations, the live one and its predecessor.

        What only they needed goes with them. With `keep` 1 the predecessor is not spared. Returns the ids
        that were removed.
        """
        everything = self.generations.all()
        spared = [one for one in everything[keep:] if one.live or (one.predecessor and keep > 1)]
        kept = everything[:keep] + spared
        removed = [one.id for one in everything if one not in kept]
        for generation_id in removed:
            self.discard(generation_id)
        if kept:
            digests = {one.model_digest for one in kept}
            self.codes.trim(digests, min(one.snapshot_seq for one in kept))
        return removed

    def _accept(
        self,
        generation: Generation,
        sample: Sample,
        floor: float | None,
        report: Callable[[Validation | None], None],
    ) -> None:
        """Check a generation and report what was found. Raises `BuildFailed`."""
        report(None)
        validation = self.acceptance.examine(generation, sample, floor)
        report(validation)
        if (reason := refusal(validation)) is not None:
            raise BuildFailed(reason, code="quality_floor")

    def _encode(self, encoder: Encoder, report: Report) -> tuple[int, tuple[LeftOut, ...]]:
        """Encode until (almost) nothing lacks a code; the snapshot's sequence number, and what is left out.

        Raises `BuildFailed` when something would be, unless `skip_broken`.
        """
        bare = self._stranded(encoder)  # first, since hours of encoding would not change it
        snapshot = 0
        failures: dict[str, ServiceError] = {}
        meter = _Meter(report)
        for _ in range(_PASSES):
            snapshot = self.codes.last_seq()
            lacking = self.codes.count_lacking(encoder.digest, encoder.modalities)
            failures = {}
            encoded = self._encode_pass(encoder, meter.more(lacking), failures)
            if encoded <= self.batch_size:
                break
        if failures:
            named = "; ".join(f"{item_id}: {error.detail}" for item_id, error in [*failures.items()][:_NAMED])
            if not self.skip_broken:
                raise BuildFailed(f"{len(failures)} items cannot be encoded: {named}")
            _log.warning("items_skipped", count=len(failures), first=named)
        broken = LeftOut("broken", len(failures), tuple(failures)[:_NAMED])
        return snapshot, tuple(one for one in (bare, broken) if one.count)

    def _stranded(self, encoder: Encoder) -> LeftOut:
        """The items that are in other models' indexes by bare codes, and cannot be in this one's."""
        count, ids = self.codes.stranded(encoder.digest, _NAMED)
        named, label = ", ".join(ids), f"{encoder.model_name}/{encoder.model_version}"
        if count and not self.skip_broken:
            raise BuildFailed(
                f"{count} items came as bare codes of another model, without the image or text that "
                f"{label} would need, and would be left out; the first are {named}. Import their codes by "
                f"{label} (hashguard index import-codes), or go on without them with "
                "HASHGUARD_REINDEX_SKIPS_BROKEN_ITEMS=true",
                code="bare_items",
            )
        if count:
            _log.warning("bare_items_skipped", count=count, first=named)
        return LeftOut("bare", count, tuple(ids))

    def _encode_pass(self, encoder: Encoder, meter: _Meter, failures: dict[str, ServiceError]) -> int:
        """Encode what lacks a code now; the number of items looked at, and the `failures` by id."""
        done, after = 0, None
        while versions := self.codes.lacking(encoder.digest, encoder.modalities, after, self.batch_size):
            codes, failed = encode_versions(encoder, self.blobs, versions)
            self.codes.add(encoder.digest, codes)
            failures.update(failed)
            done += len(versions)
            after = versions[-1].id
            meter.count(len(versions))
        return done

    def _write(self, encoder: Encoder, snapshot: int) -> tuple[Generation, Sample]:
        """The generation that was written, and a sample of it."""
        indexes: dict[Side, SearchIndex] = {}
        samples: dict[Side, CodeArray] = {}
        asked: list[str] = []
        for side in SIDES:
            indexes[side] = self.store.new_index(encoder.bits)
            ids, codes = self.codes.all(encoder.digest, side, encoder.bits)
            if ids:
                indexes[side].add(ids, codes)
            samples[side] = codes[:: max(1, len(ids) // _SAMPLE)].copy()
            asked = asked or sample_ids(ids)
        counts: dict[Side, int] = {side: len(index) for side, index in indexes.items()}
        generation = _generation(_ref(encoder), snapshot, counts, self.clock())
        self.store.write(generation, indexes)
        return generation, Sample(samples, asked, encoder.modalities)


def choose_model(shelf: ModelShelf, wanted: str, live_name: str | None) -> ModelRef:
    """The artefact of "name/version" or of "latest".

    "latest" is the newest version of the live model's name, or the newest model of all (by the time that
    its manifest records) when nothing is live. Raises `NotFound`.
    """
    refs = shelf.refs()
    if wanted == "latest":
        same = [ref for ref in refs if ref.name == live_name] or refs
        if not same:
            raise NotFound("there is no model yet: train one or install one first", code="model_not_found")
        return max(same, key=lambda ref: (int(ref.version) if live_name == ref.name else 0, ref.created))
    for ref in refs:
        if ref.label == wanted:
            return ref
    known = ", ".join(ref.label for ref in refs) or "none"
    raise NotFound(f"there is no model {wanted[:80]!r}; there are: {known}", code="model_not_found")


def _validated(found: Validation | None, left_out: tuple[LeftOut, ...]) -> Progress:
    """Where a build stands that is being validated, or has been."""
    validation = None if found is None else replace(found, left_out=left_out)
    return Progress(JobPhase.VALIDATING, 0, 0, validation=validation)


def _ref(encoder: Encoder) -> ModelRef:
    return ModelRef(
        name=encoder.model_name,
        version=encoder.model_version,
        digest=encoder.digest,
        created="",
        bits=encoder.bits,
        preprocessing_digest=encoder.preprocessing_digest,
    )


def _generation(ref: ModelRef, snapshot: int, counts: dict[Side, int], now: datetime) -> Generation:
    return Generation(
        id=f"g{now:%Y%m%dT%H%M%S}-{uuid.uuid4().hex[:8]}",
        model_name=ref.name,
        model_version=ref.version,
        model_digest=ref.digest,
        preprocessing_digest=ref.preprocessing_digest,
        bits=ref.bits,
        snapshot_seq=snapshot,
        image_count=counts["image"],
        text_count=counts["text"],
        created=now,
        live=False,
    )
