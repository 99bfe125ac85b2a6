"""Gates on conduct: was the right function attacked, scored and served, with fair means and on fair data?

Most of them judge what the probes found (`evidence.facts`); a fact that is not there leaves its gate out.
(evaluation.md, gates 8 to 10 and 13, and its section on scoring.)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from model.attacks.threat import NORMS
from model.evaluation.evidence import Attacked
from model.evaluation.verdicts import Check, LeftOut, Verdict, View, of_images, title

ZERO_GRADIENTS = 0.01
ROUNDING = 1e-6


def deterministic(view: View) -> Verdict:
    """The same input gives the same logits: again, alone, while gradients are recorded, and as served."""
    name = "deterministic"
    facts = view.evidence.facts.get("forward")
    if not facts:
        return LeftOut(name, "the model was not probed")
    figures: dict[str, Any] = {}
    wrong = []
    for side, found in facts.items():
        figures[side] = dict(found["apart"])
        for run, gap in found["apart"].items():
            if isinstance(gap, str) or gap > found["limit"]:
                wrong.append(f"{side}, {RUNS[run]}: {gap if isinstance(gap, str) else f'{gap:.2g}'}")
    if wrong:
        return Check(
            name, holds=False, detail="forward passes disagree: " + "; ".join(wrong), figures=figures
        )
    said = "two forward passes agree, whether alone, with gradients recorded or as served"
    return Check(name, holds=True, detail=said, figures=figures)


RUNS: Mapping[str, str] = {
    "again": "the same input twice",
    "recording": "with gradients recorded, as an attacker runs it",
    "alone": "alone instead of in a batch",
    "serving": "in inference mode, as the service runs it",
}


def no_gradient_inside(view: View) -> Verdict:
    """Inference runs no backward pass and records none: no optimisation at test time."""
    name = "no-gradient-inside"
    facts = view.evidence.facts.get("gradients_inside")
    if not facts:
        return LeftOut(name, "the model was not probed")
    wrong = []
    for side, found in facts.items():
        if found["backward"]:
            wrong.append(f"{side}: {len(found['backward'])} operators of a backward pass")
        elif found["recording"]:
            wrong.append(f"{side}: switches gradients on")
    if wrong:
        said = (
            "inference computes gradients itself (" + "; ".join(wrong) + "): attack it as a dynamic defence"
        )
        return Check(name, holds=False, detail=said, figures=facts)
    return Check(name, holds=True, detail="no gradient is computed inside inference", figures=facts)


def served_path(view: View) -> Verdict:
    """The file or text a client sends, through the service's encoder, gives the codes that were scored."""
    name = "served-path"
    facts = view.evidence.facts.get("served")
    if not facts:
        return LeftOut(name, "the model was not probed")
    if "image" in view.evidence.modalities and not any(_kept(unit) for unit in view.white_box):
        return LeftOut(name, "no white-box attack kept its images")
    return _as_sent(name, facts, "sent as PNG and text, one at a time")


def database_digest(view: View) -> Verdict:
    """The database was encoded by the model under test: by digest, and items encoded anew agree."""
    name = "database-digest"
    own = view.evidence.digest
    strangers = {p: digest for p, digest in view.evidence.database_digest.items() if digest != own}
    if strangers:
        got = ", ".join(f"{protocol}: {digest[:12]}" for protocol, digest in strangers.items())
        said = f"wanted a database encoded by the model itself ({own[:12]}), got {got}"
        return Check(name, holds=False, detail=said, figures={"digest": own, **strangers})
    facts = view.evidence.facts.get("database")
    if not facts:
        return LeftOut(name, "the database was not encoded again")
    return _as_sent(name, facts, "of the database encoded anew")


def disjoint(view: View) -> Verdict:
    """No evaluated query is in train or database, by id or by the bytes of its image."""
    name = "disjoint"
    facts = view.evidence.facts.get("disjoint")
    if not facts:
        return LeftOut(name, "the splits were not compared")
    found = {part: facts[f"queries_in_{part}"] for part in ("train", "database")}
    total = sum(entry["count"] for entry in found.values())
    ids = [item for entry in found.values() for item in entry["ids"]]
    said = f"{facts['queries']} queries, none in train ({facts['train']}) or database ({facts['database']})"
    if total:
        said = f"{total} of {facts['queries']} queries are in train or database as well: {', '.join(ids[:5])}"
    if facts["train_in_database"]:
        said += f"; {facts['train_in_database']} images are in both train and database"
    return Check(name, holds=not total, detail=said, figures=facts)


def zero_gradients(view: View) -> Verdict:
    """Fewer than 1 % of the queries never had a gradient with an entry other than zero."""
    name = "zero-gradients"
    units = [u for u in view.evidence.attacked if u.had_gradient and (u in view.white_box or _embedded(u))]
    if not units:
        return LeftOut(name, "no gradient attack was run")
    figures = {title(unit): round(float(unit.never_gradient.mean()), 4) for unit in units}
    worst = max(figures, key=lambda key: figures[key])
    said = f"at most {figures[worst]:.1%} of the queries never had a gradient ({worst}), wanted less than 1 %"
    return Check(name, figures[worst] < ZERO_GRADIENTS, said, figures)


def budget(view: View) -> Verdict:
    """Every attacked image obeys its budget as the 8-bit PNG that a client would upload."""
    name = "budget"
    units = [unit for unit in view.evidence.attacked if unit.spec.norm in NORMS]
    if not units:
        return LeftOut(name, "no attack on images with a budget was run")
    again = view.evidence.facts.get("files", {})
    wrong = [fault for unit in units for fault in [_over_budget(unit, again.get(title(unit)))] if fault]
    figures = {"units": len(units), "measured_again": len(again), "broken": wrong}
    said = f"all {len(units)} units are within budget as 8-bit PNG, {len(again)} of them measured again"
    if wrong:
        said = f"{len(wrong)} of {len(units)} units break their budget: {wrong[0]}"
    return Check(name, not wrong, said, figures)


def text_limits(view: View) -> Verdict:
    """Every changed text is within its limits (words, typing errors, label words, embedding ball)."""
    name = "text-limits"
    units = [u for u in view.evidence.attacked if u.spec.side == "text" and u.spec.norm not in NORMS]
    if not units:
        return LeftOut(name, "no attack on texts was run")
    again = view.evidence.facts.get("texts", {})
    wrong = [f"{title(unit)}: {fault}" for unit in units for fault in unit.broken_limits]
    wrong += [f"{key}: {fault}" for key, found in again.items() for fault in found["first"]]
    figures = {"units": len(units), "counted_again": len(again), "broken": wrong[:20]}
    said = f"every text of {len(units)} units is within its limits"
    if wrong:
        said = f"texts break their limits, first: {wrong[0]}"
    return Check(name, not wrong, said, figures)


CONDUCT: tuple[Callable[[View], Verdict], ...] = (
    deterministic,
    no_gradient_inside,
    served_path,
    database_digest,
    disjoint,
    zero_gradients,
    budget,
    text_limits,
)


def _as_sent(name: str, facts: Mapping[str, Mapping[str, Any]], what: str) -> Check:
    """Holds when nothing that was sent came back with other bits, or not at all."""
    wrong = []
    for key, found in facts.items():
        if found["error"] is not None:
            wrong.append(f"{key}: {found['error']}")
        elif found["differing"]:
            wrong.append(f"{key}: {found['differing']} bits of {found['sent']} codes differ")
    sent = sum(found["sent"] for found in facts.values())
    said = f"{sent} codes {what} are the ones that were scored"
    return Check(name, not wrong, "; ".join(wrong) if wrong else said, facts)


def _over_budget(unit: Attacked, again: Mapping[str, Any] | None) -> str | None:
    """What is wrong with a unit's files, by its own record and by the probe's."""
    size = unit.linf if unit.spec.norm == "linf" else unit.l2
    largest = float(size.max(initial=0.0))
    if unit.budget is None:
        return f"{title(unit)}: nobody measured the files"
    if not unit.budget["holds"] or largest > unit.spec.eps + ROUNDING:
        return f"{title(unit)}: {unit.spec.norm} of {largest:.5f}, allowed {unit.spec.eps:.5f}"
    if again is not None and not again["holds"]:
        return f"{title(unit)}: measured again {unit.spec.norm} of {again[unit.spec.norm]:.5f}"
    return None


def _kept(unit: Attacked) -> bool:
    return unit.images is not None and of_images(unit)


def _embedded(unit: Attacked) -> bool:
    return unit.spec.norm == "embedding"
