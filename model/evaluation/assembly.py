"""The dict of report.json out of judged evidence; the schema is docs/method.md's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from model.evaluation.conditions import data_of, threat_of
from model.evaluation.evidence import ModelEvidence
from model.evaluation.examples import image_examples, text_examples
from model.evaluation.profiles import Profile
from model.evaluation.stage import Setting
from model.evaluation.summary import FORMAT, Summary, all_pairs, clean_json
from model.evaluation.verdicts import Check

NO_WORDNET = "no WordNet was given: words of labels stay untouched"
WITH_WORDNET = "words of labels are replaced by WordNet synonyms only"


@dataclass(frozen=True, eq=False)
class Judged:
    """A model's evidence with the gates' verdicts. missing: "gate: reason" of gates that were not judged."""

    evidence: ModelEvidence
    checks: tuple[Check, ...]
    missing: tuple[str, ...]
    twin: ModelEvidence | None


def assemble(judged: Sequence[Judged], profile: Profile, setting: Setting, command: str) -> dict[str, Any]:
    """The whole report as plain JSON without NaN."""
    summaries = [Summary(one.evidence) for one in judged]
    evidences = [one.evidence for one in judged]
    wordnet = NO_WORDNET if setting.thesaurus is None else WITH_WORDNET
    report = {
        "format": FORMAT,
        "data": data_of(setting.manifest, evidences),
        "threat": threat_of(profile, evidences, setting.seed, command, wordnet),
        "models": [_model(one, summary) for one, summary in zip(judged, summaries, strict=True)],
        "rows": [row for summary in summaries for row in summary.rows()],
        "worst_case": [row for summary in summaries for row in summary.worst_case()],
        "pairs": all_pairs(summaries),
        "checks": [{"model": one.evidence.label, **each.to_json()} for one in judged for each in one.checks],
        "examples": [example for own in evidences for example in image_examples(own)],
        "text_examples": [example for own in evidences for example in text_examples(own)],
        "candidates": [row for summary in summaries for row in summary.candidates()],
        "left_out": [entry for one in judged for entry in _left_out(one)],
    }
    clean: dict[str, Any] = clean_json(report)
    return clean


def _model(one: Judged, summary: Summary) -> dict[str, Any]:
    own, manifest = one.evidence, one.evidence.card
    twin = one.twin
    return {
        "label": own.label,
        "name": manifest["name"],
        "version": manifest["version"],
        "digest": own.digest,
        "defence": own.defence,
        "seed": own.seed,
        "bits": own.bits,
        "modalities": sorted(own.modalities),
        "architecture": {
            side: None if table is None else table["kind"] for side, table in manifest["architecture"].items()
        },
        "created": manifest["created"],
        "trained_on": manifest["training_data"].get("fingerprint"),
        "trained_against": manifest.get("threat"),
        "twin": None if twin is None else {"label": twin.label, "digest": twin.digest},
        "seconds": sum(unit.seconds for unit in own.attacked),
        "clean": summary.clean(),
        "notes": list(own.notes),
    }


def _left_out(one: Judged) -> list[dict[str, str]]:
    label = one.evidence.label
    units = [{"model": label, **entry} for entry in one.evidence.left_out]
    parted = [reason.partition(": ") for reason in one.missing]
    return units + [{"model": label, "what": f"gate {name}", "why": why} for name, _, why in parted]
