"""Bodies are bounded in bytes and in time while they stream in, before anything keeps or parses them.

A Content-Length over the limit is refused without reading; a chunked body is refused when it passes the
limit. After a refusal the rest is thrown away for a moment, so that a client which writes everything
before it reads still sees the answer, and then the connection is closed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api.errors import RequestTimedOut, error_response
from service.api.metrics import Metrics
from service.application.errors import BadRequest, ServiceError, TooLarge

LINGER_S = 0.5
"""Seconds for which the rest of a refused body is read and thrown away, at most."""

LINGER_BYTES = 32 * 1024 * 1024
"""Bytes of it that are read, at most."""

LimitOf = Callable[[Scope], int]


class BodyLimitMiddleware:
    """Refuses bodies over `limit_of(scope)` bytes (413) or slower than `deadline_s` seconds (408)."""

    def __init__(self, app: ASGIApp, limit_of: LimitOf, deadline_s: float, metrics: Metrics) -> None:
        self.app = app
        self.limit_of = limit_of
        self.deadline_s = deadline_s
        self.metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request with its body bounded."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        body = _BoundedBody(receive, self.limit_of(scope), self.deadline_s)
        try:
            body.check_declared(Headers(scope=scope).get("content-length"))
            await self.app(scope, body.receive, body.watch(send))
        except ServiceError as error:
            # Raised by `receive` and let through by the framework's own handlers, or by the check above.
            body.refused = error
        if body.refused is None:
            return
        self.metrics.rejected(body.refused.code)
        if not body.answered:
            await _refuse(body.refused, scope, receive, send)


class _BoundedBody:
    """The receiving side of one request; `refused` is set once the body broke a bound."""

    def __init__(self, receive: Receive, limit: int, deadline_s: float) -> None:
        self._receive = receive
        self._limit = limit
        self._deadline_s = deadline_s
        self._deadline: float | None = None
        self._seen = 0
        self._complete = False
        self.refused: ServiceError | None = None
        self.answered = False

    def check_declared(self, content_length: str | None) -> None:
        """Raise when the declared length cannot be read (400) or is over the limit (413)."""
        if content_length is None:
            return
        if not (content_length.isascii() and content_length.isdigit()):
            raise BadRequest("The Content-Length is not a number of bytes.")
        if int(content_length[:19]) > self._limit:
            raise self._too_large()

    async def receive(self) -> Message:
        """The next message of the client, within the bounds."""
        if self._complete:
            return await self._receive()
        message = await self._in_time()
        if message["type"] == "http.request":
            self._seen += len(message.get("body", b""))
            self._complete = not message.get("more_body", False)
            if self._seen > self._limit:
                raise self._too_large()
        return message

    def watch(self, send: Send) -> Send:
        """`send`, but swallowing the answer to a refused body: the middleware gives that one itself."""

        async def watched(message: Message) -> None:
            if self.refused is not None and not self.answered:
                return
            self.answered = True
            await send(message)

        return watched

    async def _in_time(self) -> Message:
        loop = asyncio.get_running_loop()
        if self._deadline is None:
            self._deadline = loop.time() + self._deadline_s
        try:
            async with asyncio.timeout_at(self._deadline):
                return await self._receive()
        except TimeoutError as error:
            detail = f"The body did not arrive within {self._deadline_s:g} seconds."
            self.refused = RequestTimedOut(detail)
            raise self.refused from error

    def _too_large(self) -> TooLarge:
        error = TooLarge(f"The body is larger than the {self._limit} bytes that this call takes.")
        self.refused = error
        return error


async def _refuse(error: ServiceError, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer, read on for a moment without keeping anything, then close the connection."""
    response = error_response(error)
    response.headers["Connection"] = "close"
    await send(
        {"type": "http.response.start", "status": response.status_code, "headers": response.raw_headers}
    )
    # The head names the length, so the client has the whole answer although the last message is to come.
    await send({"type": "http.response.body", "body": response.body, "more_body": True})
    with suppress(TimeoutError):
        async with asyncio.timeout(LINGER_S):
            await _throw_away(receive)
    await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _throw_away(receive: Receive) -> None:
    thrown = 0
    while thrown < LINGER_BYTES:
        message = await receive()
        if message["type"] != "http.request" or not message.get("more_body"):
            return
        thrown += len(message["body"])
