"""Two service processes on one PostgreSQL catalog: both follow the alias in time, no answer mixes models."""

from __future__ import annotations

import sys
import threading
import time
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import httpx
import numpy as np
from fake_homes import fork, settings_for
from fake_models import FakeEncoder, picture
from real_servers import POSTGRES
from test_kills import QUIET

from service.catalog.catalog import open_catalog
from service.catalog_wiring import utc_now

sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "clients" / "python"))

from hashguard_client.client import Client

TEXTS = {f"i{number}": f"word{number} of item {number}" for number in range(8)}
WITHIN_S = 2.0
"""The contract: a replica serves what the alias names within this time."""


def distances(version, query):
    """What a model alone says: the distance of each item's text to the query, by NumPy."""
    encoder = FakeEncoder(version)
    codes = np.unpackbits(encoder.encode_texts([*TEXTS.values()]), axis=1)
    asked = np.unpackbits(encoder.encode_texts([query]), axis=1)
    return dict(zip(TEXTS, (codes != asked).sum(axis=1).tolist(), strict=True))


EXPECTED = {(v, q): distances(v, q) for v in "12" for q in TEXTS.values()}


@contextmanager
def running(home, **changes):
    """A service process on the home, and its address; the process is killed in the end."""
    log = home.parent / f"replica-{time.monotonic_ns()}.log"
    process = fork(settings_for(home, **QUIET | changes), [], log=log)
    try:
        until = time.monotonic() + 120
        while not (log.is_file() and "port " in log.read_text()):
            assert process.is_alive(), log.read_text()[-2000:]
            assert time.monotonic() < until
            time.sleep(0.05)
        line = next(line for line in log.read_text().splitlines() if line.startswith("port "))
        yield f"http://127.0.0.1:{line.split()[1]}"
    finally:
        process.kill()
        process.join()


class Watcher(threading.Thread):
    """Asks one replica again and again, and keeps (began, ended, model, generation) of each answer."""

    def __init__(self, url):
        super().__init__(daemon=True)
        self.url, self.stopping, self.seen, self.trouble = url, threading.Event(), [], []

    def run(self):
        queries = [*TEXTS.values()]
        with httpx.Client(base_url=self.url, timeout=60) as client:
            while not self.stopping.is_set():
                try:
                    self.ask(client, queries[len(self.seen) % len(queries)])
                except Exception as error:
                    self.trouble.append(repr(error))
                    return
                time.sleep(0.03)

    def ask(self, client, query):
        began = time.monotonic()
        answer = client.post("/v1/search/text-to-text", json={"text": query, "k": 100})
        document = answer.json()
        if answer.status_code != 200:
            self.trouble.append(answer.text)
            return
        found = {hit["id"]: hit["distance"] for hit in document["hits"]}
        version = document["model_version"].partition("/")[2]
        if found != EXPECTED[version, query]:
            self.trouble.append(f"{document['model_version']} {document['index_generation']}: {found}")
        self.seen.append((began, time.monotonic(), version, document["index_generation"]))

    def first_on(self, generation):
        """When the first answer of a generation came; None while there is none."""
        return next((ended for _, ended, _, seen in [*self.seen] if seen == generation), None)


@contextmanager
def watching(*urls):
    watchers = [Watcher(url) for url in urls]
    for watcher in watchers:
        watcher.start()
    try:
        yield watchers
    finally:
        for watcher in watchers:
            watcher.stopping.set()
            watcher.join()


def moved(catalog, before, seconds=120):
    """The generation that the alias names when it is another one, and when that was seen."""
    until = time.monotonic() + seconds
    while (live := catalog.generations.live()).id == before:
        assert time.monotonic() < until, catalog.jobs.recent(3)
        time.sleep(0.02)
    return live, time.monotonic()


def check_followed(watchers, generation, at):
    """Every replica answers from the generation in time; this machine's own delays are not the service's."""
    for watcher in watchers:
        until = time.monotonic() + 60
        while watcher.first_on(generation) is None:
            assert time.monotonic() < until, "it never came"
            time.sleep(0.02)
    time.sleep(0.3)
    slowest = max(ended - began for watcher in watchers for began, ended, _, _ in [*watcher.seen])
    late = [watcher.first_on(generation) - at for watcher in watchers]
    assert max(late) <= WITHIN_S + slowest, (late, slowest)


@POSTGRES
def test_replicas_follow_the_alias_in_time_and_never_mix(home, shelf, postgres):
    url = postgres.database()
    settings = {"catalog_url": url, "follower_poll_s": 0.5}
    catalog = open_catalog(settings_for(home, catalog_url=url).database_url(), utc_now)
    try:
        with running(home, **settings) as one, running(home, **settings) as two:
            client, other = Client(one), Client(two)
            with client, other:
                client.put_items([{"id": item_id, "text": text} for item_id, text in TEXTS.items()])
                for each in (client, other):
                    each.put_item("picture", image=picture("red"))
                for each in (client, other):  # what one wrote the other replays within its own poll
                    while len(each.text_to_text("word", k=100)["hits"]) < len(TEXTS):
                        time.sleep(0.05)
                before = catalog.generations.live().id
                with watching(one, two) as watchers:
                    run_the_course(client, other, catalog, shelf, watchers, before)
                for watcher in watchers:
                    assert watcher.trouble == []
                    check_order(watcher, catalog)
    finally:
        catalog.close()


def run_the_course(client, other, catalog, shelf, watchers, before):
    """A new model by one replica, the way back by the other, and forward again."""
    for watcher in watchers:
        while len(watcher.seen) < len(TEXTS) and not watcher.trouble:
            time.sleep(0.02)
    shelf.publish("2", slow_s=0.02)
    job = client.reindex("latest")
    new, at = moved(catalog, before)
    assert new.model_version == "2"
    check_followed(watchers, new.id, at)
    assert client.wait_for_job(job["id"], timeout_s=60)["phase"] == "done"
    marks = [len(watcher.seen) for watcher in watchers]
    at = time.monotonic()
    assert other.roll_back()["id"] == before
    for watcher, mark in zip(watchers, marks, strict=True):
        watcher.seen = watcher.seen[mark:]
    check_followed(watchers, before, at)
    assert [one["id"] for one in client.generations() if one["live"]] == [before]


def check_order(watcher, catalog):
    """Once a replica has moved it stays: generations come one after the other, each of its own model."""
    models = {one.id: one.model_version for one in catalog.generations.all()}
    assert all(models[generation] == version for _, _, version, generation in watcher.seen)
    runs = [generation for _, _, _, generation in watcher.seen]
    changes = sum(first != second for first, second in pairwise(runs))
    assert changes <= 2, runs
