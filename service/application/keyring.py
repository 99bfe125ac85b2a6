"""Checks the keys that callers show, against the keys in force, which it holds in memory.

A request costs one hash and one look-up. The catalog is read when the picture of it is older than `FRESH_S`,
so a key that any process revoked is refused everywhere within that time, and when an unknown id comes up,
so a new key works at once; but never twice within `RETRY_S`, so that a flood of made-up keys causes ten reads
a second at most, whatever it sends: who shows an unknown id waits until the next read may be. When the
catalog cannot be read, nobody with a key comes in.
"""

from __future__ import annotations

import hmac
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime

import structlog

from service.application.errors import ServiceError, Unauthorised
from service.application.keys import KeyRepository, ShownKey
from service.application.ports import Clock
from service.application.types import ApiKey, Caller

FRESH_S = 1.0
"""Seconds for which the picture of the catalog is good."""

RETRY_S = 0.1
"""Seconds that lie between two reads of the catalog, at least."""

_NOBODY = "0" * 64
_log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class _Picture:
    """The keys in force by id, as they were after `read`, a monotonic time in seconds."""

    read: float = float("-inf")
    keys: Mapping[str, ApiKey] = field(default_factory=dict)


class Keyring:
    """The keys in force; safe to use from many threads."""

    def __init__(
        self, repository: KeyRepository, clock: Clock, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._repository = repository
        self._clock = clock
        self._monotonic = monotonic
        self._picture = _Picture()
        self._reading = threading.Lock()
        self._used: dict[str, datetime] = {}
        self._noting = threading.Lock()

    def now(self) -> float:
        """The time by which `due_in` reckons, in seconds."""
        return self._monotonic()

    def due_in(self, shown: ShownKey, arrived: float) -> float | None:
        """Seconds until `read`, which may block, may come before `check`; None where `check` can come now.

        To be asked again after `read`, until it is None. `arrived` is when the request came, by the same
        clock: what was read from then on knows every key that was made before.
        """
        picture = self._picture
        if picture.read > arrived:
            return None
        age = self._monotonic() - picture.read
        if age > FRESH_S:
            return 0.0
        return None if shown.id in picture.keys else max(0.0, RETRY_S - age)

    def read(self) -> None:
        """Read the keys in force, unless somebody just did. Raises `Unavailable`."""
        with self._reading:
            started = self._monotonic()  # before the read: what is committed after it may be missing
            if started - self._picture.read >= RETRY_S:
                self._picture = _Picture(started, {key.id: key for key in self._repository.in_force()})

    def check(self, shown: ShownKey) -> Caller:
        """Whose key it is. Raises `Unauthorised`; an unknown id and a wrong secret look alike to callers."""
        now = self._clock()
        key = self._picture.keys.get(shown.id)
        # The id is no secret; the digests are compared in constant time, also when there is nothing to find.
        same = hmac.compare_digest(shown.digest, _NOBODY if key is None else key.digest)
        if key is None or not same:
            reason = "unknown" if key is None else "mismatch"
            detail = "The API key is not known here, or no longer."
            raise Unauthorised(detail, code="invalid_key", reason=reason, key_id=shown.id)
        if key.state(now) == "expired":
            detail = f"The API key has expired ({key.expires})."
            raise Unauthorised(detail, code="expired_key", reason="expired", key_id=key.id)
        with self._noting:
            self._used[key.id] = now
        return Caller(key.id, key.scopes)

    def flush(self) -> None:
        """Write down when keys were last used; what cannot be written is tried again with the next."""
        with self._noting:
            used, self._used = self._used, {}
        if not used:
            return
        try:
            self._repository.touch(used)
        except ServiceError as error:
            _log.warning("last_use_not_recorded", error=error.detail)
            with self._noting:
                self._used = used | self._used
