"""What is served now: one immutable pair of model and index, swapped as a whole.

A request takes the pair once, at its start, and finishes on it. Writers hold the write lock from before
their commit until the index has their change, so the order of the catalog is the order of the index. Should
the process die between the two, nothing is lost: the catalog is the truth and the change is replayed at
the next start.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import structlog

from service.application.errors import Unavailable
from service.application.ports import Encoder, SearchIndex
from service.application.types import SIDES, Generation, Side

CodesOf: TypeAlias = Callable[[str], Mapping[str, Mapping[Side, bytes]] | None]
"""Model digest -> the codes of what changed, by id ({} for what is gone); None when it did not encode it."""

_log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Serving:
    """A model and the two indexes that hold its codes."""

    encoder: Encoder
    indexes: Mapping[Side, SearchIndex]
    generation: Generation

    @property
    def model_label(self) -> str:
        """`name/version` of the model."""
        return f"{self.encoder.model_name}/{self.encoder.model_version}"

    @property
    def unscored(self) -> list[Side]:
        """Sides that the model encodes but has no attack score for, although scores are on."""
        return unscored_sides(self.encoder)

    def apply(self, codes: Mapping[str, Mapping[Side, bytes]]) -> None:
        """Make the indexes hold exactly these codes for these ids: {} takes an id out."""
        for side, index in self.indexes.items():
            gone = [item_id for item_id, sides in codes.items() if side not in sides]
            there = [item_id for item_id, sides in codes.items() if side in sides]
            if gone:
                index.remove(gone)
            if there:
                packed = b"".join(codes[item_id][side] for item_id in there)
                index.add(there, np.frombuffer(packed, np.uint8).reshape(len(there), -1))


def check_pairing(generation: Generation, encoder: Encoder) -> None:
    """Raise `Unavailable` when the generation was built with another model than this one."""
    wanted = (generation.model_digest, generation.preprocessing_digest, generation.bits)
    got = (encoder.digest, encoder.preprocessing_digest, encoder.bits)
    if wanted != got:
        raise Unavailable(
            f"generation {generation.id} was built with {generation.model_name}/{generation.model_version} "
            f"(digest, preprocessing, bits) {wanted}, the model on disk is {got}: reindex",
            code="model_mismatch",
            retry_after_s=60,
        )


def unscored_sides(encoder: Encoder) -> list[Side]:
    """Sides that the model encodes but has no attack score for; none while scores are off."""
    thresholds = encoder.score_thresholds
    if thresholds is None:
        return []
    return [side for side in SIDES if side in encoder.modalities and side not in thresholds]


@dataclass
class Held:
    """A `Serving` in memory; every change up to `applied` is in its indexes.

    It goes on growing while the pair is served or stands by, also for a request that holds it.
    """

    serving: Serving
    applied: int

    def advance(self, applied: int) -> None:
        """Note that every change up to `applied` is in the indexes."""
        self.applied = max(self.applied, applied)

    def note(self, first_seq: int, last_seq: int) -> None:
        """Note a change; one behind a gap does not count."""
        if first_seq == self.applied + 1:
            self.applied = last_seq


class ServingState:
    """Holds the present `Serving`; `write_lock` is held by whoever changes catalog and index together.

    Beside it stands the predecessor, the `standby`, while it is kept: writes go into both, so that the two
    can change places at any moment.
    """

    def __init__(self) -> None:
        self.write_lock = threading.RLock()
        self._live: Held | None = None
        self._standby: Held | None = None
        self._reason = "the service has not started"

    @property
    def current(self) -> Serving | None:
        """What is served, or None."""
        held = self._live
        return None if held is None else held.serving

    @property
    def applied(self) -> int:
        """Every change up to this sequence number is in the served index."""
        held = self._live
        return 0 if held is None else held.applied

    @property
    def standby(self) -> Serving | None:
        """The predecessor, ready to be served, or None."""
        held = self._standby
        return None if held is None else held.serving

    @property
    def standby_applied(self) -> int:
        """Every change up to this sequence number is in the standby's index."""
        held = self._standby
        return 0 if held is None else held.applied

    @property
    def reason(self) -> str:
        """Why nothing is served, or what went wrong since."""
        return self._reason

    def require(self) -> Serving:
        """What is served. Raises `Unavailable` when there is nothing."""
        return self.hold().serving

    def hold(self) -> Held:
        """What is served, for a request that must know how far its indexes are. Raises `Unavailable`."""
        held = self._live
        if held is None:
            raise Unavailable(self._reason, code="not_ready", retry_after_s=5)
        return held

    def keeps(self, held: Held) -> bool:
        """Whether a pair still gets what is written: it is served, or stands by."""
        return held is self._live or held is self._standby

    def explain(self, reason: str) -> None:
        """Say why nothing is served, or why what is served is not what the catalog asks for."""
        self._reason = reason

    def swap(self, serving: Serving, applied: int, keep: bool = False) -> None:
        """Serve another pair, whose index holds every change up to `applied`.

        With `keep` what was served until now becomes the standby; without, there is none.
        """
        with self.write_lock:
            former, ready = self._live, self._standby
            held = ready if ready is not None and ready.serving is serving else Held(serving, applied)
            held.advance(applied)
            self._standby = former if keep else None
            self._live, self._reason = held, ""

    def stand_by(self, serving: Serving | None, applied: int = 0) -> None:
        """Keep another pair ready, or none."""
        with self.write_lock:
            self._standby = None if serving is None else Held(serving, applied)

    def advance(self, applied: int) -> None:
        """Note that the served index holds every change up to `applied`."""
        with self.write_lock:
            if self._live is not None:
                self._live.advance(applied)

    def advance_standby(self, applied: int) -> None:
        """Note that the standby's index holds every change up to `applied`."""
        with self.write_lock:
            if self._standby is not None:
                self._standby.advance(applied)

    def note(self, first_seq: int, last_seq: int) -> None:
        """Note a change that was applied at once; a gap before it (another process) stays to be replayed."""
        with self.write_lock:
            if self._live is not None:
                self._live.note(first_seq, last_seq)

    def apply(self, first_seq: int, last_seq: int, codes: CodesOf) -> None:
        """Bring a committed change into the served index and the standby's; the write lock is held.

        What the standby lacks, because its model did not encode the change or its index failed, is replayed
        into it later: it never costs a writer anything.
        """
        live, standby = self._live, self._standby
        if live is not None and (found := codes(live.serving.encoder.digest)) is not None:
            live.serving.apply(found)
            live.note(first_seq, last_seq)
        if standby is not None and (found := codes(standby.serving.encoder.digest)) is not None:
            try:
                standby.serving.apply(found)
            except Exception as error:  # noqa: BLE001 - the change is committed and is served
                _log.warning("standby_not_updated", error=repr(error))
            else:
                standby.note(first_seq, last_seq)
