"""Whether a candidate may take the live model's place: its gates, its clean mAP, its worst cases.

Both models stand in one report of `hashguard evaluate`, so they were asked the same queries under the same
attacks. The live model's own gates are not asked for: one that fails means that attacks on it were weak, its
worst case is then too high, and the floor with it too strict, never too lax.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from model.errors import DataError
from model.evaluation.recording import Report, failed_gates

Figures = dict[str, float]
"""mAP by what was measured, in words."""


@dataclass(frozen=True)
class Floors:
    """How much lower than the live model's the candidate's mAP may be, 0 to 1: clean, and worst case."""

    clean: float = 0.02
    robust: float = 0.02


def shortfalls(report: Report, candidate: str, live: str | None, floors: Floors) -> list[str]:
    """Everything that speaks against the candidate, in sentences; nothing means that it may be published.

    candidate, live: digests of models of the report; without a live model only the gates decide.
    Raises DataError for a report without them.
    """
    own = _entry(report, candidate)
    found = [f"the gate does not hold: {name}" for name in failed_gates(report, [own["label"]])]
    if not _worst(report, own):
        found.append("no attack has a figure, so nothing is known of its robustness")
    if live is None:
        return found
    other = _entry(report, live)
    found += _lower("clean", _clean(own), _clean(other), floors.clean)
    found += _lower("worst case", _worst(report, own), _worst(report, other), floors.robust)
    return found


def _lower(what: str, own: Figures, live: Figures, most: float) -> Iterator[str]:
    """Where the candidate has no figure or one that is lower by more than `most`."""
    for name, wanted in live.items():
        got = own.get(name)
        if got is None:
            yield f"{what}, {name}: the live model has mAP {wanted:.3f}, the candidate no figure"
        elif got < wanted - most:
            yield f"{what}, {name}: wanted mAP {wanted - most:.3f} or more ({wanted:.3f} live), got {got:.3f}"


def _clean(entry: Mapping[str, Any]) -> Figures:
    return {
        f"{task}, {protocol}": figures["map"]
        for task, protocols in entry["clean"].items()
        for protocol, figures in protocols.items()
        if figures["map"] is not None
    }


def _worst(report: Report, entry: Mapping[str, Any]) -> Figures:
    return {
        f"{row['task']}, {row['protocol']}, {row['norm']} {row['eps']:.4g}": row["map"]
        for row in report["worst_case"]
        if row["model"] == entry["label"] and row["map"] is not None
    }


def _entry(report: Report, digest: str) -> Mapping[str, Any]:
    found: list[Mapping[str, Any]] = [entry for entry in report["models"] if entry["digest"] == digest]
    if len(found) != 1:
        raise DataError(f"wanted one model with the digest {digest} in the report, got {len(found)}")
    return found[0]
