"""How long an evaluation will take: passes through a tower times the seconds that a pass takes here.

A pass is one input through a tower forwards; a gradient counts as two more. The first guess of a pass's
seconds comes from encoding the data set, and every finished unit corrects it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from model.evaluation.specs import EMBEDDING, NATURAL, TRANSFER, AttackSpec

GRADIENT = 3.0  # forward and backward, in passes
PROPOSALS = 40.0  # of a text attack, in passes per text: tries times the words that change
TEXT_PASS_S = 2e-4
CORRECTION = 0.5  # weight of the newest unit


def passes(spec: AttackSpec, surrogates: int = 1) -> float:
    """Passes that a unit costs."""
    if spec.method == NATURAL:
        return float(spec.count)
    if spec.method in ("words", "typos"):
        return PROPOSALS * spec.count
    if spec.steps or spec.method in ("fgsm", "pgd", "apgd", TRANSFER, EMBEDDING):
        climbs = max(spec.restarts, 1) * (max(spec.steps, 1) * GRADIENT + 1)
        return spec.count * (climbs * (max(surrogates, 1) if spec.method == TRANSFER else 1) + 2)
    return float(spec.count * max(spec.queries, 1))


@dataclass(eq=False)
class CostModel:
    """Seconds per pass of one model, by kind of unit; `image_s` is the first guess for pictures."""

    image_s: float
    surrogates: int = 1
    known: dict[str, float] = field(default_factory=dict)

    def seconds(self, spec: AttackSpec) -> float:
        """Expected seconds of a unit."""
        return passes(spec, self.surrogates) * self.known.get(_kind(spec), self._guess(spec))

    def total(self, specs: Iterable[AttackSpec]) -> float:
        """Expected seconds of several."""
        return sum(self.seconds(spec) for spec in specs)

    def learn(self, spec: AttackSpec, seconds: float) -> None:
        """Take over what a finished unit cost."""
        kind, found = _kind(spec), seconds / max(passes(spec, self.surrogates), 1.0)
        if kind in self.known:
            found = CORRECTION * found + (1 - CORRECTION) * self.known[kind]
        self.known[kind] = found

    def _guess(self, spec: AttackSpec) -> float:
        """What the image units have shown, or the first guess; texts are cheap."""
        if spec.side == "text":
            return TEXT_PASS_S
        return self.known.get("gradient", self.known.get("search", self.image_s))


def _kind(spec: AttackSpec) -> str:
    """Units whose passes cost alike."""
    if spec.side == "text" or spec.method == NATURAL:
        return spec.method
    return "gradient" if spec.steps or spec.method == "fgsm" else "search"
