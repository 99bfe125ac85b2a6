"""What routes ask the framework for: the application, its surroundings, and who is calling.

Access: every router declares the scope that its calls need through `requires(...)`. Until API keys exist
every caller is `ANONYMOUS`, who has all scopes, and `hashguard serve` therefore refuses to listen beyond
loopback unless told to. `caller` is the one function to change when keys come.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated

from fastapi import Depends
from starlette.requests import Request

from service.api.errors import Forbidden
from service.api.metrics import Metrics
from service.api.middleware.admission import Gate
from service.api.workers import Workers
from service.application.app import Application
from service.settings import Settings


class Scope(StrEnum):
    """What a caller may do."""

    READ = "read"
    WRITE = "write"
    ADMIN = "admin"


@dataclass(frozen=True)
class Caller:
    """Who is calling and what they may do."""

    name: str
    scopes: frozenset[Scope]


ANONYMOUS = Caller("anonymous", frozenset(Scope))
"""A caller without a key, who may do everything."""


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


async def caller() -> Caller:
    """Who is calling."""
    return ANONYMOUS


def requires(scope: Scope) -> Callable[[Caller], Awaitable[None]]:
    """A dependency that raises `Forbidden` unless the caller has `scope`."""

    async def check(who: Annotated[Caller, Depends(caller)]) -> None:
        if scope not in who.scopes:
            raise Forbidden(f"This call needs the scope {scope.value!r}.")

    return check


ContextDep = Annotated[Context, Depends(context)]
