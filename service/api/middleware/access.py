"""One log line and one observation for each request, and the last resort when something unexpected fails.

The line has method, path (without its query string), route template, status, milliseconds and bytes; where
a key was asked for, also its public id, and why it was refused when it was; for searches whose attack score
is above a threshold, `suspicious` and what goes with it (service/api/searched.py). An
exception that nobody foresaw is logged with its stack trace and answered with a 500 problem document.
"""

from __future__ import annotations

import time
from typing import Any

import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api.deps import ACCESS
from service.api.errors import unexpected_response
from service.api.metrics import Metrics
from service.api.searched import SUSPICION

QUIET_PATHS = frozenset({"/livez", "/readyz", "/metrics"})
"""Paths whose successes are logged at level debug: probes come every few seconds."""

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_log = structlog.get_logger("hashguard.access")


class AccessMiddleware:
    """Logs, measures and guards one request."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app = app
        self.metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = time.perf_counter()
        answer = _Answer(send)
        self.metrics.request_started()
        try:
            await self.app(scope, receive, answer.send)
        except Exception:
            _log.exception("request failed", method=scope["method"], path=scope["path"])
            if answer.status is not None:
                raise  # half an answer is out: the server cuts the connection
            await unexpected_response()(scope, receive, answer.send)
        finally:
            self._record(scope, answer, time.perf_counter() - started)

    def _record(self, scope: Scope, answer: _Answer, seconds: float) -> None:
        status = answer.status or 499  # nginx's word for a client that left before its answer
        route = route_template(scope)
        # Any word is a valid HTTP method: only the known ones may become labels.
        method = scope["method"] if scope["method"] in _METHODS else "other"
        self.metrics.request_finished(method, route, status, seconds)
        line: dict[str, Any] = {
            "method": scope["method"],
            "path": scope["path"],
            "route": route,
            "status": status,
            "duration_ms": round(seconds * 1000, 3),
            "bytes": answer.size,
            **scope.get(ACCESS, {}),
            **scope.get(SUSPICION, {}),
        }
        write = _log.debug if scope["path"] in QUIET_PATHS and status < 400 else _log.info
        if "refused" in line:
            write = _log.warning
        write("request", **line)


class _Answer:
    """Watches what is sent."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.status: int | None = None
        self.size = 0

    async def send(self, message: Message) -> None:
        """Pass a message on, remembering status and size."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
        elif message["type"] == "http.response.body":
            self.size += len(message.get("body", b""))
        await self._send(message)


def route_template(scope: Scope) -> str:
    """The template of the route that served a request, `unmatched` when there was none."""
    path = getattr(scope.get("route"), "path", None)
    return path if isinstance(path, str) else "unmatched"
