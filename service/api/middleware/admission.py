"""Admission: a bounded number of requests at a time, none while draining; the rest is told when to come back.

Without a bound an overloaded service answers everybody late; with it, most are served at full speed and
the others know at once. Probes and metrics always pass: an operator needs them most when it is full.
"""

from __future__ import annotations

import asyncio

from starlette.types import ASGIApp, Receive, Scope, Send

from service.api.errors import error_response
from service.api.metrics import Metrics
from service.application.errors import Unavailable

ALWAYS_ADMITTED = frozenset({"/livez", "/readyz", "/metrics"})
"""Paths that pass whatever the load and also while draining."""


class Gate:
    """Counts the requests in flight and says whether another may enter; used from one event loop."""

    def __init__(self, capacity: int) -> None:
        """`capacity` is the largest number of requests in flight at a time."""
        self.capacity = capacity
        self.in_flight = 0
        self.draining = False
        self._empty = asyncio.Event()
        self._empty.set()

    def refusal(self) -> tuple[str, Unavailable] | None:
        """Why no further request may enter now (a word for the metrics and the error), or None."""
        if self.draining:
            detail = "The service is shutting down; another instance, or this one later, will answer."
            return "draining", Unavailable(detail, code="draining", retry_after_s=5)
        if self.in_flight >= self.capacity:
            detail = f"{self.capacity} requests are in flight, which is as many as the service takes."
            return "overloaded", Unavailable(detail, code="overloaded", retry_after_s=1)
        return None

    def enter(self) -> None:
        """Count one request in."""
        self.in_flight += 1
        self._empty.clear()

    def leave(self) -> None:
        """Count one request out."""
        self.in_flight -= 1
        if self.in_flight == 0:
            self._empty.set()

    async def drained(self, timeout_s: float) -> bool:
        """Wait until nothing is in flight; False when that takes longer than `timeout_s` seconds."""
        try:
            await asyncio.wait_for(self._empty.wait(), timeout_s)
        except TimeoutError:
            return False
        return True


class AdmissionMiddleware:
    """Lets a request through the gate or answers 503 with Retry-After."""

    def __init__(self, app: ASGIApp, gate: Gate, metrics: Metrics) -> None:
        self.app = app
        self.gate = gate
        self.metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve or refuse one request."""
        if scope["type"] != "http" or scope["path"] in ALWAYS_ADMITTED:
            await self.app(scope, receive, send)
            return
        refusal = self.gate.refusal()
        if refusal is not None:
            reason, error = refusal
            self.metrics.rejected(reason)
            await error_response(error)(scope, receive, send)
            return
        self.gate.enter()
        try:
            await self.app(scope, receive, send)
        finally:
            self.gate.leave()
