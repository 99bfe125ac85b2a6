"""Gradient attacks: FGSM, PGD, APGD. One class; they differ in steps and step rule."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Generator, Tensor

from model.attacks.base import AttackOutcome, Criterion, ModelFn, Objective, Target
from model.attacks.loop import Ascent, ascend, push
from model.attacks.relaxation import Relaxation
from model.attacks.steps import AdaptiveStep, ConstantStep
from model.attacks.threat import Threat


@dataclass(frozen=True)
class GradientAttack(Ascent):
    """Projected gradient ascent on the objective; make it with `fgsm`, `pgd` or `apgd`."""

    @property
    def name(self) -> str:
        """As "pgd:mainstay"."""
        return f"{self.method}:{self.objective.name}"

    def __call__(
        self,
        model_fn: ModelFn,
        x: Tensor,
        target: Target,
        *,
        generator: Generator,
        criterion: Criterion | None = None,
    ) -> AttackOutcome:
        """Attack x (n, ...), within the valid range, each query for its row of `target`."""
        return ascend(self, model_fn, x, target, generator=generator, criterion=criterion)

    def push(
        self, model_fn: ModelFn, x: Tensor, target: Target, *, generator: Generator, training: bool = False
    ) -> Tensor:
        """The last point alone, at the least cost: the inner step of adversarial training (`loop.push`)."""
        return push(self, model_fn, x, target, generator=generator, training=training)


def fgsm(threat: Threat, objective: Objective, relaxation: Relaxation | None = None) -> GradientAttack:
    """One step of the whole budget from the clean input (Goodfellow et al. 2015).

    From the clean input the own-code objective has its minimum in tanh, but not a zero slope.
    """
    return GradientAttack(
        "fgsm", threat, objective, ConstantStep(1.0), relaxation or Relaxation(), 1, random_start=False
    )


def pgd(
    threat: Threat,
    objective: Objective,
    *,
    steps: int = 20,
    restarts: int = 1,
    step: float | None = None,
    relaxation: Relaxation | None = None,
    random_start: bool = True,
) -> GradientAttack:
    """PGD with random start (Madry et al. 2018); `step` in units of eps, 2.5 / steps when None."""
    relaxation = relaxation or Relaxation()
    rule = ConstantStep(step)
    return GradientAttack("pgd", threat, objective, rule, relaxation, steps, restarts, random_start)


def apgd(
    threat: Threat,
    objective: Objective,
    *,
    steps: int = 50,
    restarts: int = 1,
    relaxation: Relaxation | None = None,
) -> GradientAttack:
    """APGD (Croce and Hein 2020): momentum, step lengths per query, back to the best when progress stalls."""
    return GradientAttack(
        "apgd", threat, objective, AdaptiveStep(), relaxation or Relaxation(), steps, restarts
    )
