"""Puts the HTTP side together: routes, error handlers and middleware around one `Application`."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from asgi_correlation_id import CorrelationIdMiddleware
from fastapi import APIRouter, FastAPI
from fastapi.routing import APIRoute
from starlette.middleware import Middleware
from starlette.types import Lifespan, Scope

from service.api import errors
from service.api.authentication import LOOPBACK_HOSTS, is_loopback
from service.api.deps import Context, declared_scope
from service.api.metrics import Metrics
from service.api.middleware.access import AccessMiddleware
from service.api.middleware.admission import AdmissionMiddleware, Gate
from service.api.middleware.body_limit import BodyLimitMiddleware, LimitOf
from service.api.middleware.guard import GuardMiddleware
from service.api.middleware.headers import HeadersMiddleware
from service.api.routes import admin, health, items, models, page, search
from service.api.workers import Workers
from service.application.app import Application
from service.settings import Settings

INTERFACE_VERSION = "1.0.0"
"""Version of the HTTP interface, not of the program."""

_ROUTERS = tuple(module.router for module in (search, items, models, admin, health, page))
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,100}")
_DESCRIPTION = """Images find texts and texts find images through short binary codes.

Callers beyond the service's own machine show an API key, `Authorization: Bearer KEY`, with the scope that
a call needs: `search`, `write` or `admin`.

Errors are problem documents (RFC 9457) with a stable `code`. Types are strict and unknown fields are
refused. The same query gives the same page for ever while the corpus and the model stay."""


def create_app(application: Application, settings: Settings) -> FastAPI:
    """The ASGI application around the use cases; it starts and closes them with its own life."""
    metrics = Metrics()
    context = Context(
        application=application,
        settings=settings,
        metrics=metrics,
        gate=Gate(settings.max_requests_in_flight),
        workers=Workers(settings.request_threads, settings.request_timeout_s),
    )
    app = assemble(_lifespan, _middleware(context))
    app.state.context = context
    return app


def assemble(lifespan: Lifespan[FastAPI] | None = None, middleware: Sequence[Middleware] = ()) -> FastAPI:
    """Routes and error handlers without anything behind them: enough for the OpenAPI document.

    Raises TypeError when a route does not declare who may call it.
    """
    app = FastAPI(
        title="hashguard",
        version=INTERFACE_VERSION,
        description=_DESCRIPTION,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        lifespan=lifespan,
        middleware=middleware,
    )
    errors.install(app, methods_of)
    for router in _ROUTERS:
        check_declared(router)
        app.include_router(router)
    return app


def check_declared(router: APIRouter) -> None:
    """Raise TypeError when a route of a router does not declare, once, what its calls need."""
    for route in router.routes:
        if not isinstance(route, APIRoute):
            raise TypeError(f"{route} must be an APIRoute: no other route can declare who may call it")
        try:
            declared_scope(route.dependencies)
        except TypeError as error:
            raise TypeError(f"{sorted(route.methods or ())} {route.path}: {error}") from error


def methods_of(path: str) -> frozenset[str]:
    """The methods that a path has, over all routes."""
    if path == "/openapi.json":
        return frozenset({"GET", "HEAD"})
    routes = [route for router in _ROUTERS for route in router.routes if isinstance(route, APIRoute)]
    return frozenset(
        method for route in routes if route.path_regex.match(path) for method in route.methods or ()
    )


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    context: Context = app.state.context
    await asyncio.to_thread(context.application.start)
    context.metrics.watch(context.application)
    try:
        yield
    finally:
        await asyncio.to_thread(context.application.close)
        context.workers.close()


def _middleware(context: Context) -> list[Middleware]:
    """Outermost first: whatever refuses a request is inside what gives it an id, a log line and a count."""
    settings = context.settings
    return [
        Middleware(CorrelationIdMiddleware, validator=_is_request_id),
        Middleware(AccessMiddleware, metrics=context.metrics),
        Middleware(HeadersMiddleware),
        Middleware(
            GuardMiddleware,
            allowed_hosts=allowed_hosts(settings),
            allowed_origins=settings.origins(),
        ),
        Middleware(AdmissionMiddleware, gate=context.gate, metrics=context.metrics),
        Middleware(
            BodyLimitMiddleware,
            limit_of=body_limits(settings),
            deadline_s=settings.body_timeout_s,
            metrics=context.metrics,
        ),
    ]


def allowed_hosts(settings: Settings) -> tuple[str, ...]:
    """The host names under which the service is reached.

    On loopback its own names (against DNS rebinding) and those that the operator adds; elsewhere what the
    operator says, or any.
    """
    configured = settings.host_names()
    if is_loopback(settings.host):
        return (*LOOPBACK_HOSTS, settings.host, *configured)
    return configured or ("*",)


def body_limits(settings: Settings) -> LimitOf:
    """The largest body of a request in bytes: batches carry images as JSON, other JSON is small."""

    def limit_of(scope: Scope) -> int:
        if scope["path"].endswith("/batch"):
            return settings.max_batch_bytes
        headers = dict(scope["headers"])
        if b"json" in headers.get(b"content-type", b"").lower():
            return settings.max_json_bytes
        return settings.max_body_bytes

    return limit_of


def _is_request_id(value: str) -> bool:
    return _REQUEST_ID.fullmatch(value) is not None
