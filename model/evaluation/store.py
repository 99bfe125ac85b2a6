"""Finished work units on disk, each under a key of everything that its result depends on.

A unit is written whole or not at all, so whatever ends a run (a signal, a kill, a power cut) leaves the
finished units usable. A damaged file is not believed: the unit is done again and the file replaced.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from model.errors import DataError
from model.evaluation.evidence import Attacked
from model.evaluation.specs import TRANSFER, AttackSpec
from model.evaluation.stage import Stage, fingerprint_of

UNITS = "units"
FORMAT = 1
"""Raise it when attack or rounding code changes what a unit holds: older units are then done again."""


@dataclass(frozen=True)
class UnitStore:
    """A folder of finished units; `damaged` names the files that were not believed."""

    folder: Path
    damaged: list[str]

    @classmethod
    def open(cls, out: Path) -> UnitStore:
        """The units below a report's folder, which is made. Raises OSError."""
        folder = out / UNITS
        folder.mkdir(parents=True, exist_ok=True)
        return cls(folder, [])

    def find(self, stage: Stage, spec: AttackSpec) -> Attacked | None:
        """The finished unit, or None when there is no whole one."""
        path = self._path(stage, spec)
        if not path.exists():
            return None
        try:
            unit = Attacked.load(path)
        except DataError:
            self.damaged.append(path.name)
            return None
        fits = unit.spec == spec and unit.codes.shape[1] == stage.subject.card.bits
        return unit if fits else None

    def keep(self, stage: Stage, unit: Attacked) -> None:
        """Write a finished unit. Raises OSError."""
        unit.save(self._path(stage, unit.spec))

    def _path(self, stage: Stage, spec: AttackSpec) -> Path:
        return self.folder / f"{unit_key(stage, spec)}.safetensors"


def unit_key(stage: Stage, spec: AttackSpec) -> str:
    """SHA-256 (hex) of what a unit depends on: model, data, queries, spec, seed, surrogates, thesaurus."""
    setting = stage.setting
    surrogates = stage.surrogates if spec.method == TRANSFER else ()
    parts = {
        "format": FORMAT,
        "model": fingerprint_of(stage.subject),
        "data": stage.encoded.fingerprint,
        "queries": [record.id for record in setting.queries],
        "spec": spec.to_json(),
        "seed": setting.seed,
        "surrogates": [fingerprint_of(surrogate) for surrogate, _ in surrogates],
        "thesaurus": thesaurus_digest(stage) if spec.method == "words" else None,
    }
    text = json.dumps(parts, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def thesaurus_digest(stage: Stage) -> str | None:
    """SHA-256 (hex) of the WordNet files that synonyms come from; None without WordNet."""
    thesaurus = stage.setting.thesaurus
    if thesaurus is None:
        return None
    digest = hashlib.sha256()
    for name in sorted(thesaurus.data):
        digest.update(name.encode() + hashlib.sha256(thesaurus.data[name]).digest())
    return digest.hexdigest()
