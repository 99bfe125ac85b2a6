"""Runs an evaluation's units on one model: every spec becomes an `Attacked`, every model a `ModelEvidence`.

Attacks see the model under test and what an attacker knows of it (stage.py); what they made is rounded to
the file a client would send and encoded by the service's own encoder. Scoring for all tasks happens once,
later, from the codes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from time import monotonic
from typing import Protocol

from model.errors import DataError
from model.evaluation.candidate_units import allowed_queries, attack_candidates
from model.evaluation.cost import CostModel
from model.evaluation.encoded import (
    EncodedData,
    digest_of_split,
    floor_codes,
    has_side,
    make_scorer,
    sides_of_subject,
)
from model.evaluation.evidence import Attacked, ModelEvidence
from model.evaluation.image_units import attack_images
from model.evaluation.scoring import PROTOCOLS
from model.evaluation.specs import TRANSFER, AttackSpec
from model.evaluation.stage import Contender, Encodings, Setting, Stage, Tick
from model.evaluation.store import UnitStore
from model.evaluation.text_units import attack_texts

TARGETED_NEEDS = "targeted attacks need items that share no label with the query; some query has none"


class Watch(Protocol):
    """Somebody who watches a run; any call may raise to stop it."""

    def encoding(self, label: str, done: int, total: int) -> None:
        """Items of the data set encoded so far."""
        ...

    def working(self, label: str, what: str, share: float, left_s: float) -> None:
        """The share of the unit `what` that is done, and the seconds this model may still take."""
        ...


class NoWatch:
    """Nobody."""

    def encoding(self, label: str, done: int, total: int) -> None:
        """Say nothing."""

    def working(self, label: str, what: str, share: float, left_s: float) -> None:
        """Say nothing."""


@dataclass(frozen=True, eq=False)
class Session:
    """What the models of one run share besides the setting: finished units, encoded data, who watches."""

    store: UnitStore | None = None
    watch: Watch = field(default_factory=NoWatch)
    encodings: Encodings = field(default_factory=Encodings)


def evaluate_model(
    contender: Contender,
    specs: Sequence[AttackSpec],
    setting: Setting,
    *,
    session: Session | None = None,
    database: EncodedData | None = None,
) -> ModelEvidence:
    """Attack one model with every spec it can be attacked with, finished units of the store left as they are.

    database: codes to retrieve from instead of the model's own, for the test of the gate that forbids it.
    Raises DataError for data that cannot be used, and what the watch raises to stop.
    """
    session = session or Session()
    subject, label = contender.subject, contender.label

    def tick(done: int, total: int) -> None:
        session.watch.encoding(label, done, total)

    started = monotonic()
    encoded = session.encodings.of(subject, setting, tick)
    took = monotonic() - started
    others = tuple(
        (other, session.encodings.of(other, setting, tick))
        for other in contender.surrogates
        if "image" in sides_of_subject(other)
    )
    stage = Stage(subject, setting, encoded, others)
    evidence = _evidence(label, stage, database or encoded)
    possible = []
    for spec in specs:
        reason = unfit(stage, spec)
        if reason is None:
            possible.append(spec)
        else:
            evidence.left_out.append({"what": f"{spec.name} ({spec.purpose})", "why": reason})
    cost = CostModel(took / max(_encoded_images(encoded), 1), len(others))
    evidence.attacked.extend(_attack_all(stage, label, possible, session, cost))
    return evidence


def unfit(stage: Stage, spec: AttackSpec) -> str | None:
    """Why a model cannot be attacked with a spec; None when it can."""
    sides = sides_of_subject(stage.subject)
    if spec.side not in sides:
        return f"the model reads no {spec.side}s"
    if spec.aim == "cross-modal" and len(sides) < 2:
        return "the cross-modal aim needs both sides, the model has one"
    if spec.method == TRANSFER and not stage.surrogates:
        return "no surrogate was given: transfer needs an independently trained model"
    if spec.purpose == "candidate":
        possible = int(allowed_queries(stage, spec).any(1).sum())
        return None if spec.first < possible else f"only {possible} items have a query to be attacked for"
    if spec.first >= len(stage.setting.queries):
        return f"needs queries from row {spec.first} on, there are {len(stage.setting.queries)}"
    if spec.aim in ("p2p", "dhta", "tha", "targeted-mainstay") and stage.knowledge(spec.side).goals is None:
        return TARGETED_NEEDS
    return None


def run_unit(stage: Stage, spec: AttackSpec, tick: Tick | None = None) -> Attacked:
    """One unit, computed now."""
    if spec.purpose == "candidate":
        return attack_candidates(stage, spec, tick)
    return attack_images(stage, spec, tick) if spec.side == "image" else attack_texts(stage, spec, tick)


def _attack_all(
    stage: Stage, label: str, specs: Sequence[AttackSpec], session: Session, cost: CostModel
) -> list[Attacked]:
    found: dict[int, Attacked] = {}
    if session.store:
        for place, spec in enumerate(specs):
            unit = session.store.find(stage, spec)
            if unit is not None:
                found[place] = unit
                cost.learn(spec, unit.seconds)
    for place, spec in enumerate(specs):
        if place in found:
            continue
        waiting = [later for i, later in enumerate(specs) if i > place and i not in found]
        unit = _attack_one(stage, spec, waiting, session.watch, (label, cost))
        if session.store:
            session.store.keep(stage, unit)
        found[place] = unit
    return [found[place] for place in range(len(specs))]


def _attack_one(
    stage: Stage, spec: AttackSpec, waiting: Sequence[AttackSpec], watch: Watch, who: tuple[str, CostModel]
) -> Attacked:
    label, cost = who
    after, started = cost.total(waiting), monotonic()

    def tick(done: int, total: int) -> None:
        share = done / max(total, 1)
        own = (monotonic() - started) * (1 - share) / share if share else cost.seconds(spec)
        watch.working(label, title(spec), share, after + own)

    watch.working(label, title(spec), 0.0, after + cost.seconds(spec))
    unit = run_unit(stage, spec, tick)
    cost.learn(spec, unit.seconds)
    return unit


def title(spec: AttackSpec) -> str:
    """What a person reads: "apgd:mainstay 8/255 20x1"."""
    budget = f"{spec.eps * 255:g}/255" if spec.norm == "linf" else f"{spec.norm} {spec.eps:g}"
    effort = f" {spec.steps}x{spec.restarts}" if spec.steps else f" {spec.queries}" if spec.queries else ""
    return f"{spec.name} {budget}{effort}"


def _evidence(label: str, stage: Stage, database: EncodedData) -> ModelEvidence:
    card, subject, setting = stage.subject.card, stage.subject, stage.setting
    sides = sides_of_subject(subject)
    knowledge = stage.knowledge(sides[0])
    goals = None if knowledge.goals is None else knowledge.goals.cpu().numpy() > 0
    for side in sides:
        if not any(has_side(record, side) for record in stage.encoded.splits["database"].records):
            raise DataError(f"wanted labelled database items with {side}s to retrieve, got none")
    return ModelEvidence(
        label=label,
        digest=subject.digest,
        defence=str(card.manifest.get("defence", {}).get("name", "unknown")),
        seed=int(card.manifest.get("seed", 0)),
        bits=card.bits,
        modalities=frozenset(sides),
        card=card.manifest,
        subject=subject,
        manifest=setting.manifest,
        queries=setting.queries,
        clean_codes=stage.clean,
        database_digest=dict.fromkeys(PROTOCOLS, database.digest),
        split_digest=digest_of_split(setting.manifest, setting.queries),
        scores=make_scorer(stage.encoded, database, goals, floor_codes(knowledge)),
        attacked=[],
    )


def _encoded_images(encoded: EncodedData) -> int:
    return sum(len(split.codes.get("image", ())) for split in encoded.splits.values())
