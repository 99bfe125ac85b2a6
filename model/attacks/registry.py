"""Names of attacks: method x objective, "apgd:mainstay". The contract suite runs over both tables.

A new method or objective is a file, an entry here, and its own test; the contract suite picks it up.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from torch import Tensor

from model.attacks.base import Attack, Objective
from model.attacks.blackbox import CodeFeedback, NoiseAttack, RankFeedback
from model.attacks.candidate import Raise, Sink
from model.attacks.iterative import apgd, fgsm, pgd
from model.attacks.nes import NESAttack
from model.attacks.objectives import (
    CrossModal,
    Mainstay,
    OwnCode,
    PointToPoint,
    Prototype,
    Smart,
    TargetedMainstay,
    Voting,
)
from model.attacks.relaxation import Relaxation
from model.attacks.square import SquareAttack
from model.attacks.text_attacks import TextAttack, Typos, WordSubstitution
from model.attacks.text_limits import SubstitutionRule
from model.attacks.threat import Threat
from model.errors import RecipeError, UnknownName


@dataclass(frozen=True, eq=False)
class Effort:
    """How hard to try; None takes the method's own default.

    steps, restarts: of gradient methods. step: length in units of eps (pgd only; others have a rule).
    queries: evaluations per input of black-box methods, draws of noise. gallery: codes (N, K) behind the
    rank feedback, `listed` how many ids the service returns.
    """

    steps: int | None = None
    restarts: int = 1
    step: float | None = None
    queries: int | None = None
    gallery: Tensor | None = None
    listed: int = 50
    relaxation: Relaxation = field(default_factory=Relaxation)


OBJECTIVES: Mapping[str, Objective] = MappingProxyType(
    {
        objective.name: objective
        for objective in (
            OwnCode(),
            Smart(),
            Mainstay(),
            CrossModal(),
            PointToPoint(),
            Voting(),
            Prototype(),
            TargetedMainstay(),
            Raise(),
            Sink(),
        )
    }
)
UNTARGETED = tuple(name for name, aim in OBJECTIVES.items() if not aim.targeted and name != "sink")
"""Objectives that drive a query away from what is relevant to it: the headline's suite."""

TARGETED = tuple(name for name, aim in OBJECTIVES.items() if aim.targeted and name != "raise")
CANDIDATE = ("raise", "sink")


def _fgsm(threat: Threat, objective: Objective, effort: Effort) -> Attack:
    return fgsm(threat, objective, effort.relaxation)


def _pgd(threat: Threat, objective: Objective, effort: Effort) -> Attack:
    steps = 20 if effort.steps is None else effort.steps
    return pgd(
        threat,
        objective,
        steps=steps,
        restarts=effort.restarts,
        step=effort.step,
        relaxation=effort.relaxation,
    )


def _apgd(threat: Threat, objective: Objective, effort: Effort) -> Attack:
    steps = 50 if effort.steps is None else effort.steps
    return apgd(threat, objective, steps=steps, restarts=effort.restarts, relaxation=effort.relaxation)


def _noise(threat: Threat, objective: Objective, effort: Effort) -> Attack:
    return NoiseAttack(threat, objective, 1 if effort.queries is None else effort.queries)


def _square(threat: Threat, objective: Objective, effort: Effort) -> Attack:
    queries = 1000 if effort.queries is None else effort.queries
    return SquareAttack(threat, objective, CodeFeedback(objective), queries)


def _nes(threat: Threat, objective: Objective, effort: Effort) -> Attack:
    queries = 2000 if effort.queries is None else effort.queries
    return NESAttack(threat, objective, CodeFeedback(objective), queries)


def _ranks(threat: Threat, objective: Objective, effort: Effort) -> Attack:
    if effort.gallery is None:
        raise RecipeError("the ranks attack needs a gallery, the codes that the service searches, got none")
    queries = 1000 if effort.queries is None else effort.queries
    return SquareAttack(threat, objective, RankFeedback(effort.gallery, effort.listed), queries)


Builder = Callable[[Threat, Objective, Effort], Attack]

METHODS: Mapping[str, Builder] = MappingProxyType(
    {
        "fgsm": _fgsm,
        "pgd": _pgd,
        "apgd": _apgd,
        "noise": _noise,
        "square": _square,
        "nes": _nes,
        "ranks": _ranks,
    }
)
TEXT_METHODS = ("words", "typos")
WHITE_BOX = ("fgsm", "pgd", "apgd")
BLACK_BOX = ("square", "nes", "ranks")


def build_attack(name: str, threat: Threat, effort: Effort | None = None) -> Attack:
    """The attack "method:objective" (or an objective alone, by APGD). Raises UnknownName, RecipeError."""
    method, _, aim = name.rpartition(":")
    if aim not in OBJECTIVES:
        raise UnknownName("objective", aim, OBJECTIVES)
    if (method or "apgd") not in METHODS:
        raise UnknownName("attack method", method, METHODS)
    return METHODS[method or "apgd"](threat, OBJECTIVES[aim], effort or Effort())


def build_text_attack(
    name: str, rule: SubstitutionRule | None = None, *, tries: int = 24, relaxation: Relaxation | None = None
) -> TextAttack:
    """The text attack "words:objective" (needs its `rule`) or "typos:objective", `tries` proposals a round.

    Raises UnknownName, RecipeError.
    """
    method, _, aim = name.rpartition(":")
    if aim not in OBJECTIVES:
        raise UnknownName("objective", aim, OBJECTIVES)
    if method not in TEXT_METHODS:
        raise UnknownName("text attack", method, TEXT_METHODS)
    if method == "typos":
        return TextAttack(method, OBJECTIVES[aim], Typos(tries=tries))
    if rule is None:
        raise RecipeError("word substitution needs a SubstitutionRule (labels and neighbourhood), got none")
    proposer = WordSubstitution(rule, tries, relaxation or Relaxation())
    return TextAttack(method, OBJECTIVES[aim], proposer)


def attack_names() -> list[str]:
    """Every "method:objective" there is."""
    return [f"{method}:{aim}" for method in METHODS for aim in OBJECTIVES]
