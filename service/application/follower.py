"""Follows the catalog: its alias says which generation is served, its log what has changed since.

The alias is the truth, whoever moved it: this process, a reindex worker, or another replica. A generation
is loaded beside the one that is served, brought up to date without a lock, then once more under the write
lock, where almost nothing is left to do, and swapped in. The predecessor stands by in memory, brought up
to date by every write (see `standby.py`): there is nothing to load then.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import structlog

from service.application.batching import BatchingEncoder, ModelThread
from service.application.canary import ask_canary
from service.application.catchup import CatchUp
from service.application.errors import ServiceError
from service.application.life_cycle_ports import GenerationRepository
from service.application.ports import Encoder, GenerationStore, ModelShelf
from service.application.serving import Serving, ServingState, check_pairing
from service.application.types import Generation

_RETRY_S = 5.0  # a generation that cannot be loaded is tried again after this

_log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Loader:
    """Loads a generation together with its model."""

    shelf: ModelShelf
    store: GenerationStore
    thread: ModelThread

    def load(self, generation: Generation, at_hand: Encoder | None) -> Serving:
        """A warm `Serving`; the encoder `at_hand` is used again when it is the generation's.

        Raises `Unavailable` when the model is another one than the generation was built with: codes of two
        models have the same width, so nothing else would notice. Also when either is missing or damaged.
        """
        if at_hand is not None and at_hand.digest == generation.model_digest:
            encoder = at_hand
        else:
            loaded = self.shelf.load(generation.model_name, generation.model_version)
            check_pairing(generation, loaded)
            encoder = BatchingEncoder(loaded, self.thread)
        serving = Serving(encoder, self.store.load(generation), generation)
        ask_canary(serving)
        return serving


class Follower:
    """Keeps the served pair what the catalog says; `tick` is called again and again by one thread."""

    def __init__(
        self, state: ServingState, generations: GenerationRepository, loader: Loader, catch_up: CatchUp
    ) -> None:
        self._state = state
        self._generations = generations
        self._loader = loader
        self._catch_up = catch_up
        self._turn = threading.Lock()
        self._failed: tuple[str, float, str] | None = None

    def tick(self) -> None:
        """Serve what the alias names and replay what other processes wrote.

        Does not raise for a generation that cannot be loaded: the state's reason says so, what is served
        stays served, and it is tried again later.
        """
        with self._turn:
            live = self._generations.live()
            current = self._state.current
            if live is None:
                if current is None:
                    self._state.explain("there is no index generation yet: build an index first")
            elif current is None or current.generation.id != live.id:
                self._try(live)
            else:
                with self._state.write_lock:
                    self._state.advance(self._catch_up.replay(current, self._state.applied))

    def switch(self, generation: Generation, commit: Callable[[], None]) -> None:
        """Serve a generation, loaded unless it stands by; `commit` moves the alias just before the swap.

        Raises `Unavailable` when it cannot be served; the alias was not moved then.
        """
        with self._turn:
            self._switch(generation, commit)

    def failure(self, generation_id: str) -> str | None:
        """Why this generation could not be loaded lately, or None."""
        failed = self._failed
        return failed[2] if failed is not None and failed[0] == generation_id else None

    def _try(self, live: Generation) -> None:
        now = time.monotonic()
        if self._failed is not None and self._failed[0] == live.id and now < self._failed[1]:
            return
        try:
            self._switch(live, lambda: None)
        except ServiceError as error:
            _log.error("generation_not_loaded", generation=live.id, detail=error.detail)
            if self._state.current is None:
                self._fall_back()
            self._failed = (live.id, now + _RETRY_S, error.detail)
            self._state.explain(f"generation {live.id} cannot be served: {error.detail}")

    def _fall_back(self) -> None:
        """Serve the predecessor after a start at which the live one cannot be: it misses no write."""
        try:
            predecessor = self._generations.predecessor()
            if predecessor is not None:
                self._switch(predecessor, lambda: None)
        except ServiceError as error:
            _log.error("predecessor_not_loaded", detail=error.detail)

    def _switch(self, generation: Generation, commit: Callable[[], None]) -> None:
        started = time.monotonic()
        current = self._state.current
        serving, applied = self._ready(generation, current)
        with self._state.write_lock:
            if serving is self._state.standby:
                applied = self._state.standby_applied
            applied = self._catch_up.replay(serving, applied)
            commit()
            self._state.swap(serving, applied, keep=self._stays())
        self._failed = None
        if serving.unscored and (current is None or current.encoder is not serving.encoder):
            _log.warning("attack_score_missing", model=serving.model_label, sides=serving.unscored)
        _log.info(
            "generation_served",
            generation=generation.id,
            model=serving.model_label,
            seconds=round(time.monotonic() - started, 3),
        )

    def _stays(self) -> bool:
        """Whether what was served until now is the predecessor now; without an answer it is loaded anew."""
        former = self._state.current
        try:
            predecessor = self._generations.predecessor()
        except ServiceError as error:
            _log.warning("predecessor_unknown", detail=error.detail)
            return False
        return former is not None and predecessor is not None and former.generation.id == predecessor.id

    def _ready(self, generation: Generation, current: Serving | None) -> tuple[Serving, int]:
        """The generation in memory, and up to which change it is brought up to date.

        The standby's index changes under the write lock only: here nothing but codes is made ready for it.
        """
        standby, applied = self._state.standby, self._state.standby_applied
        if standby is not None and standby.generation.id == generation.id:
            self._loader.store.check(generation)
            self._catch_up.prepare(standby.encoder, applied)
            return standby, applied
        serving = self._loader.load(generation, None if current is None else current.encoder)
        return serving, self._catch_up.replay(serving, generation.snapshot_seq)
