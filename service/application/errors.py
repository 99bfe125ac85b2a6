"""Errors of the use cases; `service/api/errors.py` maps each one to an HTTP status in a single table.

ServiceError
|- InvalidInput          the caller sent something that does not fit (422)
|  |- BadRequest         the request cannot be read at all (400)
|  |- UnsupportedMedia   bytes that are none of the image types accepted (415)
|  `- TooLarge           too many bytes or pixels (413)
|- Unauthorised          no key, or one that is not good (401)
|- NotFound              no such item, job, model, generation, key (404)
|- Conflict              a reindex is running, an id is taken, a pairing does not fit (409)
|- Unavailable           overloaded, draining, or no usable model and index (503, retry later)
`- Damaged               stored data that is missing or does not match its digest (500)
"""

from __future__ import annotations


class ServiceError(Exception):
    """Base of every error that a use case raises on purpose.

    `code` is a stable, machine-readable word; `str(error)` says what was wanted and what came.
    """

    code = "service_error"

    def __init__(self, detail: str, *, code: str | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        if code is not None:
            self.code = code


class InvalidInput(ServiceError):
    """The input does not fit what the call takes."""

    code = "invalid_input"


class BadRequest(InvalidInput):
    """The request cannot be read at all."""

    code = "bad_request"


class UnsupportedMedia(InvalidInput):
    """The bytes are none of the image types accepted."""

    code = "unsupported_image"


class TooLarge(InvalidInput):
    """More bytes or pixels than the service takes."""

    code = "too_large"


class Unauthorised(ServiceError):
    """The caller showed no key, or one that is not good.

    `reason` is one word of a fixed set for metrics and logs: missing, malformed, unknown, mismatch, expired;
    `key_id` the public part of the key that was shown, when it had the shape of one.
    """

    code = "unauthorised"

    def __init__(self, detail: str, *, code: str, reason: str, key_id: str | None = None) -> None:
        super().__init__(detail, code=code)
        self.reason = reason
        self.key_id = key_id


class NotFound(ServiceError):
    """No such item, job, model, generation or key."""

    code = "not_found"


class Conflict(ServiceError):
    """The state of the service does not allow this now."""

    code = "conflict"


class Unavailable(ServiceError):
    """The service cannot answer now; `retry_after_s` says when to try again (seconds)."""

    code = "unavailable"

    def __init__(self, detail: str, *, code: str | None = None, retry_after_s: int = 1) -> None:
        super().__init__(detail, code=code)
        self.retry_after_s = retry_after_s


class Damaged(ServiceError):
    """Data that the service keeps is missing or does not match its digest; the client did nothing wrong."""

    code = "damaged"
