"""Examples for a report's reader: queries before and after an attack, with what came back.

They are not chosen for effect: always the first evaluated queries, whose order is that of a hash.
"""

from __future__ import annotations

import base64
from typing import Any

import numpy as np

from model.attacks.rounding import from_levels, to_levels, to_png
from model.evaluation.buckets import hamming_distances
from model.evaluation.evidence import Attacked, ModelEvidence
from model.evaluation.scoring import MAIN_PROTOCOL, Bits

SHOWN = 6
HITS = 5
TEXTS_PER_ATTACK = 3


def image_examples(evidence: ModelEvidence) -> list[dict[str, Any]]:
    """The first queries of the unit whose images were kept, with the pictures as PNG in base64."""
    unit = next((u for u in evidence.attacked if u.images is not None and u.spec.side == "image"), None)
    if unit is None or unit.images is None:
        return []
    task = next(task for task in evidence.tasks if task.startswith("image-to-"))
    clean = evidence.clean_ap(task)
    attacked = evidence.unit_ap(unit, task)
    shown = unit.rows[:SHOWN]
    pictures = to_levels(evidence.subject.images([evidence.queries[row] for row in shown]))
    found = []
    for place, row in enumerate(shown):
        record = evidence.queries[row]
        found.append(
            {
                **_common(evidence, unit, task, int(row)),
                "clean_png": _png(pictures[place]),
                "attacked_png": _png(unit.images[place]),
                "text": record.texts[0] if record.texts else "",
                "ap_before": clean[row],
                "ap_after": attacked[place],
                **{name: getattr(unit, name)[place] for name in ("linf", "l2", "ssim")},
                "before": hits(evidence, evidence.clean_codes["image"][row], int(row), task),
                "after": hits(evidence, unit.codes[place], int(row), task),
            }
        )
    return found


def text_examples(evidence: ModelEvidence) -> list[dict[str, Any]]:
    """The first queries that each text attack changed, with the texts before and after."""
    found = []
    for unit in evidence.attacked:
        if unit.texts is None or "original" not in unit.extra:
            continue
        originals: list[str] = unit.extra["original"]
        pairs = enumerate(zip(originals, unit.texts, strict=True))
        changed = [place for place, (old, new) in pairs if old != new]
        found += [_text_example(evidence, unit, place) for place in changed[:TEXTS_PER_ATTACK]]
    return found


def hits(evidence: ModelEvidence, code: Bits, row: int, task: str) -> list[dict[str, Any]]:
    """The first hits for a code bool (K,) in the order served: distance, then id by its bytes."""
    pool = evidence.scores.pool(task, MAIN_PROTOCOL)
    distance = hamming_distances(code[None], pool.codes)[0]
    relevant = evidence.scores.relevant(row, task, MAIN_PROTOCOL)
    near = np.flatnonzero(distance <= np.partition(distance, min(HITS, len(distance)) - 1)[:HITS].max())
    order = sorted(near, key=lambda place: (distance[place], pool.ids[place].encode()))[:HITS]
    return [
        {
            "id": pool.ids[place],
            "text": pool.texts[place],
            "relevant": bool(relevant[place]),
            "distance": int(distance[place]),
        }
        for place in order
    ]


def _text_example(evidence: ModelEvidence, unit: Attacked, place: int) -> dict[str, Any]:
    task = next(task for task in evidence.tasks if task.startswith("text-to-"))
    row = int(unit.rows[place])
    return {
        **_common(evidence, unit, task, row),
        "before": unit.extra["original"][place],
        "after": (unit.texts or ())[place],
        "ap_before": evidence.clean_ap(task)[row],
        "ap_after": evidence.unit_ap(unit, task)[place],
        "hits_before": hits(evidence, evidence.clean_codes["text"][row], row, task),
        "hits_after": hits(evidence, unit.codes[place], row, task),
    }


def _common(evidence: ModelEvidence, unit: Attacked, task: str, row: int) -> dict[str, Any]:
    record = evidence.queries[row]
    return {
        "model": evidence.label,
        "query_id": record.id,
        "labels": list(record.labels),
        "task": task,
        "attack": unit.spec.name,
        "norm": unit.spec.norm,
        "eps": unit.spec.eps,
    }


def _png(levels: np.ndarray[Any, np.dtype[np.uint8]]) -> str:
    return base64.b64encode(to_png(from_levels(levels[None])[0])).decode("ascii")
