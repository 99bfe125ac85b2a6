"""What an attack is: a frozen value you call, `attack(model_fn, x, target, generator=...) -> AttackOutcome`.

An attack joins a `Threat` (ball, range, units; threat.py) with an `Objective` (the aim; objectives.py). The
objective turns what the attacker knows into a `Target`, once, and then gives one number per query that the
attack maximises. `model_fn` gives logits, not codes: how they become the relaxed code that the gradient
flows through is the attack's choice (relaxation.py), so a saturated tanh cannot hide the gradient.

No attack has a seed of its own, touches a device, or leaves a trace in the model: parameters, `.grad`,
training mode and batch-norm statistics are as before (`victims.frozen`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Generator, Tensor

from model.attacks.knowledge import Knowledge
from model.attacks.mainstay import signs
from model.attacks.threat import Threat

ModelFn = Callable[[Tensor], Tensor]
"""x (n, ...) -> logits (n, K); differentiable where a gradient attack is to work."""

TIE_BREAK = 1e-3
"""Weight of the relaxed objective next to the one on codes: below one bit of 256, which counts 2/256."""


@dataclass(frozen=True, eq=False)
class Target:
    """Per query, the codes that its objective looks at.

    codes: float (n, M, K) in [-1, 1], M codes per query (M = 1 for all but the candidate side).
    weights: float (n, M) >= 0. radii: float (n, M) distances in bits that an objective may compare with,
    or None.
    """

    codes: Tensor
    weights: Tensor
    radii: Tensor | None = None

    @classmethod
    def single(cls, codes: Tensor) -> Target:
        """One code (n, K) per query, weight 1."""
        return cls(codes.unsqueeze(1), codes.new_ones(len(codes), 1))

    @property
    def anchor(self) -> Tensor:
        """Weighted sum (n, K) of the codes."""
        return (self.codes * self.weights.unsqueeze(-1)).sum(1)

    def rows(self, index: Tensor | slice) -> Target:
        """The targets of some queries."""
        radii = None if self.radii is None else self.radii[index]
        return Target(self.codes[index], self.weights[index], radii)

    def __len__(self) -> int:
        return len(self.codes)


@runtime_checkable
class Objective(Protocol):
    """The aim of an attack. Frozen; `name` is its name in reports."""

    @property
    def name(self) -> str:
        """Name in the registry and in reports."""
        ...

    @property
    def targeted(self) -> bool:
        """True when success means reaching something (t-MAP), false when it means leaving something."""
        ...

    def target(self, knowledge: Knowledge, *, generator: Generator) -> Target:
        """What to aim at, for every query of `knowledge`; raises DataError when it lacks what is needed."""
        ...

    def __call__(self, h: Tensor, target: Target) -> Tensor:
        """One number per query (n,), to be maximised; h (n, K) relaxed codes or codes -1/+1."""
        ...


Criterion = Callable[[Tensor, Target], Tensor]
"""Logits (n, K), target -> (n,): what "best per query" means; larger is better for the attacker."""


@dataclass(frozen=True)
class CodeCriterion:
    """The objective of the real code (sign(0) = +1), the relaxed one breaking ties: the default."""

    objective: Objective

    def __call__(self, logits: Tensor, target: Target) -> Tensor:
        """Objective of the codes plus TIE_BREAK times the objective of tanh(logits)."""
        soft = self.objective(torch.tanh(logits), target)
        return self.objective(signs(logits), target) + TIE_BREAK * soft


@dataclass(frozen=True, eq=False)
class AttackOutcome:
    """What an attack made of n queries, the best of each over all steps and restarts.

    x_adv: like x. value: (n,) the criterion at x_adv. loss, clean_loss: (n,) the objective of the real code
    at x_adv and at x. queries: int64 (n,) inputs evaluated by the model for this query; backward: int64 (n,)
    gradients taken. zero_gradients: float (n,) share of its gradients that were zero in every entry (0 where
    none was taken). saturated: float (n,) share of code units with |tanh| > 0.999 at x (reported, not
    gated). curve: float (R, T, n) the relaxed objective (tanh of the logits) at each step of each restart,
    NaN-free; R = 0 where the attack has no steps.
    """

    x_adv: Tensor
    value: Tensor
    loss: Tensor
    clean_loss: Tensor
    queries: Tensor
    backward: Tensor
    zero_gradients: Tensor
    saturated: Tensor
    curve: Tensor

    @property
    def never_a_gradient(self) -> float:
        """Share of queries all of whose gradients were zero in every entry (gate: < 1 %)."""
        taken = self.backward > 0
        if not bool(taken.any()):
            return 0.0
        return float((self.zero_gradients[taken] >= 1.0).float().mean())

    @property
    def best_curve(self) -> Tensor:
        """Mean over queries (R, T) of the best relaxed objective so far: never falls along T."""
        return self.curve.cummax(1).values.mean(2) if self.curve.numel() else self.curve.mean(2)


@runtime_checkable
class Attack(Protocol):
    """A frozen value; calling it attacks a batch. `criterion` None means CodeCriterion(objective)."""

    @property
    def name(self) -> str:
        """Method and aim, as "apgd:mainstay"."""
        ...

    @property
    def threat(self) -> Threat:
        """Ball and range."""
        ...

    @property
    def objective(self) -> Objective:
        """The aim."""
        ...

    def __call__(
        self,
        model_fn: ModelFn,
        x: Tensor,
        target: Target,
        *,
        generator: Generator,
        criterion: Criterion | None = None,
    ) -> AttackOutcome:
        """Attack x (n, ...), each query for its row of `target`."""
        ...
