"""What is served now: one immutable pair of model and index, swapped as a whole.

A request takes the pair once, at its start, and finishes on it. Writers hold the write lock from before
their commit until the index has their change, so the order of the catalog is the order of the index. Should
the process die between the two, nothing is lost: the catalog is the truth and the change is replayed at
the next start.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from service.application.errors import Unavailable
from service.application.ports import Encoder, SearchIndex
from service.application.types import Generation, Side


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


class ServingState:
    """Holds the present `Serving`; `write_lock` is held by whoever changes catalog and index together."""

    def __init__(self) -> None:
        self.write_lock = threading.RLock()
        self._serving: Serving | None = None
        self._applied = 0
        self._reason = "the service has not started"

    @property
    def current(self) -> Serving | None:
        """What is served, or None."""
        return self._serving

    @property
    def applied(self) -> int:
        """Every change up to this sequence number is in the served index."""
        return self._applied

    @property
    def reason(self) -> str:
        """Why nothing is served, or what went wrong since."""
        return self._reason

    def require(self) -> Serving:
        """What is served. Raises `Unavailable` when there is nothing."""
        serving = self._serving
        if serving is None:
            raise Unavailable(self._reason, code="not_ready", retry_after_s=5)
        return serving

    def explain(self, reason: str) -> None:
        """Say why nothing is served, or why what is served is not what the catalog asks for."""
        self._reason = reason

    def swap(self, serving: Serving, applied: int) -> None:
        """Serve another pair, whose index holds every change up to `applied`."""
        with self.write_lock:
            self._serving, self._applied, self._reason = serving, applied, ""

    def advance(self, applied: int) -> None:
        """Note that the served index holds every change up to `applied`."""
        with self.write_lock:
            self._applied = max(self._applied, applied)

    def note(self, first_seq: int, last_seq: int) -> None:
        """Note a change that was applied at once; a gap before it (another process) stays to be replayed."""
        with self.write_lock:
            if first_seq == self._applied + 1:
                self._applied = last_seq
