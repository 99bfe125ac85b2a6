"""What a call can raise besides httpx' own errors.

HashguardError
|- ServiceProblem      the service answered with a problem document
|- NoPredecessor       there is no generation to roll back to
`- UnexpectedAnswer    something answered that does not speak this interface
"""

from __future__ import annotations

from typing import Any


class HashguardError(Exception):
    """Base of this client's errors."""


class ServiceProblem(HashguardError):
    """A problem document (RFC 9457); `code` is stable, `request_id` finds the request in the log."""

    def __init__(self, status: int, document: dict[str, Any]) -> None:
        self.status = status
        self.code = str(document.get("code", "unknown"))
        self.detail = str(document.get("detail", ""))
        self.request_id = document.get("request_id")
        self.errors: list[dict[str, str]] = list(document.get("errors") or ())
        super().__init__(f"{status} {self.code}: {self.detail}")


class UnexpectedAnswer(HashguardError):
    """Something answered that does not speak this interface."""


class NoPredecessor(HashguardError):
    """No kept generation was live before the live one: there is nothing to roll back to."""
