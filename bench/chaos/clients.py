"""Those who use the service: searchers, and writers who own their ids and see every write through."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from bench.chaos.corpus import FILTERS, Draft, make_draft, make_id, read_picture, read_texts
from bench.chaos.journal import Event, Journal

TIMEOUT_S = 60.0
"""A service that is killed closes its connections, so this passes only when one hangs."""
_KS = (1, 3, 10, 10, 10, 25, 100)
_OPTIONS = ("k", "max_distance", "filter", "cursor")
_FILTERED = 0.35
_BOUNDED = 0.15
_PAUSE_S = 0.5


@dataclass(frozen=True)
class Scene:
    """What all clients share: where the service is, what there is to send, and whether to go on."""

    url: str
    contents: Path
    texts: list[str]
    journals: Path
    going: Callable[[], bool]

    @classmethod
    def open(cls, url: str, contents: Path, journals: Path, going: Callable[[], bool]) -> Scene:
        """Over a folder of contents."""
        return cls(url, contents, read_texts(contents), journals, going)

    def client(self) -> httpx.Client:
        """An HTTP client of the service."""
        return httpx.Client(base_url=self.url, timeout=TIMEOUT_S)


def timed(call: Callable[[], httpx.Response]) -> Event:
    """Make a request; when it began and ended, and what came of it."""
    started = time.monotonic()
    try:
        answer = call()
    except httpx.TransportError as error:
        return {"t0": started, "t1": time.monotonic(), "error": type(error).__name__}
    event: Event = {"t0": started, "t1": time.monotonic(), "status": answer.status_code}
    kind = answer.headers.get("content-type", "")
    if "json" in kind:
        event["body"] = answer.json()
    if answer.status_code >= 400:
        event |= {"type": kind, "retry_after": answer.headers.get("retry-after")}
    return event


def search(client: httpx.Client, scene: Scene, asked: Event) -> Event:
    """Send one search; `asked` as in the journal."""
    options = {name: asked[name] for name in _OPTIONS if asked.get(name) is not None}
    path = f"/v1/search/{asked['from']}-to-{asked['to']}"
    if asked["from"] == "text":
        body = {"text": scene.texts[asked["query"]], **options}
        return asked | timed(lambda: client.post(path, json=body))
    fields = {name: one if isinstance(one, str) else json.dumps(one) for name, one in options.items()}
    files = {"image": ("q.jpg", read_picture(scene.contents, asked["query"]))}
    return asked | timed(lambda: client.post(path, data=fields, files=files))


def run_searcher(scene: Scene, number: int, seed: int, think_s: float) -> None:
    """Search until the scene ends, with pauses of `think_s` on average."""
    rng = np.random.default_rng([seed, 1, number])
    with scene.client() as client, Journal(scene.journals, f"search-{number}") as journal:
        while scene.going():
            event = search(client, scene, ask(rng, len(scene.texts)))
            journal.write(event)
            time.sleep(float(rng.exponential(think_s)) if "error" not in event else _PAUSE_S)


def ask(rng: np.random.Generator, contents: int) -> Event:
    """A random search."""
    side = ("image", "text")[rng.integers(2)]
    return {
        "what": "search",
        "from": side,
        "to": "text" if side == "image" else "image",
        "query": int(rng.integers(contents)),
        "k": int(rng.choice(_KS)),
        "max_distance": int(rng.integers(20, 45)) if rng.random() < _BOUNDED else None,
        "filter": FILTERS[rng.integers(len(FILTERS))] if rng.random() < _FILTERED else None,
    }


class Writer:
    """Adds, replaces and deletes items under ids that nobody else touches."""

    def __init__(self, scene: Scene, number: int, seed: int, own: list[str]) -> None:
        self._scene = scene
        self._number = number
        self._rng = np.random.default_rng([seed, 2, number])
        self._present = list(own)
        self._gone: list[str] = []
        self._made = 0

    def run(self, think_s: float) -> None:
        """Write until the scene ends; the last write is seen through."""
        with (
            self._scene.client() as client,
            Journal(self._scene.journals, f"write-{self._number}") as journal,
        ):
            while self._scene.going():
                item_id, draft = self._next()
                while not acknowledged(event := send(client, self._scene, item_id, draft)):
                    journal.write(event)
                    time.sleep(_PAUSE_S)
                journal.write(event)
                time.sleep(float(self._rng.exponential(think_s)))

    def _next(self) -> tuple[str, Draft | None]:
        """What to write: an id and a draft, None to delete it."""
        share = self._rng.random()
        if share < 0.5 and self._present:
            return self._pick(self._present), make_draft(self._rng, len(self._scene.texts))
        if share < 0.75 and len(self._present) > 1:
            item_id = self._pick(self._present)
            self._present.remove(item_id)
            self._gone.append(item_id)
            return item_id, None
        if share > 0.9 and self._gone:
            item_id = self._pick(self._gone)
            self._gone.remove(item_id)
        else:
            self._made += 1
            item_id = make_id(self._rng, 1_000_000 * (self._number + 1) + self._made)
        self._present.append(item_id)
        return item_id, make_draft(self._rng, len(self._scene.texts))

    def _pick(self, among: list[str]) -> str:
        return among[self._rng.integers(len(among))]


def acknowledged(event: Event) -> bool:
    """Whether it is known what became of a write: no answer, or one of 5xx, is worth another try."""
    return "error" not in event and event["status"] < 500


def send(client: httpx.Client, scene: Scene, item_id: str, draft: Draft | None) -> Event:
    """Put an item, or delete it."""
    path = f"/v1/items/{item_id}"
    if draft is None:
        return {"what": "delete", "id": item_id} | timed(lambda: client.delete(path))
    files: dict[str, Any] = {"metadata": (None, json.dumps(draft.metadata))}
    if draft.image is not None:
        files["image"] = ("i.jpg", read_picture(scene.contents, draft.image))
    if draft.text is not None:
        files["text"] = (None, scene.texts[draft.text])
    return written(item_id, draft) | timed(lambda: client.put(path, files=files))


def written(item_id: str, draft: Draft) -> Event:
    """The event of a put, without its outcome."""
    return {
        "what": "put",
        "id": item_id,
        "image": draft.image,
        "text": draft.text,
        "metadata": draft.metadata,
    }
