"""From an error to a problem document (RFC 9457): the only place where an error meets an HTTP status.

    ServiceError                     service/application/errors.py
    |- ...                           errors of the use cases
    |- WrongContentType              the body's media type is none that this call takes (415)
    |- Forbidden                     the caller may not do this (403)
    |  `- MissingScope               the caller's key does not have the scope (403)
    |- RequestTimedOut               the body did not arrive in time (408)
    |- RefusedHost                   the Host header names somebody else (400)
    `- InvalidFields                 fields of a form or query that do not fit, each with its place (422)

Nothing of an unexpected error is shown to the client: it gets a 500 with the request id under which the
stack trace lies in the log.
"""

from __future__ import annotations

import http
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from asgi_correlation_id import correlation_id
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from service.application.errors import (
    BadRequest,
    Conflict,
    Damaged,
    InvalidInput,
    NotFound,
    ServiceError,
    TooLarge,
    Unauthorised,
    Unavailable,
    UnsupportedMedia,
)
from service.application.types import Scope

MEDIA_TYPE = "application/problem+json"

MethodsOf = Callable[[str], Collection[str]]


@dataclass(frozen=True)
class FieldError:
    """One field that does not fit; `pointer` is a JSON pointer fragment (RFC 6901) into `place`."""

    place: str
    pointer: str
    code: str
    detail: str

    def as_json(self) -> dict[str, str]:
        """The member of `errors` in a problem document."""
        return {"in": self.place, "pointer": self.pointer, "code": self.code, "detail": self.detail}


class WrongContentType(InvalidInput):
    """The declared media type of the body is none that this call takes."""

    code = "unsupported_media_type"


class Forbidden(ServiceError):
    """The caller may not do this."""

    code = "forbidden"


class MissingScope(Forbidden):
    """The caller's key is good, but does not have the scope of this call."""

    code = "missing_scope"

    def __init__(self, scope: Scope) -> None:
        super().__init__(f"This call needs a key with the scope {scope.value!r}; the key shown has it not.")
        self.scope = scope


class RequestTimedOut(ServiceError):
    """The request's body did not arrive in time."""

    code = "request_timeout"


class RefusedHost(InvalidInput):
    """The Host header is none of the names under which this service is reached."""

    code = "invalid_host"


class InvalidFields(InvalidInput):
    """One or more fields do not fit; `errors` says which and why."""

    code = "validation_failed"

    def __init__(self, errors: Sequence[FieldError]) -> None:
        super().__init__("; ".join(f"{error.pointer}: {error.detail}" for error in errors[:3]))
        self.errors = tuple(errors)


# The table. A class that is not here takes the status of its nearest base.
STATUS: Mapping[type[ServiceError], int] = {
    ServiceError: 500,
    Damaged: 500,
    BadRequest: 400,
    RefusedHost: 400,
    Unauthorised: 401,
    Forbidden: 403,
    MissingScope: 403,
    NotFound: 404,
    RequestTimedOut: 408,
    Conflict: 409,
    TooLarge: 413,
    UnsupportedMedia: 415,
    WrongContentType: 415,
    InvalidInput: 422,
    InvalidFields: 422,
    Unavailable: 503,
}

_TITLES = {413: "Content Too Large", 422: "Unprocessable Content"}
_CODES = {
    401: "unauthorised",
    403: "forbidden",
    404: "not_found",
    405: "method_not_allowed",
    413: "too_large",
}


def title_of(status: int) -> str:
    """The name of a status as RFC 9110 has it; Python 3.11 still has the older names of two."""
    return _TITLES.get(status) or http.HTTPStatus(status).phrase


def status_of(error: ServiceError) -> int:
    """The HTTP status of an error of the service, from the table above."""
    return next(STATUS[kind] for kind in type(error).__mro__ if kind in STATUS)


def problem_body(status: int, code: str, detail: str, errors: Sequence[FieldError] = ()) -> dict[str, Any]:
    """The members of a problem document; `errors` is there only when a field is to blame."""
    body: dict[str, Any] = {
        "type": f"urn:hashguard:problem:{code}",
        "title": title_of(status),
        "status": status,
        "detail": detail,
        "code": code,
        "request_id": correlation_id.get(),
    }
    if errors:
        body["errors"] = [error.as_json() for error in errors]
    return body


def problem_of(error: ServiceError) -> dict[str, Any]:
    """The problem document of an error of the service."""
    fields = error.errors if isinstance(error, InvalidFields) else ()
    return problem_body(status_of(error), error.code, error.detail, fields)


def problem_response(body: Mapping[str, Any], headers: Mapping[str, str] | None = None) -> Response:
    """A problem document as a response; its status is the document's own."""
    return Response(
        json.dumps(body, ensure_ascii=False).encode("utf-8", "replace"),
        status_code=int(body["status"]),
        media_type=MEDIA_TYPE,
        headers=dict(headers or {}),
    )


def error_response(error: ServiceError) -> Response:
    """The response to an error of the service, with `headers_of` it."""
    return problem_response(problem_of(error), headers_of(error))


def headers_of(error: ServiceError) -> dict[str, str]:
    """`Retry-After` where a later try can help, `WWW-Authenticate` (RFC 6750) where another key can."""
    if isinstance(error, Unavailable):
        return {"Retry-After": str(error.retry_after_s)}
    if isinstance(error, Unauthorised):
        shown = "" if error.reason == "missing" else ', error="invalid_token"'
        return {"WWW-Authenticate": f'Bearer realm="hashguard"{shown}'}
    if isinstance(error, MissingScope):
        words = f'error="insufficient_scope", scope="{error.scope.value}"'
        return {"WWW-Authenticate": f'Bearer realm="hashguard", {words}'}
    return {}


def unexpected_response() -> Response:
    """The answer to a fault of ours: no word of what went wrong, only where to look it up."""
    detail = "The service failed on this request; its log has the reason under this request id."
    return problem_response(problem_body(500, "internal_error", detail))


def pointer_to(parts: Sequence[object]) -> str:
    """A JSON pointer as a URI fragment: `#/filter/must/0/key`; `#` is the whole document."""
    escaped = (str(part).replace("~", "~0").replace("/", "~1") for part in parts)
    return "#" + "".join(f"/{part}" for part in escaped)


def field_errors(errors: Sequence[Mapping[str, Any]], place: str | None = None) -> list[FieldError]:
    """Pydantic's errors as ours, without the refused input, which may be long or private.

    `place` names where the fields came from; None takes the first part of each location, as FastAPI
    writes it ("body", "query", "path").
    """
    result = []
    for error in errors:
        location = list(error["loc"])
        origin = place if place is not None else str(location.pop(0))
        result.append(FieldError(origin, pointer_to(location), str(error["type"]), str(error["msg"])))
    return result


def install(app: FastAPI, methods_of: MethodsOf) -> None:
    """Let every error that reaches the framework leave as a problem document.

    `methods_of` gives the methods that a path has. The framework's own `Allow` names those of one route
    only, though several may share the path.
    """
    app.state.methods_of = methods_of
    app.add_exception_handler(ServiceError, _service_error)
    app.add_exception_handler(RequestValidationError, _validation_error)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(ClientDisconnect, _disconnected)


def _service_error(_request: Request, error: Exception) -> Response:
    if not isinstance(error, ServiceError):  # pragma: no cover - Starlette picks handlers by class
        raise error
    return error_response(error)


def _validation_error(_request: Request, error: Exception) -> Response:
    if not isinstance(error, RequestValidationError):  # pragma: no cover - as above
        raise error
    return error_response(InvalidFields(field_errors(error.errors())))


def _http_error(request: Request, error: Exception) -> Response:
    """Errors of the framework itself: no such route, wrong method, a body that it cannot read."""
    if not isinstance(error, HTTPException):  # pragma: no cover - as above
        raise error
    details = {
        404: "There is nothing at this path.",
        405: f"{request.method} is not a method of this resource; Allow names those that are.",
    }
    code = _CODES.get(error.status_code, "bad_request")
    body = problem_body(error.status_code, code, details.get(error.status_code, error.detail))
    if error.status_code == 405:
        allowed: Collection[str] = request.app.state.methods_of(request.url.path)
        return problem_response(body, {"Allow": ", ".join(sorted(allowed))})
    return problem_response(body, error.headers)


def _disconnected(_request: Request, _error: Exception) -> Response:
    """The client went away while its body was being read; nobody reads this answer."""
    return error_response(BadRequest("The connection closed before the whole body had arrived."))
