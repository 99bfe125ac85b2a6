"""The running service as the trainer sees it: which model is live, and a reindex with another, over HTTP."""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from model.errors import RetrainingError

FINAL = frozenset({"done", "failed", "cancelled"})
POLL_S = 1.0
PATIENCE_S = 60.0
"""How long a service may be away (restarting, draining) while its job is watched."""
AWAY = frozenset({502, 503, 504})
"""Statuses of a service, or of a proxy before it, that say to come again."""
MAX_KEY_CHARS = 1000
_VISIBLE = re.compile("[!-~]+")

Tell = Callable[[str, int, int], None]
"""Hears the phase, the items done and all of them; may raise to stop watching."""


@dataclass(frozen=True)
class Live:
    """The live model: "name/version", and the digest of its manifest."""

    model: str
    digest: str


def read_key(file: Path | None) -> str | None:
    """The API key in a file; None without one. Raises RetrainingError that never shows it."""
    if file is None:
        return None
    try:
        key = file.read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise RetrainingError(f"the key file cannot be read: {type(error).__name__}") from error
    if len(key) > MAX_KEY_CHARS or _VISIBLE.fullmatch(key) is None:
        raise RetrainingError("the key file is empty or holds characters that no key has")
    return key


class Service:
    """A service at `url`, asked with an admin key; every method raises RetrainingError with the reason."""

    def __init__(self, url: str, key: str | None, poll_s: float = POLL_S) -> None:
        self._poll_s = poll_s
        headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        try:
            self._client = httpx.Client(base_url=url, headers=headers, timeout=30.0)
        except httpx.InvalidURL as error:
            raise RetrainingError(f"--url: wanted http://host:port, got {url!r}: {error}") from error

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def live(self) -> Live | None:
        """The live model, None when nothing is served yet."""
        rows = self._ask("GET", "/v1/admin/generations").get("generations", [])
        found = [row for row in rows if row["live"]]
        return Live(found[0]["model_version"], found[0]["model_digest"]) if found else None

    def reindex(self, model: str, tell: Tell) -> None:
        """Have the index rebuilt with the model "name/version" and served; returns when that is done.

        A job for this model that runs already is watched: the trainer may have been killed after it asked.
        """
        job = self._running(model) or self._ask(
            "POST",
            "/v1/admin/reindex",
            json={"model": model, "activate": True},
            headers={"Idempotency-Key": uuid.uuid4().hex},
        )
        while job["phase"] not in FINAL:
            tell(job["phase"], job["done"], job["total"])
            time.sleep(self._poll_s)
            job = self._patiently(f"/v1/admin/jobs/{job['id']}")
        if job["phase"] != "done":
            why = job["error"] or "no reason given"
            raise RetrainingError(f"the reindex with {model} {job['phase']}: {why}")

    def _running(self, model: str) -> dict[str, Any] | None:
        jobs: list[dict[str, Any]] = self._ask("GET", "/v1/admin/jobs")["jobs"]
        own = [job for job in jobs if job["model"] == model and job["activate"]]
        return next((job for job in own if job["phase"] not in FINAL), None)

    def _patiently(self, path: str) -> dict[str, Any]:
        """As `_ask`, for a service that may be away for a minute."""
        end = time.monotonic() + PATIENCE_S
        while True:
            try:
                return self._ask("GET", path)
            except _AwayError:
                if time.monotonic() > end:
                    raise
                time.sleep(self._poll_s)

    def _ask(self, method: str, path: str, **request: Any) -> dict[str, Any]:  # noqa: ANN401 - httpx's options
        try:
            answer = self._client.request(method, path, **request)
        except httpx.HTTPError as error:
            raise _AwayError(f"no answer from {self._client.base_url}: {error}") from error
        if answer.status_code in AWAY:
            raise _AwayError(f"{path}: the service answered {answer.status_code}")
        try:
            document = answer.json()
        except ValueError as error:
            raise RetrainingError(f"{path}: wanted JSON, got status {answer.status_code}") from error
        if not isinstance(document, dict):
            raise RetrainingError(f"{path}: wanted a JSON object, got {type(document).__name__}")
        if answer.is_error:
            raise RetrainingError(
                f"{path}: the service answered {answer.status_code}: {document.get('detail')}"
            )
        return document


class _AwayError(RetrainingError):
    """No answer, or one that says to come again."""
