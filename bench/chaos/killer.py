"""SIGKILL to service and worker at random moments; the service is started again each time.

The moments and the targets follow from the seed; where they find the processes does not, of course. A kill
of a worker waits until there is one, then a little longer, so that it is hit anywhere in its work. One in
five kills of the service is followed by another while it starts.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from bench.chaos.journal import Journal
from bench.chaos.server import Server

TARGETS = (("service",), ("worker",), ("service", "worker"))
_SHARES = (0.45, 0.4, 0.15)
_AGAIN = 0.2
_KEEPS = (1, 3)
_WORKER_LIFE_S = 6.0
_START_S = 3.0
_PATIENCE_S = 60.0


@dataclass(frozen=True)
class Strike:
    """A kill to come: seconds after the beginning, its targets, and what was drawn for afterwards.

    `delay_s`: how far into a worker's life; `again_after_s`: the service is killed again so soon after its
    start; `keep`: how many generations it keeps then.
    """

    at_s: float
    targets: tuple[str, ...]
    delay_s: float
    again_after_s: float | None
    keep: int

    @property
    def kills(self) -> int:
        """How many it counts for."""
        return 1 if self.again_after_s is None else 2


def plan(kills: int, seconds: float, seed: int) -> list[Strike]:
    """Strikes that count for `kills`, at moments spread over the time; the same for the same seed.

    Every sort of target is among the first three. The last one hits the service, and in the second half that
    starts so that it keeps several generations: the end looks at them all.
    """
    rng = np.random.default_rng([seed, 4])
    strikes: list[Strike] = []
    so_far = 0
    for targets in _targets(kills, rng):
        if so_far == kills:
            break
        at_s = (so_far + rng.uniform(0.1, 0.9)) * seconds / kills
        again = bool(rng.random() < _AGAIN) and "service" in targets and so_far + 2 <= kills
        keep = int(rng.choice(_KEEPS)) if at_s < 0.5 * seconds else _KEEPS[-1]
        delay_s, start_s = float(rng.uniform(0, _WORKER_LIFE_S)), float(rng.uniform(0, _START_S))
        strikes.append(Strike(at_s, targets, delay_s, start_s if again else None, keep))
        so_far += strikes[-1].kills
    return strikes


def _targets(kills: int, rng: np.random.Generator) -> list[tuple[str, ...]]:
    drawn = [*rng.permutation(len(TARGETS)), *rng.choice(len(TARGETS), kills, p=_SHARES)]
    targets = [TARGETS[number] for number in drawn[:kills]]
    if "service" not in targets[-1]:
        targets[-1] = TARGETS[2]
    return targets


class Killer:
    """Carries a plan out; `left` is how many kills are to come."""

    def __init__(self, server: Server, strikes: list[Strike], journal: Journal) -> None:
        self._server = server
        self._strikes = strikes
        self._journal = journal
        self.left = sum(strike.kills for strike in strikes)

    def run(self, going: Callable[[], bool]) -> None:
        """Strike as planned; stops early when `going` says so."""
        started = time.monotonic()
        for strike in self._strikes:
            _wait(lambda at_s=strike.at_s: time.monotonic() >= started + at_s or not going())
            if not going():
                return
            self._strike(strike)
            self.left -= strike.kills

    def _strike(self, strike: Strike) -> None:
        event = {"what": "kill", "targets": list(strike.targets), "ready_at": None, "workers": 0}
        if "worker" in strike.targets:
            self._find_worker(strike.delay_s)
        event |= self._kill_worker() if "worker" in strike.targets else _between(time.monotonic())
        if "service" in strike.targets:
            self._server.kill()
            event |= self._restart(strike)
        self._journal.write(event)

    def _kill_worker(self) -> dict[str, float]:
        """Kill a worker, the next one if the one that was found has ended; when, and how many were hit.

        Raises RuntimeError when none comes.
        """
        until = time.monotonic() + _PATIENCE_S
        begun = time.monotonic()
        while not (hit := self._server.kill_workers()):
            if time.monotonic() > until:
                raise RuntimeError(f"wanted a worker to kill, none came in {_PATIENCE_S:g} s")
            time.sleep(0.01)
            begun = time.monotonic()
        return {**_between(begun), "workers": len(hit)}

    def _restart(self, strike: Strike) -> dict[str, float | bool]:
        """Start the service, kill it while it starts if that is the plan, and see it ready."""
        self._server.start(strike.keep)
        if strike.again_after_s is not None:
            time.sleep(strike.again_after_s)
            self._server.kill()
            self._server.start(strike.keep)
        return {"ready_at": self._server.wait_ready(), "twice": strike.again_after_s is not None}

    def _find_worker(self, delay_s: float) -> None:
        """Wait for a worker, then for a part of its life, which may end before."""
        _wait(lambda: bool(self._server.workers()), _PATIENCE_S)
        _wait(lambda: not self._server.workers(), delay_s)


def _between(begun: float) -> dict[str, float]:
    """A moment between `begun` and now, as a kill's event tells it."""
    return {"at": begun, "until": time.monotonic()}


def _wait(condition: Callable[[], bool], limit_s: float = float("inf")) -> None:
    until = time.monotonic() + limit_s
    while not condition() and time.monotonic() < until:
        time.sleep(0.05)
