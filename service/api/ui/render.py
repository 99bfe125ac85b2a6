"""Renders the pages from templates; every value is escaped, a missing one is an error."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape
from starlette.responses import HTMLResponse

from service.api.middleware.headers import PAGE_POLICY

_TYPES = {".css": "text/css; charset=utf-8", ".svg": "image/svg+xml"}


@dataclass(frozen=True)
class Asset:
    """A static file: its bytes, media type and entity tag."""

    data: bytes
    media_type: str
    tag: str


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("service.api", "ui/templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = lambda share: f"{100 * share:.0f} %"
    environment.filters["code"] = _with_code
    return environment


def _with_code(text: str) -> Markup:
    """Escaped text in which what stands between backticks is set as code."""
    parts = text.split("`")
    return Markup("").join(
        Markup("<code>{}</code>").format(part) if position % 2 else escape(part)
        for position, part in enumerate(parts)
    )


@cache
def assets() -> dict[str, Asset]:
    """The static files by name."""
    folder = files("service.api").joinpath("ui/static")
    found = {}
    for file in folder.iterdir():
        data = file.read_bytes()
        suffix = "." + file.name.rpartition(".")[2]
        found[file.name] = Asset(data, _TYPES[suffix], f'"{hashlib.sha256(data).hexdigest()[:16]}"')
    return found


def page(
    template: str, status: int = 200, headers: dict[str, str] | None = None, **values: object
) -> HTMLResponse:
    """A rendered template as a response with the pages' Content-Security-Policy."""
    html = _environment().get_template(template).render(**values)
    policy = {"Content-Security-Policy": PAGE_POLICY, "Cache-Control": "no-store"}
    return HTMLResponse(html, status_code=status, headers=policy | (headers or {}))
