"""How far each step goes: constant, or APGD's schedule (Croce and Hein, arXiv 2003.01690, section 3)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from model.errors import RecipeError


class StepState(Protocol):
    """The schedule of one restart."""

    @property
    def momentum(self) -> float:
        """Share of the newest direction in the update; 1 for none of the former."""
        ...

    def size(self) -> Tensor | float:
        """Step lengths (n,) or one for all, in units of eps."""
        ...

    def update(self, step: int, loss: Tensor) -> Tensor | None:
        """Take the loss (n,) of the newest iterate; the queries (bool (n,)) to send back to their best."""
        ...


class StepRule(Protocol):
    """A schedule; `begin` starts it for n queries."""

    def begin(self, start: Tensor, steps: int) -> StepState:
        """The state before the first step; `start` (n,) is the loss of the starting points."""
        ...


@dataclass(frozen=True)
class ConstantStep:
    """Every step goes `relative` times eps; None means 2.5 / steps (Madry et al. 2018), eps at most."""

    relative: float | None = None

    def __post_init__(self) -> None:
        if self.relative is not None and not self.relative > 0:
            raise RecipeError(f"step: wanted a length > 0 in units of eps, got {self.relative!r}")

    def begin(self, start: Tensor, steps: int) -> StepState:
        """The same length for all steps."""
        return _Constant(min(1.0, 2.5 / max(steps, 1)) if self.relative is None else self.relative)


@dataclass(frozen=True)
class AdaptiveStep:
    """APGD: start at 2 eps with momentum, halve at checkpoints where progress stalls, go back to the best.

    rho: share of the steps since the last checkpoint that must have raised the loss. A checkpoint comes
    after 22 % of the steps, then at intervals that shrink by 3 points to no less than 6 %.
    """

    rho: float = 0.75
    momentum: float = 0.75

    def begin(self, start: Tensor, steps: int) -> StepState:
        """Per-query lengths, all 2."""
        return _Adaptive(self, checkpoints(steps), start.clone(), start.clone())


def checkpoints(steps: int) -> frozenset[int]:
    """Steps w_j = ceil(p_j * steps), p_0 = 0, p_1 = 0.22, p_{j+1} = p_j + max(p_j - p_{j-1} - 0.03, 0.06)."""
    shares = [0.0, 0.22]
    while shares[-1] < 1.0:
        shares.append(shares[-1] + max(shares[-1] - shares[-2] - 0.03, 0.06))
    return frozenset(-int(-share * steps // 1) for share in shares[1:] if share < 1.0)


@dataclass(frozen=True)
class _Constant:
    relative: float
    momentum: float = 1.0

    def size(self) -> float:
        return self.relative

    def update(self, step: int, loss: Tensor) -> None:
        return None


@dataclass(eq=False)
class _Adaptive:
    """Per query: length, loss of the last iterate, best loss, steps that rose since the last checkpoint."""

    rule: AdaptiveStep
    at: frozenset[int]
    last: Tensor
    best: Tensor
    lengths: Tensor = field(init=False)
    rises: Tensor = field(init=False)
    best_then: Tensor = field(init=False)
    halved: Tensor = field(init=False)
    since: int = 0

    def __post_init__(self) -> None:
        self.lengths = torch.full_like(self.best, 2.0)
        self.rises = torch.zeros_like(self.best)
        self.best_then = self.best.clone()
        # The rule's second condition needs "the length did not change at the last checkpoint"; the first
        # checkpoint has none before it, and the reference code counts that as changed.
        self.halved = torch.ones_like(self.best, dtype=torch.bool)

    @property
    def momentum(self) -> float:
        return self.rule.momentum

    def size(self) -> Tensor:
        return self.lengths

    def update(self, step: int, loss: Tensor) -> Tensor | None:
        self.rises += loss > self.last
        self.last = loss
        self.best = torch.maximum(self.best, loss)
        self.since += 1
        if step + 1 not in self.at:
            return None
        few = self.rises < self.rule.rho * self.since
        stuck = ~self.halved & (self.best <= self.best_then)
        self.halved = few | stuck
        self.lengths = torch.where(self.halved, self.lengths / 2, self.lengths)
        self.rises = torch.zeros_like(self.rises)
        self.best_then = self.best.clone()
        self.last = torch.where(self.halved, self.best, self.last)
        self.since = 0
        return self.halved
