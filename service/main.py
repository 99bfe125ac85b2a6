"""The server process: the uvicorn factory `service.main:create`, and `serve`, which drains before it ends.

On SIGTERM or SIGINT the listener stays open while requests in flight are answered, so that `/readyz` can
say 503 and a load balancer turns away; new requests get 503 with Retry-After. A second signal ends at once.
"""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Callable
from types import FrameType

import uvicorn
from fastapi import FastAPI

from service.api.app import create_app
from service.api.deps import Context
from service.api.logs import configure_logs
from service.api.protocol import ProblemProtocol
from service.settings import Settings
from service.wiring import build_application

LAME_DUCK_S = 0.3
"""Seconds for which a draining server goes on listening at least, so that a probe sees it."""


def create() -> FastAPI:
    """The ASGI application as the environment's settings have it: `uvicorn --factory service.main:create`."""
    settings = Settings()
    configure_logs(settings.log_level, settings.log_json)
    return create_app(build_application(settings), settings)


class DrainingServer(uvicorn.Server):
    """uvicorn's server with a drain between the signal and the end."""

    def __init__(self, config: uvicorn.Config, context: Context, started: Callable[[], None]) -> None:
        """`started` is called once, when the server listens."""
        super().__init__(config)
        self._context = context
        self._on_start = started
        self._drain: asyncio.Task[None] | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, then say so."""
        await super().startup(sockets)
        self._on_start()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """First signal: drain, then end with status 0. Second: end at once, with uvicorn's status for it."""
        if self._drain is not None or not self.started:
            super().handle_exit(sig, frame)
            self.force_exit = self.force_exit or sig == signal.SIGINT
            return
        self._drain = asyncio.get_running_loop().create_task(self._drained())

    async def _drained(self) -> None:
        context = self._context
        context.gate.draining = True
        await asyncio.sleep(LAME_DUCK_S)
        await context.gate.drained(context.settings.drain_s)
        await asyncio.to_thread(context.application.drain)
        self.should_exit = True


def bind(host: str, port: int) -> socket.socket:
    """A socket bound to the address; raises `OSError` when it is taken or not of this machine.

    Bound before the model is loaded, so that a taken port is known at once.
    """
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    bound = socket.socket(family, kind, protocol)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except OSError:
        bound.close()
        raise
    return bound


def serve(settings: Settings, bound: socket.socket, started: Callable[[], None]) -> None:
    """Serve on a bound socket until a signal comes.

    Raises:
        SystemExit: with status 3 when the application could not start; the log says why.
    """
    app = create_app(build_application(settings), settings)
    config = uvicorn.Config(
        app,
        http=ProblemProtocol,
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=int(settings.drain_s) + 1,
    )
    DrainingServer(config, app.state.context, started).run([bound])
