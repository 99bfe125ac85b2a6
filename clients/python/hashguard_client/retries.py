"""When a call is tried again, and after how long."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import httpx

NOT_TAKEN = frozenset({429, 503})
"""The service said that it did nothing with the call."""

MAYBE_TAKEN = frozenset({502, 504})
"""Something on the way failed; only idempotent calls are tried again."""


@dataclass(frozen=True)
class Retries:
    """At most `tries` tries; pauses double from `first_pause_s` to `longest_pause_s` (seconds), with jitter.

    `Retry-After` counts instead when it is longer, as far as `longest_pause_s`; beyond that the answer is
    given to the caller, who knows better whether to wait.
    """

    tries: int = 4
    first_pause_s: float = 0.2
    longest_pause_s: float = 30.0
    sleep: Callable[[float], None] = time.sleep
    jitter: random.Random = field(default_factory=random.Random)

    def send(self, call: Callable[[], httpx.Response], idempotent: bool) -> httpx.Response:
        """The first answer worth giving to the caller, or the last one; raises httpx' transport errors."""
        again = NOT_TAKEN | MAYBE_TAKEN if idempotent else NOT_TAKEN
        for attempt in range(1, self.tries + 1):
            pause = self._pause(attempt)
            try:
                response = call()
            except httpx.TransportError:
                if not idempotent or attempt == self.tries:
                    raise
            else:
                asked = _retry_after(response)
                if response.status_code not in again or attempt == self.tries or asked > self.longest_pause_s:
                    return response
                pause = max(pause, asked)
            self.sleep(pause)
        raise ValueError(f"tries must be at least 1, it is {self.tries}")

    def _pause(self, attempt: int) -> float:
        longest = min(self.longest_pause_s, self.first_pause_s * 2 ** (attempt - 1))
        return longest * self.jitter.uniform(0.5, 1.0)


def _retry_after(response: httpx.Response) -> float:
    """Seconds that the answer asks to wait; 0 when it does not say, or says it as a date."""
    value = response.headers.get("Retry-After", "")
    return float(value) if value.isascii() and value.isdigit() else 0.0
