"""NES on distances (Ilyas et al. 2018): a gradient estimated from answers, then the usual step.

The answer is a whole number of bits, so the probes are as wide as the ball (`sigma` in units of eps), and on
images they are drawn on a coarse grid and enlarged: bits hang on low frequencies, and 3 x 8 x 8 directions
need fewer queries than 3 x 64 x 64.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator, Tensor
from torch.nn import functional

from model.attacks.base import AttackOutcome, Criterion, ModelFn, Objective, Target
from model.attacks.blackbox import Feedback, Search, begin
from model.attacks.loop import per_row
from model.attacks.threat import Threat
from model.attacks.victims import frozen
from model.errors import RecipeError


@dataclass(frozen=True)
class NESAttack:
    """`queries` evaluations in all: per step `pairs` antithetic pairs and one look at the new point.

    grid: side of the coarse noise for images, 0 for none. step: length in units of eps, falling to a tenth.
    momentum: share of the former estimate. Raises RecipeError when not even one step fits.
    """

    threat: Threat
    objective: Objective
    feedback: Feedback
    queries: int = 2000
    pairs: int = 20
    sigma: float = 0.5
    grid: int = 16
    step: float = 0.5
    momentum: float = 0.5

    def __post_init__(self) -> None:
        if self.pairs < 1 or self.queries < 2 * self.pairs + 2:
            raise RecipeError(
                f"queries: wanted at least {2 * max(self.pairs, 1) + 2} for {self.pairs} pairs a step, "
                f"got {self.queries}"
            )

    @property
    def name(self) -> str:
        """As "nes:mainstay"."""
        return f"nes:{self.objective.name}"

    def __call__(
        self,
        model_fn: ModelFn,
        x: Tensor,
        target: Target,
        *,
        generator: Generator,
        criterion: Criterion | None = None,
    ) -> AttackOutcome:
        """Attack x (n, ...)."""
        with frozen(model_fn):
            search = begin(model_fn, x, target, self.feedback, self.objective, criterion)
            clean, point = search.now, search.now
            slope = torch.zeros_like(clean)
            steps = (self.queries - 1) // (2 * self.pairs + 1)
            for step in range(steps):
                slope = self.momentum * slope + self._estimate(search, point, clean, generator)
                length = self.threat.eps * self.step * (1 - 0.9 * step / steps)
                point = self.threat.project(point + length * self.threat.direction(slope), clean)
                search.offer(point)
            return search.outcome(self.objective, target)

    def _estimate(self, search: Search, point: Tensor, clean: Tensor, generator: Generator) -> Tensor:
        """Mean over pairs of (score(+) - score(-)) times the direction; probes stay in the valid range."""
        slope = torch.zeros_like(point)
        for _ in range(self.pairs):
            noise = self._noise(point, generator)
            up, _ = search.look(self.threat.project(point + noise, clean))
            down, _ = search.look(self.threat.project(point - noise, clean))
            slope += per_row(up - down, point) * noise
        return slope / self.pairs

    def _noise(self, like: Tensor, generator: Generator) -> Tensor:
        """A probe of norm about sigma eps."""
        shape = tuple(like.shape)
        coarse = self.grid if like.dim() == 4 and 0 < self.grid < min(shape[2:]) else 0
        drawn = (*shape[:2], coarse, coarse) if coarse else shape
        noise = torch.randn(drawn, generator=generator, device=generator.device).to(like)
        if coarse:
            noise = functional.interpolate(noise, shape[2:], mode="nearest")
        if self.threat.norm == "l2":
            noise = noise / per_row(noise.flatten(1).norm(dim=1), like)
        return self.sigma * self.threat.eps * noise
