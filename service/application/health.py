"""Readiness that tells the truth: ready means that a canary query was answered lately."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass

import structlog

from service.application.canary import ask_canary
from service.application.errors import ServiceError
from service.application.ports import ItemRepository
from service.application.serving import ServingState

_log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Readiness:
    """Whether the service can answer, and what is wrong; a ready service may have reasons for concern."""

    ok: bool
    reasons: tuple[str, ...]
    model_version: str | None
    generation_id: str | None
    item_count: int


class Health:
    """Readiness of the service."""

    def __init__(self, state: ServingState, items: ItemRepository, max_age_s: float) -> None:
        self._state = state
        self._items = items
        self._max_age_s = max_age_s
        self._answered: float | None = None
        self._trouble = ""
        self._draining = threading.Event()

    def probe(self) -> None:
        """Ask a canary query and remember whether it was answered."""
        serving = self._state.current
        if serving is None:
            return
        try:
            ask_canary(serving)
        except Exception as error:  # noqa: BLE001 - whatever it is, the service is not well
            self._trouble = f"{type(error).__name__}: {error}"
            _log.warning("canary_failed", error=self._trouble)
            return
        self._answered, self._trouble = time.monotonic(), ""

    def drain(self) -> None:
        """Report not ready from now on, so that no new requests are sent here."""
        self._draining.set()

    def ready(self) -> Readiness:
        """The state now. Never raises: a catalog that does not answer is a reason."""
        reasons = [] if not self._draining.is_set() else ["the service is shutting down"]
        serving = self._state.current
        if serving is None:
            reasons.append(self._state.reason)
        elif self._answered is None or time.monotonic() - self._answered > self._max_age_s:
            lately = self._trouble or "none was asked"
            reasons.append(f"no canary query was answered in the last {self._max_age_s:g} s ({lately})")
        try:
            count = self._items.count()
        except ServiceError as error:
            count = 0
            reasons.append(error.detail)
        ok = not reasons
        if serving is not None and self._state.reason:
            reasons.append(self._state.reason)
        if serving is not None and serving.unscored:
            sides = " and ".join(f"{side}s" for side in serving.unscored)
            reasons.append(f"the attack score is on, and {serving.model_label} has none for {sides}")
        return Readiness(
            ok=ok,
            reasons=tuple(reasons),
            model_version=None if serving is None else serving.model_label,
            generation_id=None if serving is None else serving.generation.id,
            item_count=count,
        )
