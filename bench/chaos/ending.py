"""What the end finds: the listing, pictures, and every item of every kept generation through searches."""

from __future__ import annotations

import hashlib
import time

import httpx
import numpy as np

from bench.chaos.clients import Scene, search, timed
from bench.chaos.journal import Event, Journal
from bench.chaos.reindexer import FINAL, persist

_PAGE = 1000
_PICTURES = 200


def take_stock(scene: Scene, seed: int) -> None:
    """Ask a service that nobody uses any more, activate each generation that it keeps, and write it down."""
    rng = np.random.default_rng([seed, 5])
    with scene.client() as client, Journal(scene.journals, "end") as journal:
        listing = _listing(client)
        journal.write({"what": "listing", "items": listing})
        journal.write({"what": "pictures", "digests": _pictures(client, listing, rng)})
        generations = persist(lambda: client.get("/v1/admin/generations"), 200)["generations"]
        journal.write({"what": "generations", "generations": generations})
        for one in generations:
            _activate(client, one["id"])
            for side in ("image", "text"):
                journal.write(_enumerate(client, scene, one["id"], side, int(rng.integers(len(scene.texts)))))


def _listing(client: httpx.Client) -> list[Event]:
    """Every item, page by page."""
    items: list[Event] = []
    options: dict[str, object] = {"limit": _PAGE}
    while True:
        page = persist(lambda: client.get("/v1/items", params=options), 200)
        items += page["items"]
        if page["next_cursor"] is None:
            return items
        options["cursor"] = page["next_cursor"]


def _pictures(client: httpx.Client, listing: list[Event], rng: np.random.Generator) -> dict[str, str]:
    """SHA-256 of the bytes of some items' images."""
    having = [item["id"] for item in listing if item["image_digest"] is not None]
    chosen = rng.choice(len(having), min(_PICTURES, len(having)), replace=False)
    found = {}
    for item_id in (having[position] for position in chosen):
        answer = client.get(f"/v1/items/{item_id}/image")
        found[item_id] = hashlib.sha256(answer.content).hexdigest() if answer.is_success else answer.text
    return found


def _activate(client: httpx.Client, generation: str) -> None:
    """Make a kept generation live; an older one needs a job, which is waited for.

    Raises RuntimeError when that fails.
    """
    event = timed(lambda: client.post(f"/v1/admin/generations/{generation}/activate"))
    if event.get("status") not in {200, 202}:
        raise RuntimeError(f"generation {generation} cannot be activated: {event}")
    if event["status"] == 202:
        job = event["body"]
        while job["phase"] not in FINAL:
            time.sleep(0.1)
            job = persist(lambda job=job: client.get(f"/v1/admin/jobs/{job['id']}"), 200)
        if job["phase"] != "done":
            raise RuntimeError(f"generation {generation} was not caught up: {job}")


def _enumerate(client: httpx.Client, scene: Scene, generation: str, side: str, query: int) -> Event:
    """All hits of a search without bounds; `pages` are the answers."""
    asked: Event = {"from": side, "to": "text" if side == "image" else "image", "query": query, "k": _PAGE}
    asked |= {"max_distance": None, "filter": None, "cursor": None}
    pages = []
    while True:
        event = search(client, scene, asked)
        if event.get("status") != 200:
            raise RuntimeError(f"wanted a page of generation {generation}, got {event}")
        pages.append(event["body"])
        if event["body"]["next_cursor"] is None:
            return asked | {"what": "enumeration", "generation": generation, "pages": pages}
        asked["cursor"] = event["body"]["next_cursor"]
