"""Requests that no well-meaning client sends: foreign hosts, foreign origins, paths that do not decode.

A service on loopback needs no key, so a web page must not be able to speak to it through the visitor's
browser. Two ways are closed here. DNS rebinding: a page of evil.example that makes its name point to
127.0.0.1 still sends `Host: evil.example`, which is refused. Cross-site forms and fetches: a request that
may change something and carries an `Origin` other than the host it speaks to is refused; programs that
are no browsers send no `Origin`. Answers carry no CORS headers, so no page of another origin reads them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from urllib.parse import unquote_to_bytes, urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from service.api.errors import Forbidden, RefusedHost, error_response
from service.application.errors import BadRequest, ServiceError

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
_BROKEN_ESCAPE = re.compile(rb"%(?![0-9A-Fa-f]{2})")
_ENCODED_SLASH = re.compile(rb"%2f|%5c", re.IGNORECASE)
_PORT = re.compile(r":\d*$")


class GuardMiddleware:
    """Refuses what is described above with a problem document.

    `allowed_hosts` are host names without a port, or `*` for any; `allowed_origins` are further origins
    (`https://app.example`) whose pages may send requests that change something.
    """

    def __init__(self, app: ASGIApp, allowed_hosts: Sequence[str], allowed_origins: Sequence[str]) -> None:
        self.app = app
        self.allowed_hosts = frozenset(host.lower() for host in allowed_hosts)
        self.allowed_origins = frozenset(origin.lower().rstrip("/") for origin in allowed_origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Check one request, then pass it on."""
        if scope["type"] == "http":
            error = self._objection(scope)
            if error is not None:
                await error_response(error)(scope, receive, send)
                return
        await self.app(scope, receive, send)

    def _objection(self, scope: Scope) -> ServiceError | None:
        headers = Headers(scope=scope)
        host = headers.get("host", "").lower()
        if "*" not in self.allowed_hosts and _PORT.sub("", host) not in self.allowed_hosts:
            return RefusedHost("The Host header names no host of this service.")
        if scope["method"] not in SAFE_METHODS and self._is_foreign(headers, host):
            return Forbidden("Pages of another origin may not send this.", code="foreign_origin")
        return path_objection(scope.get("raw_path") or scope["path"].encode())

    def _is_foreign(self, headers: Headers, host: str) -> bool:
        origin = headers.get("origin")
        if origin is None:
            return headers.get("sec-fetch-site", "none") not in {"none", "same-origin"}
        origin = origin.lower()
        return origin not in self.allowed_origins and urlsplit(origin).netloc != host


def path_objection(raw_path: bytes) -> BadRequest | None:
    """Why a path as it came over the wire is refused, or None.

    Escapes must be whole, decode to UTF-8 without control characters, and not hide a slash: an id that
    held one would otherwise name another resource.
    """
    if _BROKEN_ESCAPE.search(raw_path):
        return BadRequest("The path holds a % that is no escape of two hexadecimal digits.", code="bad_path")
    if _ENCODED_SLASH.search(raw_path):
        return BadRequest("The path holds an escaped slash or backslash.", code="bad_path")
    try:
        path = unquote_to_bytes(raw_path).decode("utf-8")
    except UnicodeDecodeError:
        return BadRequest("The path is not UTF-8.", code="bad_path")
    if any(ord(character) < 32 or ord(character) == 127 for character in path):
        return BadRequest("The path holds a control character.", code="bad_path")
    return None
