"""Reindexes the service again and again, the models in turns, whatever becomes of service and worker.

A reindex that fails is asked for again, under a new idempotency key; a request whose answer was lost is
sent again under the same key, which gives the job that the lost request made.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import httpx
import numpy as np

from bench.chaos.clients import Scene, timed
from bench.chaos.journal import Event, Journal

FINAL = frozenset({"done", "failed", "cancelled"})
_POLL_S = 0.1
_PATIENCE_S = 300.0


@dataclass
class Reindexer:
    """One at a time; `done` counts those that were completed."""

    scene: Scene
    models: list[str]
    seed: int
    pause_s: float
    done: int = 0
    attempts: int = field(default=0, init=False)

    def run(self) -> None:
        """Reindex until the scene ends; the last one is seen through."""
        rng = np.random.default_rng([self.seed, 3])
        with self.scene.client() as client, Journal(self.scene.journals, "reindex") as journal:
            while self.scene.going():
                event = self._attempt(client, self.models[(self.done + 1) % len(self.models)])
                journal.write(event)
                self.done += event["phase"] == "done"
                time.sleep(float(rng.exponential(self.pause_s)))

    def _attempt(self, client: httpx.Client, model: str) -> Event:
        """Have one job made and wait for its end."""
        self.attempts += 1
        key = {"Idempotency-Key": f"chaos-{self.seed}-{self.attempts}"}
        started = time.monotonic()
        body = {"model": model}
        job = persist(lambda: client.post("/v1/admin/reindex", json=body, headers=key), 202)
        while job["phase"] not in FINAL:
            if time.monotonic() > started + _PATIENCE_S:
                raise RuntimeError(f"the job does not end: {job}")
            time.sleep(_POLL_S)
            job = persist(lambda job=job: client.get(f"/v1/admin/jobs/{job['id']}"), 200)
        told = {name: job[name] for name in ("id", "phase", "generation", "error", "model")}
        return {"what": "reindex", "t0": started, "t1": time.monotonic(), **told}


def persist(call, wanted: int) -> Event:  # noqa: ANN001 - Callable[[], httpx.Response]
    """The body of an answer with the status `wanted`, asked for until the service gives one.

    Raises RuntimeError for any other answer than that, none, or one of the server's own (5xx).
    """
    until = time.monotonic() + _PATIENCE_S
    while time.monotonic() < until:
        event = timed(call)
        if event.get("status") == wanted:
            return event["body"]
        if event.get("status", 500) < 500:
            raise RuntimeError(f"wanted {wanted}, got {event}")
        time.sleep(_POLL_S)
    raise RuntimeError(f"no answer with {wanted} in {_PATIENCE_S:g} s, at last {event}")
