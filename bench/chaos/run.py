"""One chaos run: a corpus, a service, clients, a reindexer and a killer; then the oracle.

Whoever calls `run` gets the verdict and what was counted; the folder is left as it is.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import httpx
import numpy as np

from bench.chaos.artefacts import initialised, trained
from bench.chaos.clients import Scene, Writer, run_searcher, written
from bench.chaos.corpus import draw_contents, make_draft, make_id, read_picture, read_texts
from bench.chaos.ending import take_stock
from bench.chaos.journal import Event, Journal, read_events
from bench.chaos.killer import Killer, plan
from bench.chaos.reindexer import Reindexer, persist
from bench.chaos.server import ROOT, Server

_BATCH = 64
_KEEP = 3


@dataclass(frozen=True)
class Options:
    """How large and how long a run is; it goes on until all of seconds, reindexes and kills are reached.

    `limit_s`: a run that has not got there by then has failed. `think_s`: mean pause of a searcher between
    two searches. `settings` are those of the service.
    """

    items: int = 2000
    spare: int = 200
    searchers: int = 8
    writers: int = 2
    seconds: float = 600.0
    reindexes: int = 20
    kills: int = 30
    seed: int = 0
    trained: bool = True
    think_s: float = 0.1
    write_s: float = 0.15
    pause_s: float = 2.0
    limit_s: float = 3600.0
    settings: dict[str, object] = field(default_factory=dict)


def run(folder: Path, options: Options, say: Callable[[str], None]) -> Event:
    """Do a run in a new folder and have it judged; the report without its frame.

    Raises RuntimeError when a part of the run itself fails.
    """
    labels = prepare(folder, options)
    say("contents are drawn and models made")
    server = Server(folder / "home", options.settings)
    try:
        server.start(_KEEP)
        server.wait_ready()
        own = fill(folder, server, options, labels)
        say(f"{options.items} items are stored")
        begun = time.monotonic()
        reindexer = _trouble(folder, server, options, own, say)
        lasted = time.monotonic() - begun
        server.wait_ready()
        say(f"{reindexer.done} reindexes in {lasted:.0f} s; taking stock")
        take_stock(_scene(folder, server, lambda: True), options.seed)
    finally:
        server.close()
    verdict = ask_oracle(folder)
    say("judged")
    return summary(folder, options, begun, lasted) | verdict


def prepare(folder: Path, options: Options) -> list[str]:
    """Contents, models for the oracle and copies of them for the home; the models' labels."""
    contents, models = folder / "contents", folder / "models"
    draw_contents(contents, options.items + options.spare, options.seed)
    seeds = (options.seed * 2 + 1, options.seed * 2 + 2)
    if options.trained:
        labels = [trained(models, folder, seed) for seed in seeds]
    else:
        labels = [initialised(models, read_texts(contents), seed) for seed in seeds]
    for label in labels:
        shutil.copytree(models / label, folder / "home" / "models" / label)
    return labels


def fill(folder: Path, server: Server, options: Options, labels: list[str]) -> list[list[str]]:
    """Store the first items, and write down what is live; the ids that each writer owns."""
    rng = np.random.default_rng([options.seed, 0])
    ids = [make_id(rng, number) for number in range(options.items)]
    scene = _scene(folder, server, lambda: True)
    with scene.client() as client, Journal(scene.journals, "write-first") as journal:
        live = persist(lambda: client.get("/v1/admin/generations"), 200)["generations"][0]
        told = {"models": [live["model_version"], *(one for one in labels if one != live["model_version"])]}
        (folder / "run.json").write_text(json.dumps(told | {"first": live}), encoding="utf-8")
        for start in range(0, len(ids), _BATCH):
            for event in _store(client, scene, ids[start : start + _BATCH], rng):
                journal.write(event)
    return [ids[number :: options.writers] for number in range(options.writers)]


def _store(client: httpx.Client, scene: Scene, ids: list[str], rng: np.random.Generator) -> list[Event]:
    drafts = [make_draft(rng, len(scene.texts)) for _ in ids]
    items = []
    for item_id, draft in zip(ids, drafts, strict=True):
        item: Event = {"id": item_id, "metadata": draft.metadata}
        if draft.image is not None:
            item["image"] = base64.b64encode(read_picture(scene.contents, draft.image)).decode()
        if draft.text is not None:
            item["text"] = scene.texts[draft.text]
        items.append(item)
    started = time.monotonic()
    results = persist(lambda: client.post("/v1/items/batch", json={"items": items}), 200)["results"]
    times = {"t0": started, "t1": time.monotonic()}
    return [
        written(one["id"], draft) | times | {"status": one["status"]}
        for one, draft in zip(results, drafts, strict=True)
    ]


def _scene(folder: Path, server: Server, going: Callable[[], bool]) -> Scene:
    return Scene.open(server.url, folder / "contents", folder / "journals", going)


def _trouble(
    folder: Path, server: Server, options: Options, own: list[list[str]], say: Callable[[str], None]
) -> Reindexer:
    """Everybody at once until enough has happened. Raises RuntimeError when one fails or time is up."""
    stop, failures = threading.Event(), []
    scene = _scene(folder, server, lambda: not stop.is_set())
    models = json.loads((folder / "run.json").read_text(encoding="utf-8"))["models"]
    reindexer = Reindexer(scene, models, options.seed, options.pause_s)
    with Journal(scene.journals, "kill") as journal:
        killer = Killer(server, plan(options.kills, options.seconds, options.seed), journal)
        parts: list[Callable[[], object]] = [reindexer.run, lambda: killer.run(scene.going)]
        writers = [Writer(scene, number, options.seed, ids) for number, ids in enumerate(own)]
        parts += [partial(one.run, options.write_s) for one in writers]
        parts += [
            partial(run_searcher, scene, number, options.seed, options.think_s)
            for number in range(options.searchers)
        ]
        threads = [threading.Thread(target=_caught, args=(part, failures), daemon=True) for part in parts]
        for thread in threads:
            thread.start()
        try:
            _wait(options, reindexer, killer, failures, say)
        finally:
            stop.set()
            for thread in threads:
                thread.join()
    if failures:
        raise RuntimeError(f"a part of the run failed: {failures[0]!r}") from failures[0]
    return reindexer


def _caught(part: Callable[[], object], failures: list[Exception]) -> None:
    try:
        part()
    except Exception as error:  # noqa: BLE001 - whatever it is, the run has failed and must end
        failures.append(error)


def _wait(
    options: Options,
    reindexer: Reindexer,
    killer: Killer,
    failures: list[Exception],
    say: Callable[[str], None],
) -> None:
    begun, told = time.monotonic(), 0.0
    while not failures:
        past = time.monotonic() - begun
        if past >= options.seconds and reindexer.done >= options.reindexes and not killer.left:
            return
        so_far = (
            f"{past:.0f} s: {reindexer.done} reindexes of {reindexer.attempts}, {killer.left} kills to come"
        )
        if past > options.limit_s:
            raise RuntimeError(f"the run has not got there in {options.limit_s:g} s; {so_far}")
        if past > told + 30:
            say(so_far)
            told = past
        time.sleep(0.1)


def ask_oracle(folder: Path) -> Event:
    """The oracle's verdict on a run, from a process of its own."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    ran = subprocess.run(
        [sys.executable, "-m", "bench.chaos.oracle", str(folder)],
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    verdict: Event = json.loads(ran.stdout)
    return verdict


def summary(folder: Path, options: Options, begun: float, lasted: float) -> Event:
    """What happened when: options, kills and how long searches took."""
    took = [
        (event["t1"] - event["t0"]) * 1000
        for event in read_events(folder / "journals", "search")
        if event.get("status") == 200
    ]
    kills = [
        {
            "at_s": round(kill["at"] - begun, 2),
            "targets": kill["targets"],
            "twice": kill.get("twice", False),
            "down_s": None if kill["ready_at"] is None else round(kill["ready_at"] - kill["at"], 2),
        }
        for kill in read_events(folder / "journals", "kill")
    ]
    return {
        "seed": options.seed,
        "items": options.items,
        "clients": {"search": options.searchers, "write": options.writers},
        "models": "trained" if options.trained else "initialised",
        "seconds": round(lasted, 1),
        "kills": kills,
        "search_ms": {"p50": _quantile(took, 0.5), "p99": _quantile(took, 0.99)},
    }


def _quantile(values: list[float], share: float) -> float:
    return round(float(np.quantile(values, share)), 1) if values else float("nan")
