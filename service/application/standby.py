"""Keeps the predecessor of what is served loaded and up to date, so that a roll-back is instant.

Writes of this process go into it as they happen (`ServingState.apply`). What is left to do here: load it
after a restart, replay what other processes wrote or what its model could not encode at the time, and let
it go when it is no longer kept.
"""

from __future__ import annotations

import time

import structlog

from service.application.catchup import CatchUp
from service.application.errors import ServiceError
from service.application.follower import Loader
from service.application.life_cycle_ports import GenerationRepository
from service.application.serving import Serving, ServingState
from service.application.types import Generation

_RETRY_S = 5.0  # a predecessor that cannot be loaded is tried again after this

_log = structlog.get_logger(__name__)


class StandbyKeeper:
    """Keeps the standby what the catalog says; `tick` is called again and again by one thread.

    It takes no part in the follower's turn: while a large predecessor is loaded the alias is followed.
    """

    def __init__(
        self, state: ServingState, generations: GenerationRepository, loader: Loader, catch_up: CatchUp
    ) -> None:
        self._state = state
        self._generations = generations
        self._loader = loader
        self._catch_up = catch_up
        self._failed: tuple[str, float] | None = None

    def tick(self) -> None:
        """Load, update or let go of the predecessor. Does not raise for one that cannot be loaded."""
        wanted, current = self._generations.predecessor(), self._state.current
        if current is None:
            return
        standby = self._state.standby
        if standby is not None and (wanted is None or wanted.id != standby.generation.id):
            self._let_go(standby)
        elif standby is not None:
            self._update(standby)
        elif wanted is not None and wanted.id != current.generation.id:
            self._try(wanted, current)

    def _let_go(self, standby: Serving) -> None:
        with self._state.write_lock:
            if self._state.standby is standby:
                self._state.stand_by(None)

    def _update(self, standby: Serving) -> None:
        self._catch_up.prepare(standby.encoder, self._state.standby_applied)
        with self._state.write_lock:
            if self._state.standby is standby:
                applied = self._catch_up.replay(standby, self._state.standby_applied)
                self._state.advance_standby(applied)

    def _try(self, wanted: Generation, current: Serving) -> None:
        now = time.monotonic()
        if self._failed is not None and self._failed[0] == wanted.id and now < self._failed[1]:
            return
        try:
            self._load(wanted, current)
        except ServiceError as error:
            self._failed = (wanted.id, now + _RETRY_S)
            _log.warning("predecessor_not_loaded", generation=wanted.id, detail=error.detail)

    def _load(self, wanted: Generation, current: Serving) -> None:
        serving = self._loader.load(wanted, current.encoder)
        applied = self._catch_up.replay(serving, wanted.snapshot_seq)
        with self._state.write_lock:
            applied = self._catch_up.replay(serving, applied)
            served = self._state.current
            if self._state.standby is None and served is not None and served.generation.id != wanted.id:
                self._state.stand_by(serving, applied)
                _log.info("predecessor_ready", generation=wanted.id, model=serving.model_label)
