"""Codes that were computed elsewhere, by the million: into the catalog and into a new generation at once.

The catalog gets them in large transactions, each with its place in the log of changes, so a kill at any
point leaves a sound catalog, whose indexes follow the log, and the same call again finishes the work. The
generation is made from the arrays that were given, not from what the catalog says back: that is several
times as fast. What others write meanwhile is found in the gaps between our own sequence numbers.

An id that the catalog does not know becomes a bare item: it is found by its code, has neither text nor image,
and no other model can ever encode it.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from service.application.acceptance import Acceptance, Sample
from service.application.building import Builder
from service.application.bulk_ports import BulkRepository, ReadyCodes
from service.application.encoding import encode_versions, lacks_codes
from service.application.errors import Conflict, InvalidInput
from service.application.life_cycle_ports import GenerationRepository, JobRepository
from service.application.ports import (
    BlobStore,
    Clock,
    CodeArray,
    CodeRepository,
    Encoder,
    GenerationStore,
    ItemVersion,
    SearchIndex,
)
from service.application.quality import sample_ids
from service.application.types import SIDES, Generation, Side

_ROWS = 100_000  # items of one transaction: about half a second under the catalog's write lock
_PAGE = 512
_SAMPLE = 32

Watch = Callable[[str, int, int], None]
"""Hears what is being done, how much of it is done, and how much there is (0: unknown)."""


@dataclass(frozen=True)
class Imported:
    """What came of it: `items` ids were given, `created` of them were new; seconds of both halves."""

    generation: Generation
    items: int
    created: int
    catalog_s: float
    index_s: float


@dataclass(frozen=True)
class BulkImport:
    """Takes in ready codes; `keep_generations` as for a reindex, `batch_size` items are encoded at a time."""

    bulk: BulkRepository
    codes: CodeRepository
    blobs: BlobStore
    generations: GenerationRepository
    jobs: JobRepository
    store: GenerationStore
    builder: Builder
    acceptance: Acceptance
    clock: Clock
    keep_generations: int
    batch_size: int

    def run(self, encoder: Encoder, ready: ReadyCodes, watch: Watch) -> Imported:
        """Take in the codes as this model's, build a generation of all that it has, and make it live.

        Codes of the model that ids have already are replaced. Items of the corpus that lack a code of the
        model are encoded first, so that none is lost when it was not the live one. While no generation holds
        a code, none but the new one is kept: there is nothing to roll back to.

        Raises `InvalidInput` for codes that cannot be this model's, `Conflict` while a job runs or when an
        item cannot be encoded, `Unavailable`, `BuildFailed`. What the catalog has taken by then stays.
        """
        _check(encoder, ready)
        if self.jobs.active():
            raise Conflict("a job is running: import codes when it has ended", code="job_running")
        keep = self.keep_generations if any(map(_holds_codes, self.generations.all())) else 1
        since = self.codes.last_seq()
        self._encode_lacking(encoder, watch)
        held = {side: self.codes.all(encoder.digest, side, encoder.bits) for side in SIDES}
        started = time.monotonic()
        created, spans = self._put(encoder, ready, watch)
        stored = time.monotonic()
        watch("building", 0, 0)
        indexes = {side: self._index(encoder, ready, side, *held[side]) for side in SIDES}
        held.clear()
        touched = self._follow_others(encoder, indexes, since, spans)
        generation = self._write(encoder, indexes, spans[-1][1])
        indexes.clear()
        watch("validating", 0, 0)
        self._accept(generation, _sample(encoder, ready, touched))
        self.generations.set_live(generation.id)
        built = time.monotonic()
        self.builder.prune(keep)
        return Imported(generation, len(ready.ids), created, stored - started, built - stored)

    def _encode_lacking(self, encoder: Encoder, watch: Watch) -> None:
        total = self.codes.count_lacking(encoder.digest, encoder.modalities)
        done, after = 0, None
        while versions := self.codes.lacking(encoder.digest, encoder.modalities, after, self.batch_size):
            self._encode(encoder, versions)
            done, after = done + len(versions), versions[-1].id
            watch("encoding", done, max(done, total))

    def _encode(self, encoder: Encoder, versions: Sequence[ItemVersion]) -> dict[tuple[str, Side], bytes]:
        """Encode what these versions lack, and keep it. Raises `Conflict` when one cannot be encoded."""
        new, failures = encode_versions(encoder, self.blobs, versions)
        if failures:
            item_id, error = next(iter(failures.items()))
            raise Conflict(
                f"{len(failures)} items cannot be encoded by {encoder.model_name}/{encoder.model_version} "
                f"and would be lost, the first is {item_id}: {error.detail}",
                code="not_encodable",
            )
        self.codes.add(encoder.digest, new)
        return {(one.id, one.side): one.code for one in new}

    def _put(self, encoder: Encoder, ready: ReadyCodes, watch: Watch) -> tuple[int, list[tuple[int, int]]]:
        """Commit all; the number of new items, and the sequence numbers taken (first, last) by each call."""
        created, spans, now = 0, [], self.clock()
        for start in range(0, len(ready.ids), _ROWS):
            end = min(start + _ROWS, len(ready.ids))
            part = {side: codes[start:end] for side, codes in ready.codes.items()}
            made, first, last = self.bulk.put(ready.ids[start:end], part, encoder.digest, now)
            created += made
            spans.append((first, last))
            watch("storing", end, len(ready.ids))
        return created, spans

    def _index(
        self, encoder: Encoder, ready: ReadyCodes, side: Side, held_ids: list[str], held_codes: CodeArray
    ) -> SearchIndex:
        """The index of one side: what the catalog had before, and the codes that were given."""
        index = self.store.new_index(encoder.bits)
        if held_ids:
            index.add(held_ids, held_codes)
        if side in ready.codes:
            index.add(ready.ids, ready.codes[side])
        return index

    def _follow_others(
        self,
        encoder: Encoder,
        indexes: dict[Side, SearchIndex],
        since: int,
        spans: Sequence[tuple[int, int]],
    ) -> set[str]:
        """Bring in what others have changed since, in its present state; the ids."""
        touched: set[str] = set()
        for before, behind in _gaps(since, spans):
            for changes in self._between(before, behind):
                ids = list(dict.fromkeys(item_id for _, item_id in changes))
                self._bring_in(encoder, indexes, ids)
                touched.update(ids)
        return touched

    def _between(self, before: int, behind: int) -> Iterator[list[tuple[int, str]]]:
        """The changes with numbers between these two, page by page."""
        while behind - before > 1:
            changes = self.codes.changes(before, min(_PAGE, behind - before - 1))
            if not changes:
                return
            yield changes
            before = changes[-1][0]

    def _bring_in(self, encoder: Encoder, indexes: dict[Side, SearchIndex], ids: list[str]) -> None:
        versions = self.codes.versions(ids, encoder.digest)
        lacking = [version for version in versions.values() if lacks_codes(version, encoder.modalities)]
        new = self._encode(encoder, lacking) if lacking else {}
        for item_id in ids:
            codes = versions[item_id].codes if item_id in versions else {}
            for side, index in indexes.items():
                code = codes.get(side) or new.get((item_id, side))
                if code is None:
                    index.remove([item_id])
                else:
                    index.add([item_id], np.frombuffer(code, np.uint8)[np.newaxis])

    def _write(self, encoder: Encoder, indexes: dict[Side, SearchIndex], snapshot: int) -> Generation:
        now = self.clock()
        generation = Generation(
            id=f"g{now:%Y%m%dT%H%M%S}-{uuid.uuid4().hex[:8]}",
            model_name=encoder.model_name,
            model_version=encoder.model_version,
            model_digest=encoder.digest,
            preprocessing_digest=encoder.preprocessing_digest,
            bits=encoder.bits,
            snapshot_seq=snapshot,
            image_count=len(indexes["image"]),
            text_count=len(indexes["text"]),
            created=now,
            live=False,
        )
        self.store.write(generation, indexes)
        return generation

    def _accept(self, generation: Generation, sample: Sample) -> None:
        """Read back what was written and record it; what is not sound is removed again."""
        try:
            self.acceptance.examine(generation, sample, None)
        except BaseException:
            self.store.delete(generation.id)
            raise
        self.generations.add(generation)


def _check(encoder: Encoder, ready: ReadyCodes) -> None:
    """Raise `InvalidInput` when these cannot be codes of the model."""
    label = f"{encoder.model_name}/{encoder.model_version}"
    if not len(ready.ids) or not ready.codes:
        raise InvalidInput("wanted at least one id with a code, got none", code="no_codes")
    for side, codes in ready.codes.items():
        if side not in encoder.modalities:
            raise InvalidInput(f"the model {label} has no {side} codes", code="unsupported_modality")
        if codes.shape != (len(ready.ids), encoder.bits // 8):
            raise InvalidInput(
                f"wanted {len(ready.ids)} {side} codes of {encoder.bits} bits, got the shape {codes.shape}",
                code="bad_codes",
            )


def _sample(encoder: Encoder, ready: ReadyCodes, touched: set[str]) -> Sample:
    """Some of the codes that were given and that nobody has changed since."""
    nothing = np.zeros((0, encoder.bits // 8), np.uint8)
    step = max(1, len(ready.ids) // _SAMPLE)
    rows = [row for row in range(0, len(ready.ids), step) if ready.ids[row] not in touched]
    canaries = {side: ready.codes.get(side, nothing)[rows if side in ready.codes else []] for side in SIDES}
    return Sample(canaries, sample_ids(ready.ids[: _SAMPLE * _SAMPLE]), encoder.modalities)


def _holds_codes(generation: Generation) -> bool:
    return generation.image_count + generation.text_count > 0


def _gaps(since: int, spans: Sequence[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """(last number before, first number behind) of each run of numbers that others have taken."""
    before = since
    for first, last in spans:
        if first > before + 1:
            yield before, first
        before = last
