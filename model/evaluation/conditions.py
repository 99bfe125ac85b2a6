"""Under what conditions a report was made: data, threat model, versions, machine; words beside figures."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
import torch

from model.data.manifest import Manifest
from model.evaluation.evidence import ModelEvidence
from model.evaluation.profiles import Profile
from model.evaluation.specs import AttackSpec

GOALS = {
    "untargeted": "untargeted: what is relevant to a query is to rank low",
    "targeted": "targeted: items of labels that the query does not have are to rank high",
    "candidate": "candidate side: a picture of the database is to rise or sink for a query",
    "text": "text queries: the same, by changing words",
}
METRIC = (
    "mAP over the whole ranking: AP = (1 / R) * sum over ranks i of rel_i * P@i, R the number of relevant "
    "items; map_at_50 divides by min(R, 50). The worst case is the mean over queries of the least AP over "
    "all attempts within the budget, clean query included"
)
RELEVANCE = "two items are relevant to each other when they share a label"
TIES = "items at the same distance: the expected value over all their orders, in closed form"
INTERVALS = "95 %, percentile bootstrap over queries (2,000 samples); between models over paired differences"


def data_of(manifest: Manifest, evidences: Sequence[ModelEvidence]) -> dict[str, Any]:
    """What was evaluated on."""
    first = evidences[0]
    counts = {name: len(manifest.of_split(name)) for name in ("train", "database", "query")}
    records = manifest.records
    return {
        "name": manifest.folder.name,
        "fingerprint": manifest.fingerprint,
        "split_digest": first.split_digest,
        "counts": counts,
        "queries": len(first.queries),
        "unlabelled": sum(not record.labels for record in records),
        "labels": len(manifest.label_names),
        "disjoint": len({record.id for record in records}) == len(records),
        "excluded": {
            f"{own.label} {task}/{protocol}": int(np.isnan(own.clean_ap(task, protocol)).sum())
            for own in evidences
            for task in own.tasks
            for protocol in own.database_digest
        },
    }


def threat_of(
    profile: Profile, evidences: Sequence[ModelEvidence], seed: int, command: str, wordnet: str
) -> dict[str, Any]:
    """The threat model and the conditions, as sentences and plain values."""
    specs = list(dict.fromkeys(unit.spec for own in evidences for unit in own.attacked))
    devices = sorted({own.subject.device.type for own in evidences})
    return {
        "goals": _goals(specs),
        "knowledge": _knowledge(specs),
        "capability": _capability(specs),
        "metric": METRIC,
        "relevance": RELEVANCE,
        "ties": TIES,
        "intervals": INTERVALS,
        "wordnet": wordnet,
        "profile": profile.name,
        "seed": str(seed),
        "command": command,
        "versions": versions(),
        "machine": {
            "processor": f"{platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads",
            "device": ", ".join(devices),
        },
    }


def versions() -> dict[str, str]:
    """What computed it."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "hashguard": _installed(),
    }


def _installed() -> str:
    try:
        return version("hashguard")
    except PackageNotFoundError:
        return "not installed"


def _goals(specs: Sequence[AttackSpec]) -> list[str]:
    targeted = any(spec.aim in ("p2p", "dhta", "tha", "targeted-mainstay") for spec in specs)
    present = {
        "untargeted": any(spec.side == "image" for spec in specs),
        "targeted": targeted,
        "candidate": any(spec.purpose == "candidate" for spec in specs),
        "text": any(spec.side == "text" for spec in specs),
    }
    return [sentence for name, sentence in GOALS.items() if present[name]]


def _knowledge(specs: Sequence[AttackSpec]) -> list[str]:
    purposes = {spec.purpose for spec in specs}
    found = [
        "white box: weights, hash layer, preprocessing, training codes and labels; everything that runs at "
        "serving is attacked end to end"
    ]
    if "black-box" in purposes:
        found.append("black box: the codes that come back, counted by query")
    if "transfer" in purposes:
        found.append("transfer: other models that the attacker trained, and one try each on the victim")
    if "random" in purposes:
        found.append("none: random noise of the same budget")
    return found


def _capability(specs: Sequence[AttackSpec]) -> list[str]:
    """Budgets by norm, in words."""
    sizes: dict[str, list[float]] = {}
    for spec in specs:
        sizes.setdefault(spec.norm, []).append(spec.eps)
    words = {name: ", ".join(f"{eps:g}" for eps in sorted(set(values))) for name, values in sizes.items()}
    levels = ", ".join(f"{255 * eps:g}/255" for eps in sorted(set(sizes.get("linf", []))))
    sentences = {
        "linf": f"pictures: L-inf up to {levels} of RGB in [0, 1] before preprocessing, at the model's input "
        "size, after 8-bit rounding and PNG: the file that a client would upload",
        "l2": f"pictures: L2 up to {words.get('l2')} in the same units",
        "words": "texts: at most max(1, 20 %) of the words replaced within a neighbourhood, label words only "
        "by synonyms",
        "typos": "texts: at most max(1, 20 %) of the words with one typing error each",
        "embedding": f"embedded texts: L-inf up to {words.get('embedding')} RMS of the embedding table; no "
        "client can send this",
        "natural": "pictures without an attacker: six corruptions at up to five severities",
    }
    return [sentence for name, sentence in sentences.items() if name in sizes]
