"""Clients that never stop asking, and what they saw: for benchmarks that disturb a service meanwhile.

They use the project's Python client with its retries, as callers would; a call has failed when the client
raises.
"""

import statistics
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import httpx
from hashguard_client.client import Client
from hashguard_client.retries import Retries

from bench.replicas import Replica

POLL_S = 0.02
WRITE_PAUSE_S = 0.2


@dataclass(frozen=True)
class Call:
    """One call of a client: times by the monotonic clock, seconds; `error` is empty when it was answered.

    `model` and `generation` are what a search's answer named; empty for writes.
    """

    kind: str
    begun: float
    ended: float
    error: str = ""
    model: str = ""
    generation: str = ""


@dataclass
class Log:
    """What all callers saw, and how often the client tried again by itself."""

    calls: list[Call] = field(default_factory=list)
    retries: list[float] = field(default_factory=list)
    written: list[str] = field(default_factory=list)

    def between(self, begun: float, ended: float) -> list[Call]:
        """Calls that ran at any time in this interval."""
        return [call for call in self.calls if call.ended >= begun and call.begun <= ended]

    def failures(self) -> list[Call]:
        """Calls that the client gave up."""
        return [call for call in self.calls if call.error]

    def stale_s(self, generation: str, since: float) -> float:
        """Seconds for which callers still got another generation after somebody had got this one.

        Counted from the end of the first answer of `generation` after `since` to the start of the last
        call after `since` that another one answered; 0 when there is none.
        """
        answers = [call for call in self.calls if call.generation and call.begun >= since]
        first = min((call.ended for call in answers if call.generation == generation), default=None)
        if first is None:
            raise ValueError(f"no answer named the generation {generation}")
        return max((0.0, *(call.begun - first for call in answers if call.generation != generation)))


def written_text(name: str) -> str:
    """The text of an item that the writing caller stores under this name."""
    return f"written meanwhile under the name {name}"


def median_ms(calls: Sequence[Call]) -> float:
    """Median duration of searches, in milliseconds."""
    return statistics.median((call.ended - call.begun) * 1e3 for call in calls if call.kind == "search")


def longest_ms(calls: Sequence[Call]) -> float:
    """Longest duration of any call, in milliseconds."""
    return max((call.ended - call.begun) * 1e3 for call in calls)


@contextmanager
def asking(
    url: str, api_key: str, texts: Sequence[str], images: Sequence[bytes], searchers: int
) -> Iterator[Log]:
    """Threads that search in both directions without a pause, and one that stores items; all end with it."""
    log, stop = Log(), threading.Event()

    def client() -> Client:
        return Client(url, api_key=api_key, retries=Retries(sleep=lambda pause: _pause(log, pause)))

    threads = [
        threading.Thread(target=_search, args=(client(), log, stop, texts, images, number))
        for number in range(searchers)
    ]
    threads.append(threading.Thread(target=_write, args=(client(), log, stop)))
    for thread in threads:
        thread.start()
    try:
        yield log
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def _pause(log: Log, seconds: float) -> None:
    log.retries.append(seconds)
    time.sleep(seconds)


def _search(
    client: Client,
    log: Log,
    stop: threading.Event,
    texts: Sequence[str],
    images: Sequence[bytes],
    number: int,
) -> None:
    with client:
        while not stop.is_set():
            number += 1
            text, image = texts[number % len(texts)], images[number % len(images)]
            log.calls.append(
                _timed("search", lambda t=text: client.text_to_image(t, k=5))
                if number % 2
                else _timed("search", lambda i=image: client.image_to_text(i, k=5))
            )


def _write(client: Client, log: Log, stop: threading.Event) -> None:
    with client:
        number = 0
        while not stop.wait(WRITE_PAUSE_S):
            number += 1
            name = f"written-{number}"
            call = _timed("write", lambda n=name: client.put_item(n, text=written_text(n)))
            log.calls.append(call)
            if not call.error:
                log.written.append(name)


def _timed(kind: str, call: Callable[[], dict[str, object]]) -> Call:
    begun = time.monotonic()
    try:
        answer = call()
    except Exception as error:  # noqa: BLE001 - whatever the client raises is what is counted
        return Call(kind, begun, time.monotonic(), error=repr(error)[:300])
    if kind == "search" and not answer["hits"]:
        return Call(kind, begun, time.monotonic(), error="an answer without a hit")
    model, generation = answer.get("model_version", ""), answer.get("index_generation", "")
    return Call(kind, begun, time.monotonic(), "", str(model), str(generation))


@dataclass
class Watch:
    """When each replica said of itself, for the first time in a row, which generation it serves."""

    seen: dict[str, tuple[str, float]] = field(default_factory=dict)

    def await_all(self, generation: str, names: Sequence[str], limit_s: float) -> float:
        """The time at which the last replica began to serve `generation`; TimeoutError after limit_s."""
        until = time.monotonic() + limit_s
        while time.monotonic() < until:
            states = [self.seen.get(name, ("", 0.0)) for name in names]
            if all(state[0] == generation for state in states):
                return max(state[1] for state in states)
            time.sleep(POLL_S)
        raise TimeoutError(f"after {limit_s:g} s not all replicas serve {generation}: {self.seen}")

    def first(self, generation: str) -> float:
        """The time at which the first replica began to serve `generation`."""
        return min(at for served, at in self.seen.values() if served == generation)


@contextmanager
def watching(replicas: Sequence[Replica]) -> Iterator[Watch]:
    """Ask every replica itself, every POLL_S, what it serves; one that does not answer keeps its state."""
    watch, stop = Watch(), threading.Event()
    threads = [threading.Thread(target=_follow, args=(replica, watch, stop)) for replica in replicas]
    for thread in threads:
        thread.start()
    try:
        yield watch
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def _follow(replica: Replica, watch: Watch, stop: threading.Event) -> None:
    with httpx.Client(base_url=replica.url, timeout=5.0) as client:
        while not stop.wait(POLL_S):
            try:
                generation = client.get("/readyz").json().get("index_generation")
            except (httpx.TransportError, ValueError):
                continue
            if generation and watch.seen.get(replica.name, ("", 0.0))[0] != generation:
                watch.seen[replica.name] = (generation, time.monotonic())
