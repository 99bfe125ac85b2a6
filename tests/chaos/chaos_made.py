"""A small history with models of known codes, and the answers that an honest service would give."""

from __future__ import annotations

from math import inf

import numpy as np

from bench.chaos.codes import Codes
from bench.chaos.filters import holds
from bench.chaos.history import History, reigns
from bench.chaos.judging import Judge

CONTENTS, BITS = 12, 16
TEXTS = [f"text {number}" for number in range(CONTENTS)]
FIRST = {"id": "g1", "model_version": "m/1"}
SECOND = {"phase": "done", "generation": "g2", "model": "m/2", "t0": 100.0, "t1": 110.0}


def make_codes(seed):
    """Random codes that agree in most bits: ties are many."""
    rng = np.random.default_rng(seed)
    common = rng.random(BITS) < 0.5
    images, texts = (common ^ (rng.random((CONTENTS, BITS)) < 0.15) for _ in range(2))
    tasks = ("image-to-text", "text-to-image")
    return Codes(images, texts, {task: tuple(1 - d / BITS / seed for d in range(BITS + 1)) for task in tasks})


CODES = {"m/1": make_codes(1), "m/2": make_codes(2)}


def put(item_id, number, when, status=201, lasting=1.0, **metadata):
    """A put of content `number` on both sides that began at `when`."""
    event = {"what": "put", "id": item_id, "image": number, "text": number, "metadata": metadata}
    return event | {"t0": when, "t1": when + lasting, "status": status}


def delete(item_id, when, status=204):
    return {"what": "delete", "id": item_id, "t0": when, "t1": when + 1, "status": status}


def corpus():
    """Thirty items, each content several times, under ids whose bytes do not sort as their numbers."""
    names = ("b", "B", "_", ".a")
    return [put(f"{names[n % 4]}{n}", n % CONTENTS, 0.0, n=n, even=n % 2 == 0) for n in range(30)]


def make_history(*later):
    history = History()
    history.take([*corpus(), *later])
    return history


def make_judge(history):
    return Judge(history, reigns(FIRST, [SECOND]), CODES, TEXTS)


def honest(history, *, at=50.0, model="m/1", generation="g1", **changes):
    """A search at a time when every item has one version, and its true answer, found the slow way."""
    event = {"what": "search", "from": "text", "to": "image", "query": 3, "k": 10, "max_distance": None}
    event |= {"filter": None, "t0": at, "t1": at + 1, "status": 200} | changes
    codes, found = CODES[model], []
    for item_id, versions in history.items.items():
        [version] = [one for one in versions if one.may_be_seen(event["t0"], event["t1"])]
        number = version.image if event["to"] == "image" else version.text
        if number is None or not holds(event["filter"], version.metadata):
            continue
        [distance] = codes.distances(event["from"], event["query"], event["to"], np.array([number]))
        if event["max_distance"] is None or distance <= event["max_distance"]:
            found.append((int(distance), item_id.encode(), item_id, version))
    hits = [_hit(event, codes, *one) for one in sorted(found, key=lambda one: one[:2])[: event["k"]]]
    body = {"hits": hits, "exact": True, "model_version": model, "index_generation": generation}
    return event | {"body": body}


def _hit(event, codes, distance, _, item_id, version):
    return {
        "id": item_id,
        "distance": distance,
        "similarity": 1 - distance / BITS,
        "match": codes.match[f"{event['from']}-to-{event['to']}"][distance],
        "text": None if version.text is None else TEXTS[version.text],
        "image_url": None if version.image is None else f"/v1/items/{item_id}/image",
        "metadata": version.metadata,
    }


def kinds(faults):
    """What the faults are, without whose."""
    return {fault.partition(":")[0] for fault in faults}


ALWAYS = {"t0": inf, "t1": inf}
