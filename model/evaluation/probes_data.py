"""Probes of data and of what the attacks made: splits apart, files within their budget, texts within limits.

What an attack says of its own result is not taken on trust: the kept pictures are measured again against the
clean ones after a PNG round trip, and the changed words of every kept text are counted again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

from model.attacks.rounding import check_budget, from_levels
from model.attacks.text_limits import TypoRule, changed_words, word_budget
from model.attacks.threat import NORMS, Norm, Threat
from model.data.manifest import Record
from model.data.paths import read_image_bytes
from model.evaluation.evidence import Attacked, ModelEvidence
from model.evaluation.verdicts import of_images, title

SHOWN = 5
"""Examples that a fact names."""


def overlaps(evidence: ModelEvidence) -> dict[str, Any]:
    """Evaluated queries that are also in train or database, by id and by the bytes of their image.

    train_in_database counts images that both have: the papers' protocol has all of them there, and a report
    that does should say so.
    """
    manifest, queries = evidence.manifest, evidence.queries
    train, database = manifest.of_split("train"), manifest.of_split("database")
    images = {name: _images(records) for name, records in (("train", train), ("database", database))}
    facts: dict[str, Any] = {"queries": len(queries), "train": len(train), "database": len(database)}
    facts["train_in_database"] = len(images["train"].keys() & images["database"].keys())
    own = _images(queries)
    for name, records in (("train", train), ("database", database)):
        ids = {record.id for record in records}
        found = [record.id for record in queries if record.id in ids]
        found += [own[key] for key in own.keys() & images[name].keys() if own[key] not in found]
        facts[f"queries_in_{name}"] = {"count": len(found), "ids": sorted(found)[:SHOWN]}
    return facts


def file_budgets(evidence: ModelEvidence) -> dict[str, Any]:
    """BudgetCheck, as a dict, of the kept images of each unit against the clean queries."""
    facts = {}
    for unit in evidence.attacked:
        if unit.images is not None and of_images(unit) and unit.spec.norm in NORMS:
            clean = evidence.subject.images([evidence.queries[row] for row in unit.rows])
            norm: Norm = "l2" if unit.spec.norm == "l2" else "linf"
            check = check_budget(
                from_levels(unit.images).to(clean.device), clean, Threat(norm, unit.spec.eps)
            )
            facts[title(unit)] = asdict(check) | {"holds": check.holds}
    return facts


def text_limits(evidence: ModelEvidence) -> dict[str, Any]:
    """By unit: texts sent, and sentences on those outside the limits that need no vocabulary to judge."""
    facts = {}
    for unit in evidence.attacked:
        if unit.texts is not None and unit.spec.norm in ("words", "typos"):
            codec = evidence.subject.text_codec()  # attacks start from the text as the tokenizer gets it
            faults = [
                f"item {evidence.queries[row].id}: {fault}"
                for row, text in zip(unit.rows, unit.texts, strict=True)
                for fault in _faults(unit, codec.clean(evidence.queries[row].texts[0]), text)
            ]
            facts[title(unit)] = {"texts": len(unit.texts), "broken": len(faults), "first": faults[:SHOWN]}
    return facts


def _faults(unit: Attacked, original: str, changed: str) -> list[str]:
    """What is outside the limits of one text."""
    pairs = changed_words(original, changed)
    if pairs is None:
        return ["something other than words has changed, or their number"]
    allowed, faults = word_budget(original), []
    if len(pairs) > allowed:
        faults.append(f"{len(pairs)} words changed, allowed are {allowed}")
    if unit.spec.norm == "typos":
        faults += [fault for old, new in pairs if (fault := TypoRule().fault(old, new))]
    return faults


def _images(records: Sequence[Record] | Iterable[Record]) -> dict[str, str]:
    """Digest of an image's bytes -> id of an item that has it."""
    return {
        hashlib.sha256(read_image_bytes(record.image)).hexdigest(): record.id
        for record in records
        if record.image is not None
    }
