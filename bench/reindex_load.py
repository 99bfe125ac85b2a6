"""What a reindex costs those who search meanwhile, and how fast it is beside plain encoding.

    .venv/bin/python -m bench.reindex_load [--items 4000] [--rounds 3] [--clients 4] [--out FILE]

A real `hashguard serve` with the shipped sample model over drawn items, and a twin of the model (the same
weights under another version), so that each reindex encodes everything again. Every round has the same four
parts, one after the other, so that a machine whose speed varies is unfair to none of them:

- plain: a fresh process decodes and encodes the corpus' images and texts with the same model, in batches as
  the worker does, and nothing else: no catalog, no blobs, no index. Service idle.
- reindex alone: items per second of the encoding phase as the job tells, and of the whole job with the start
  of its process. The peer is plain; 0.8 of it is wanted.
- idle: clients search; then the same clients while a reindex runs, until it is done. 99th percentiles, at
  most 3 times the idle one is wanted.

Ratios are medians over the rounds, the spread is half of what lies between the least and the greatest.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from bench.chaos.clients import Scene, ask, search
from bench.chaos.corpus import draw_contents, read_picture, read_texts
from bench.chaos.journal import read_events
from bench.chaos.reindexer import FINAL, persist
from bench.chaos.run import Options, fill
from bench.chaos.server import ROOT, Server
from bench.search import Row, show, write_report
from model.inference import Encoder
from service.commands.demo import sample_model

BATCH = 64
THINK_S = 0.05
WARM_UP_S = 3.0
Round = dict[str, float]


def twins(models: Path) -> list[str]:
    """The sample model and a copy under the next version, which is another model to the service; labels."""
    folder = sample_model()
    shelf, version = models / folder.parent.name, int(folder.name)
    for number in (version, version + 1):
        shutil.copytree(folder, shelf / str(number))
    twin = shelf / str(version + 1)
    manifest = json.loads((twin / "manifest.json").read_text(encoding="utf-8")) | {"version": twin.name}
    (twin / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    digest = hashlib.sha256((twin / "manifest.json").read_bytes()).hexdigest()
    recorded = json.loads((twin / "evidence.json").read_text(encoding="utf-8")) | {"model": digest}
    (twin / "evidence.json").write_text(json.dumps(recorded), encoding="utf-8")
    return [f"{shelf.name}/{number}" for number in (version, version + 1)]


def encode_plainly(folder: Path, label: str) -> float:
    """Items per second of nothing but decoding and encoding, in this process."""
    texts = read_texts(folder / "contents")
    items = [(one["image"], one["text"]) for one in read_events(folder / "journals", "write-first")]
    encoder = Encoder.load(folder / "home" / "models" / label, "cpu")
    encoder.warm_up()
    started = time.perf_counter()
    for start in range(0, len(items), BATCH):
        batch = items[start : start + BATCH]
        pictures = [read_picture(folder / "contents", image) for image, _ in batch if image is not None]
        encoder.encode_images([encoder.decode(one) for one in pictures])
        encoder.encode_texts([texts[text] for _, text in batch if text is not None])
    return len(items) / (time.perf_counter() - started)


def plain(folder: Path, label: str, server: Server) -> float:
    """The same in a fresh process with as many threads as the worker has."""
    command = [sys.executable, "-m", "bench.reindex_load", "--plain", str(folder), "--model", label]
    ran = subprocess.run(
        command, cwd=ROOT, env=server.environment(), stdout=subprocess.PIPE, text=True, check=True
    )
    return float(ran.stdout)


def reindex(client: httpx.Client, model: str) -> dict[str, Any]:
    """Reindex and wait for the end; the job, with `seconds` from the request. Raises RuntimeError."""
    started = time.perf_counter()
    job = persist(lambda: client.post("/v1/admin/reindex", json={"model": model}), 202)
    while job["phase"] not in FINAL:
        time.sleep(0.1)
        job = persist(partial(client.get, f"/v1/admin/jobs/{job['id']}"), 200)
    if job["phase"] != "done":
        raise RuntimeError(f"wanted a reindex that is done, got {job}")
    return job | {"seconds": time.perf_counter() - started}


class Load:
    """Clients that search all the while; `during` says how long their searches took in a stretch of time."""

    def __init__(self, scene: Scene, clients: int) -> None:
        self._scene = scene
        self._clients = clients
        self._took: list[tuple[float, float]] = []
        self._failures: list[object] = []

    def during(self, work: Callable[[], object]) -> tuple[list[float], object]:
        """Milliseconds of the searches that began and ended while `work` ran, and what that returned.

        Raises RuntimeError when a search failed.
        """
        stop = threading.Event()
        threads = [threading.Thread(target=self._run, args=(n, stop)) for n in range(self._clients)]
        for thread in threads:
            thread.start()
        try:
            time.sleep(WARM_UP_S)
            begun = time.monotonic()
            result = work()
            ended = time.monotonic()
        finally:
            stop.set()
            for thread in threads:
                thread.join()
        if self._failures:
            raise RuntimeError(f"a search failed: {self._failures[0]}")
        took = [(t1 - t0) * 1000 for t0, t1 in self._took if begun <= t0 and t1 <= ended]
        return took, result

    def _run(self, number: int, stop: threading.Event) -> None:
        rng = np.random.default_rng([0, number])
        with self._scene.client() as client:
            while not stop.is_set():
                event = search(client, self._scene, ask(rng, len(self._scene.texts)))
                if event.get("status") != 200:
                    self._failures.append(event)
                    return
                self._took.append((event["t0"], event["t1"]))
                time.sleep(float(rng.exponential(THINK_S)))


def one_round(folder: Path, server: Server, labels: list[str], clients: int, idle_s: float) -> Round:
    """All four parts."""
    scene = Scene.open(server.url, folder / "contents", folder / "journals", lambda: True)
    found: Round = {"plain": plain(folder, labels[1], server)}
    with scene.client() as client:
        alone = reindex(client, labels[1])
        found |= {"alone": alone["rate"], "whole": alone["total"] / alone["seconds"]}
        time.sleep(1)
        idle, _ = Load(scene, clients).during(lambda: time.sleep(idle_s))
        busy, job = Load(scene, clients).during(lambda: reindex(client, labels[0]))
    found |= {"loaded": job["rate"], "searches_idle": len(idle), "searches_during": len(busy)}
    for name, took in (("idle", idle), ("during", busy)):
        found |= {f"{name}_p{q}": float(np.percentile(took, q)) for q in (50, 99)}
    return found


def rows(rounds: list[Round]) -> list[Row]:
    """The medians over the rounds."""
    pairs = [
        ("search p50 during a reindex (peer: idle)", "during_p50", "idle_p50", "ms"),
        ("search p99 during a reindex (peer: idle)", "during_p99", "idle_p99", "ms"),
        ("reindex alone, encoding (peer: plain encoding)", "alone", "plain", "items/s"),
        ("reindex alone, whole job with its process", "whole", "plain", "items/s"),
        ("reindex beside searches, encoding", "loaded", "plain", "items/s"),
    ]
    found = []
    for what, ours, peer, unit in pairs:
        ratios = [one[ours] / one[peer] for one in rounds]
        middle = [float(np.median([one[name] for one in rounds])) for name in (ours, peer)]
        spread = (max(ratios) - min(ratios)) / 2
        found.append(Row(what, *middle, unit, float(np.median(ratios)), spread))
    return found


def measure(folder: Path, given: argparse.Namespace) -> list[Round]:
    """All rounds, over a home that is made in `folder`."""
    draw_contents(folder / "contents", given.items, given.seed)
    labels = twins(folder / "home" / "models")
    server = Server(folder / "home", {}, given.threads)
    rounds = []
    try:
        server.start(keep=1)
        server.wait_ready()
        with httpx.Client(base_url=server.url) as client:
            live = persist(lambda: client.get("/readyz"), 200)["model_version"]
        labels.sort(key=lambda label: label != live)
        fill(folder, server, Options(items=given.items, writers=1, seed=given.seed), labels)
        for number in range(given.rounds):
            rounds.append(one_round(folder, server, labels, given.clients, given.idle))
            print(f"round {number + 1} of {given.rounds}: {rounds[-1]}", file=sys.stderr)
    finally:
        server.close()
    return rounds


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--items", type=int, default=4000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--idle", type=float, default=20.0, help="seconds of an idle stretch")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--plain", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--model", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.plain is not None:
        print(encode_plainly(given.plain, given.model))
        return
    with tempfile.TemporaryDirectory(prefix="hashguard-reindex-") as folder:
        rounds = measure(Path(folder), given)
    show(rows(rounds))
    if given.out:
        more = {name: getattr(given, name) for name in ("items", "clients", "threads", "seed")}
        write_report(given.out, "reindex-load", "bench.reindex_load", rows(rounds), rounds=rounds, **more)


if __name__ == "__main__":
    main()
