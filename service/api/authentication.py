"""Who is asked for a key, and what the Authorization header says.

A service that only its own machine reaches asks nobody (`HASHGUARD_AUTHENTICATION=auto`). What counts as
that is the address it listens on, and for each request the local address of its connection: both are
facts, no client can forge them. A reverse proxy on the same machine connects from loopback for
everybody, so it must not pass for its operator: host names beyond loopback's own in
`HASHGUARD_ALLOWED_HOSTS` mean that there is one, and so does a header that proxies add. Such a header can
only take away, so forging it gains nothing; but a proxy may add none, so the operator of one says `required`.
"""

from __future__ import annotations

from ipaddress import ip_address

from starlette.datastructures import Headers
from starlette.types import Scope as Connection

from service.application.errors import Unauthorised
from service.application.keys import ShownKey, read_key
from service.settings import Settings

LOOPBACK_HOSTS = ("localhost", "127.0.0.1", "[::1]")
"""The names under which a service on loopback is reached."""

PROXY_HEADERS = ("forwarded", "via", "x-forwarded-for", "x-forwarded-host", "x-real-ip")
"""Headers that reverse proxies add."""


def is_loopback(host: str) -> bool:
    """Whether a bind address can be reached from this machine only."""
    if host.lower() == "localhost":
        return True
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def asks_for_keys(settings: Settings) -> bool:
    """Whether the settings alone make every caller show a key."""
    if settings.asks_nobody:
        return False
    if settings.authentication == "required" or not is_loopback(settings.host):
        return True
    return not all(is_loopback(name) for name in settings.host_names())


def lets_in_without_key(settings: Settings, connection: Connection) -> bool:
    """Whether a request that shows no key may do everything."""
    if settings.asks_nobody:
        return True
    server = connection.get("server")
    if asks_for_keys(settings) or server is None or not is_loopback(server[0]):
        return False
    headers = Headers(scope=connection)
    return not any(name in headers for name in PROXY_HEADERS)


def shown_key(connection: Connection) -> ShownKey | None:
    """The key of the Authorization header, None without one; `Unauthorised` for anything else in it."""
    values = Headers(scope=connection).getlist("authorization")
    if not values:
        return None
    scheme, _, credentials = values[0].partition(" ")
    shown = read_key(credentials.strip(" ")) if scheme.lower() == "bearer" else None
    if len(values) > 1 or shown is None:
        raise Unauthorised(
            "The Authorization header must be, once, `Bearer` and an API key.",
            code="invalid_key",
            reason="malformed",
        )
    return shown


def missing_key() -> Unauthorised:
    """The error of a request that shows no key and needs one."""
    detail = (
        "This call needs an API key: send `Authorization: Bearer KEY` "
        "(`hashguard keys create` makes one for the operator)."
    )
    return Unauthorised(detail, code="missing_key", reason="missing")
