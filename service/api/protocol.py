"""uvicorn's HTTP/1.1 protocol plus two things: problem documents for what is no HTTP, and an end to patience.

What h11 cannot parse never reaches the application, so uvicorn answers it itself, in plain text. And a
client that connects and sends its request's head slowly, or never, would keep its connection for ever.
"""

from __future__ import annotations

import asyncio
import json
from http import HTTPStatus

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from service.api.errors import MEDIA_TYPE, problem_body

HEAD_TIMEOUT_S = 10.0
"""Seconds within which the first request's head must have arrived."""

LINGER_S = 0.3
"""Seconds for which what follows a refused request is thrown away; closing at once could lose the answer."""


class ProblemProtocol(H11Protocol):
    """One connection."""

    _head_timer: asyncio.TimerHandle | None = None
    _refused = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the clock."""
        super().connection_made(transport)
        self._head_timer = self.loop.call_later(HEAD_TIMEOUT_S, self._give_up)

    def data_received(self, data: bytes) -> None:
        """Take bytes, or throw them away once the connection was refused."""
        if not self._refused:
            super().data_received(data)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the clock."""
        if self._head_timer is not None:
            self._head_timer.cancel()
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        """Answer bytes that are no HTTP request."""
        if self.conn.our_state not in {h11.IDLE, h11.SEND_RESPONSE}:
            self.transport.close()  # an answer is on its way already: nothing more can be said
            return
        body = problem_body(HTTPStatus.BAD_REQUEST, "invalid_http", msg)
        data = json.dumps(body | {"request_id": None}).encode()
        headers = [
            (b"content-type", MEDIA_TYPE.encode()),
            (b"content-length", str(len(data)).encode()),
            (b"connection", b"close"),
        ]
        response = h11.Response(status_code=400, headers=headers, reason=b"Bad Request")
        for event in (response, h11.Data(data=data), h11.EndOfMessage()):
            self.transport.write(self.conn.send(event) or b"")
        self._refused = True
        self.loop.call_later(LINGER_S, self.transport.close)

    def _give_up(self) -> None:
        if getattr(self, "cycle", None) is None and not self.transport.is_closing():
            self.transport.close()
