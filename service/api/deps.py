"""What routes ask the framework for: the application, its surroundings, and leave to act.

Access: every route declares what its calls need, with `needs(scope)` or `PUBLIC`; `assemble` refuses one
that does not. The declaration is a dependency, so it also enforces, whatever class the route has.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Security, params
from fastapi.openapi.models import HTTPBearer
from fastapi.routing import APIRoute
from fastapi.security.base import SecurityBase
from starlette.requests import Request

from service.api.authentication import lets_in_without_key, missing_key, shown_key
from service.api.errors import MissingScope
from service.api.metrics import Metrics
from service.api.middleware.admission import Gate
from service.api.workers import Workers
from service.application.app import Application
from service.application.errors import Unauthorised
from service.application.types import ANONYMOUS, Caller, Scope
from service.settings import Settings

CALLER = "hashguard.caller"
"""Where the caller stands in a connection's scope once they were let in."""

ACCESS = "hashguard.access"
"""Where the words about access for the log stand in a connection's scope: `key`, `refused`."""


@dataclass(frozen=True)
class Context:
    """What lives as long as the server does."""

    application: Application
    settings: Settings
    metrics: Metrics
    gate: Gate
    workers: Workers


async def context(request: Request) -> Context:
    """The surroundings that `create_app` put up."""
    found = request.app.state.context
    if not isinstance(found, Context):
        raise TypeError(f"app.state.context must be a Context, it is {type(found).__name__}")
    return found


ContextDep = Annotated[Context, Depends(context)]


async def admit(request: Request, ctx: Context, scope: Scope) -> None:
    """Let a request do what `scope` is for; a second time on the same request costs nothing.

    Raises:
        Unauthorised: no key where one is needed, or one that is not good; counted and logged.
        MissingScope: the key does not have the scope; counted and logged.
        Unavailable: the keys cannot be read.
    """
    if CALLER not in request.scope:
        try:
            request.scope[CALLER] = await _caller(request, ctx)
        except Unauthorised as error:
            _note(request, ctx, error.key_id, error.reason)
            raise
        request.scope[ACCESS] = {"key": request.scope[CALLER].key_id}
    who: Caller = request.scope[CALLER]
    if scope not in who.scopes:
        _note(request, ctx, who.key_id, "scope")
        raise MissingScope(scope)


async def _caller(request: Request, ctx: Context) -> Caller:
    """Who is calling; nothing that the client sent is believed without its key."""
    if ctx.settings.asks_nobody:
        return ANONYMOUS  # a proxy's own Authorization header may come through
    shown = shown_key(request.scope)
    if shown is None:
        if lets_in_without_key(ctx.settings, request.scope):
            return ANONYMOUS
        raise missing_key()
    keyring = ctx.application.keyring
    arrived = keyring.now()
    while (wait := keyring.due_in(shown, arrived)) is not None:
        await asyncio.sleep(wait)
        await ctx.workers.run(keyring.read)
    return keyring.check(shown)


def _note(request: Request, ctx: Context, key_id: str | None, reason: str) -> None:
    ctx.metrics.access_refused(reason)
    request.scope[ACCESS] = {"key": key_id, "refused": reason}


class KeyScheme(SecurityBase):
    """Describes the key in the OpenAPI document; `admit` reads it."""

    def __init__(self) -> None:
        self.scheme_name = "apiKey"
        self.model = HTTPBearer(
            description="An API key with the scope that the operation names. "
            "A service that only its own machine reaches asks for none, unless it is told to."
        )

    async def __call__(self) -> None:
        """Nothing: see the class."""


_SCHEME = KeyScheme()


@dataclass(frozen=True)
class Keyed:
    """Declares that the calls of a route need a scope, and enforces it."""

    scope: Scope

    async def __call__(
        self, request: Request, ctx: ContextDep, _: Annotated[None, Security(_SCHEME)]
    ) -> None:
        """Raises as `admit`."""
        await admit(request, ctx, self.scope)


@dataclass(frozen=True)
class Everybody:
    """Declares that anybody may call a route, or that it asks by itself once it knows what is wanted."""

    async def __call__(self) -> None:
        """Let the request in."""


PUBLIC: params.Depends = Depends(Everybody())
"""The declaration of routes that anybody may call."""


def needs(scope: Scope) -> params.Security:
    """The declaration of routes whose calls need a scope."""
    return params.Security(Keyed(scope), scopes=[scope.value])


def declared_scope(dependencies: Sequence[params.Depends]) -> Scope | None:
    """The scope that a route's dependencies declare, None for a public route.

    Raises TypeError unless there is exactly one declaration.
    """
    found = [each.dependency for each in dependencies if isinstance(each.dependency, Keyed | Everybody)]
    if len(found) != 1:
        raise TypeError(
            f"a route declares its access once, with needs(...) or PUBLIC; got {len(found)} times"
        )
    return found[0].scope if isinstance(found[0], Keyed) else None


async def admit_early(request: Request, route: APIRoute) -> None:
    """Enforce a route's declaration before its body is read. Raises as `admit`."""
    scope = declared_scope(route.dependencies)
    if scope is not None:
        await admit(request, await context(request), scope)
