"""A report's dict of the shape of report.json, its figures computed by the real metric on made codes.

Each "attack" moves a share of a query's bits to the other side of its label's code; AP, intervals and worst
cases are then what the metric says of those codes. No model runs, so it takes a fraction of a second.
"""

from __future__ import annotations

import base64
import io
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from model.evaluation.retrieval import Scores, bootstrap_interval, chance_level, mean_average_precision

BITS, LABELS, QUERIES, SIDE = 32, 6, 60, 64
EPSILONS = (1, 2, 4, 8, 16, 32, 255)
ATTACKS = ("apgd:mainstay", "apgd:own-code")
TASKS = ("image-to-text", "image-to-image")
PROTOCOLS = {"train+database": 400, "database": 150}


def made_report(
    models: tuple[tuple[str, str, float], ...] = (
        ("fashion-none/1", "none", 1.0),
        ("fashion-saat/1", "saat", 0.45),
    ),
    *,
    tasks: tuple[str, ...] = TASKS,
    epsilons: tuple[int, ...] = EPSILONS,
    examples: int = 2,
    texts: bool = True,
) -> dict[str, Any]:
    """A whole report of models (label, defence, how much of an attack comes through)."""
    report: dict[str, Any] = {
        "format": 1,
        "data": _data(),
        "threat": _threat(),
        "models": [],
        "rows": [],
        "worst_case": [],
        "pairs": [],
        "checks": [],
        "examples": [],
        "text_examples": [],
        "candidates": [],
        "left_out": [{"model": models[0][0], "what": "transfer", "why": "no surrogate was given"}],
    }
    least: dict[tuple[Any, ...], NDArray[np.float64]] = {}
    for label, defence, strength in models:
        identity = {"model": label, "defence": defence, "seed": 0, "bits": BITS}
        report["models"].append(_model(identity, strength))
        for task in tasks:
            for protocol, size in PROTOCOLS.items():
                _add(report, identity, strength, (task, protocol, size), epsilons, least)
        report["checks"] += _checks(label)
        report["examples"] += [_example(label, tasks[0], place) for place in range(examples)]
        if texts:
            report["text_examples"].append(_text_example(label))
            report["candidates"].append(_candidate(label))
    report["pairs"] = _pairs([model[0] for model in models], least)
    return report


class Made:
    """Codes of queries and of a database around a code for each label."""

    def __init__(self, size: int) -> None:
        rng = np.random.default_rng(0)
        self.centres = rng.random((LABELS, BITS)) < 0.5
        self.of_query = rng.integers(0, LABELS, QUERIES)
        of_item = rng.integers(0, LABELS, size)
        self.items = self.centres[of_item] ^ (rng.random((size, BITS)) < 0.2)
        self.clean = self.centres[self.of_query] ^ (rng.random((QUERIES, BITS)) < 0.2)
        self.order = rng.random((QUERIES, BITS))
        self.relevance = self.of_query[:, None] == of_item[None, :]

    def attacked(self, share: float) -> NDArray[np.bool_]:
        return np.where(self.order < share, ~self.centres[self.of_query], self.clean)

    def scores(self, codes: NDArray[np.bool_], k: int | None = None) -> Scores:
        return mean_average_precision(codes, self.items, self.relevance, k)


def png(pixels: NDArray[np.uint8]) -> str:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode("ascii")


def picture(place: int) -> NDArray[np.uint8]:
    image = Image.new("RGB", (SIDE, SIDE), (90 + 20 * place, 140, 170))
    pen = ImageDraw.Draw(image)
    pen.ellipse((12, 12, 46, 46), fill=(210, 70, 60))
    pen.rectangle((30, 36, 58, 58), fill=(40, 60, 130))
    return np.asarray(image)


def changed(clean: NDArray[np.uint8], eps: int) -> NDArray[np.uint8]:
    sign = np.random.default_rng(7).integers(-1, 2, clean.shape)
    return np.clip(clean.astype(int) + eps * sign, 0, 255).astype(np.uint8)


def _add(report, identity, strength, where, epsilons, least) -> None:
    task, protocol, size = where
    made = Made(size)
    clean, chance = made.scores(made.clean), chance_level(made.relevance).mean
    place = {"task": task, "protocol": protocol, "side": "image", "chance": chance}
    report["rows"].append(_row(identity, place, made, made.clean, ("none", "none", 0.0, 0, "suite")))
    for eps in epsilons:
        worst, names = clean.values.copy(), []
        for rank, attack in enumerate(ATTACKS):
            codes = made.attacked(min(1.0, strength * (1 - 0.25 * rank) * np.log2(1 + eps) / 4))
            spec = (attack, "linf", eps / 255, 20, "suite")
            report["rows"].append(_row(identity, place, made, codes, spec))
            worst = np.minimum(worst, made.scores(codes).values)
            names.append(attack)
        least[identity["model"], task, protocol, eps] = worst
        scores = Scores(worst, float(worst.mean()), len(worst), 0)
        low, high = bootstrap_interval(scores, seed=0, samples=200)
        case = {"norm": "linf", "eps": eps / 255, "map": scores.mean, "lo": low, "hi": high, "n": QUERIES}
        more = {"clean_map": clean.mean, "chance": chance, "floor": 0.02, "attacks": names}
        report["worst_case"].append(
            {**identity, "task": task, "protocol": protocol, **case, **more},
        )
    for steps in (5, 10, 25, 100):
        codes = made.attacked(strength * (0.7 + 0.05 * np.log2(steps / 5)))
        report["rows"].append(
            _row(identity, place, made, codes, (ATTACKS[0], "linf", 8 / 255, steps, "steps"))
        )
    codes = made.attacked(strength * 0.3)
    square = _row(identity, place, made, codes, ("square:own-code", "linf", 8 / 255, 0, "black-box"))
    report["rows"].append({**square, "queries": 1000, "restarts": 0, "curve": [_curve(1000)]})
    for severity in (1, 2, 3, 4, 5):
        codes = made.attacked(0.04 * severity)
        report["rows"].append(
            _row(identity, place, made, codes, ("natural:jpeg", "natural", float(severity), 0, "natural"))
        )


def _row(identity, place, made, codes, spec) -> dict[str, Any]:
    attack, norm, eps, steps, purpose = spec
    scores = made.scores(codes)
    return {
        **identity,
        **place,
        "attack": attack,
        "purpose": purpose,
        "norm": norm,
        "eps": eps,
        "steps": steps,
        "restarts": 2 if steps else 0,
        "queries": 0,
        "map": scores.mean,
        "map_at_50": made.scores(codes, 50).mean,
        "t_map": None,
        "bit_flips": float((codes != made.clean).sum(1).mean()),
        "n": scores.n,
        "linf": eps if norm == "linf" else None,
        "l2": 60 * eps if norm == "linf" else None,
        "ssim": 1 - eps / 2 if norm == "linf" else None,
        "seconds": 12.5,
        "curve": [_curve(steps + 1), [value - 0.1 for value in _curve(steps + 1)]] if steps else [],
        "mean_queries": 0.0,
    }


def _curve(length: int) -> list[float]:
    return [0.9 - 1.5 * 0.9 ** (20 * place / length) for place in range(length)]


def _pairs(labels, least) -> list[dict[str, Any]]:
    found = []
    for a, b in pairwise(labels):
        for model, task, protocol, eps in least:
            if model != a:
                continue
            gap = least[a, task, protocol, eps] - least[b, task, protocol, eps]
            low, high = bootstrap_interval(Scores(gap, float(gap.mean()), len(gap), 0), seed=0, samples=200)
            case = {"a": a, "b": b, "task": task, "protocol": protocol, "norm": "linf", "eps": eps / 255}
            found.append({**case, "difference": float(gap.mean()), "lo": low, "hi": high, "n": len(gap)})
    return found


def _checks(label: str) -> list[dict[str, Any]]:
    names = {
        "deterministic": "two forward passes of 60 queries gave the same codes",
        "monotone": "the worst case never rose by more than 0.5 points from one budget to the next",
        "unbounded": "at eps 1 the worst case is 2.0, chance is 18.1",
        "served-path": "the PNGs that a client would upload gave the codes that were scored",
    }
    return [
        {"model": label, "name": name, "holds": True, "detail": detail, "figures": {}}
        for name, detail in names.items()
    ]


def _hits(relevant: int) -> list[dict[str, Any]]:
    return [
        {
            "id": f"item-{place}",
            "text": f"a red dress number {place}",
            "relevant": place < relevant,
            "distance": place,
        }
        for place in range(5)
    ]


def _example(label: str, task: str, place: int) -> dict[str, Any]:
    clean = picture(place)
    return {
        "model": label,
        "query_id": f"query-{place}",
        "task": task,
        "attack": "apgd:mainstay",
        "norm": "linf",
        "eps": 8 / 255,
        "clean_png": png(clean),
        "attacked_png": png(changed(clean, 8)),
        "text": "a red disc before a blue box",
        "labels": ["red", "disc"],
        "ap_before": 0.81,
        "ap_after": 0.07,
        "linf": 8 / 255,
        "l2": 2.9,
        "ssim": 0.93,
        "before": _hits(5),
        "after": _hits(0),
    }


def _text_example(label: str) -> dict[str, Any]:
    return {
        "model": label,
        "query_id": "query-9",
        "task": "text-to-image",
        "attack": "words:mainstay",
        "before": "a red dress on a wooden floor",
        "after": "a red shirt on a wooden floor",
        "labels": ["dress"],
        "ap_before": 0.7,
        "ap_after": 0.2,
        "hits_before": _hits(4),
        "hits_after": _hits(1),
    }


def _candidate(label: str) -> dict[str, Any]:
    ranks = {"n": 50, "rank_before": 212.4, "rank_after": 3.2, "database": 550, "asking": "text"}
    return {"model": label, "attack": "apgd:raise", "norm": "linf", "eps": 8 / 255, **ranks}


def _model(identity: dict[str, Any], strength: float) -> dict[str, Any]:
    rest = {key: value for key, value in identity.items() if key != "model"}
    known = {"name": "fashion", "version": 1, "digest": "ab" * 32, "modalities": ["image", "text"]}
    return {"label": identity["model"], **known, **rest, "seconds": 840.0, "clean": {}, "notes": []}


def _data() -> dict[str, Any]:
    counts = {"train": 250, "database": 150, "query": QUERIES}
    rest = {"queries": QUERIES, "unlabelled": 0, "excluded": {"image-to-text/database": 0}, "disjoint": True}
    return {"name": "fashion", "fingerprint": "cd" * 32, "split_digest": "ef" * 32, "counts": counts, **rest}


def _threat() -> dict[str, Any]:
    return {
        "goals": ["untargeted: drive away from a query what is relevant to it"],
        "knowledge": ["white box: weights, hash layer, preprocessing", "black box: the codes that come back"],
        "capability": ["L∞ budgets in [0, 1] pixels before preprocessing", "at most 20 % of the words"],
        "metric": "mAP over the whole ranking, the expected value over the orders of tied distances",
        "versions": {"torch": "2.13.0", "hashguard": "0.1.0"},
        "seed": "0",
        "command": "hashguard evaluate --data fashion --model models/none/1 --attacks quick --out out",
        "profile": "quick",
        "machine": {"processor": "2 cores"},
        "wordnet": "no WordNet was given: words of labels stay untouched",
    }
