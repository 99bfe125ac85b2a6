"""Square-like random search (Andriushchenko et al., ECCV 2020) on codes or on returned ranks.

Changes from the paper: whole bits make plateaus, so a proposal that is no worse is accepted (there: strictly
better); the L2 form moves a square's worth of the perturbation and projects, instead of the paper's
redistribution of mass.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from model.attacks.base import AttackOutcome, Criterion, ModelFn, Objective, Target
from model.attacks.blackbox import Feedback, Search, begin
from model.attacks.loop import per_row
from model.attacks.threat import Threat
from model.attacks.victims import frozen
from model.errors import DataError, RecipeError

HALVINGS = (0.001, 0.005, 0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8)
"""Shares of the queries after which a square's area halves (the paper's, for any number of queries)."""


@dataclass(frozen=True)
class SquareAttack:
    """`queries` evaluations in all; squares cover `area` of the image at first. Images (n, C, H, W) only.

    Raises RecipeError for queries < 2 or an area outside (0, 1].
    """

    threat: Threat
    objective: Objective
    feedback: Feedback
    queries: int = 1000
    area: float = 0.3

    def __post_init__(self) -> None:
        if self.queries < 2 or not 0 < self.area <= 1:
            raise RecipeError(f"wanted queries >= 2 and area in (0, 1], got {self.queries} and {self.area}")

    @property
    def name(self) -> str:
        """As "square:mainstay", or "ranks:..." with ids only."""
        method = "ranks" if self.feedback.name == "ranks" else "square"
        return f"{method}:{self.objective.name}"

    def __call__(
        self,
        model_fn: ModelFn,
        x: Tensor,
        target: Target,
        *,
        generator: Generator,
        criterion: Criterion | None = None,
    ) -> AttackOutcome:
        """Attack images x; raises DataError when they are not (n, C, H, W)."""
        if x.dim() != 4:
            raise DataError(f"squares need images (n, C, H, W), got shape {tuple(x.shape)}")
        with frozen(model_fn):
            search = begin(model_fn, x, target, self.feedback, self.objective, criterion)
            clean = search.now
            stripes = _signs((len(x), x.shape[1], 1, x.shape[3]), x, generator).expand_as(x)
            search.offer(self._moved(clean, clean, stripes, torch.ones_like(x[:, :1], dtype=torch.bool)))
            while search.spent < self.queries:
                search.offer(self._propose(search, clean, generator))
            return search.outcome(self.objective, target)

    def _propose(self, search: Search, clean: Tensor, generator: Generator) -> Tensor:
        """The current points with one square each overwritten by +-eps per channel."""
        n, channels, height, width = clean.shape
        share = self.area / 2 ** sum(search.spent / self.queries > after for after in HALVINGS)
        side = max(1, min(round((share * height * width) ** 0.5), height, width))
        place = torch.rand(n, 2, generator=generator, device=generator.device).to(clean.device)
        top = (place[:, 0] * (height - side + 1)).floor().view(n, 1, 1, 1)
        left = (place[:, 1] * (width - side + 1)).floor().view(n, 1, 1, 1)
        rows = torch.arange(height, device=clean.device).view(1, 1, -1, 1)
        columns = torch.arange(width, device=clean.device).view(1, 1, 1, -1)
        inside = (rows >= top) & (rows < top + side) & (columns >= left) & (columns < left + side)
        return self._moved(search.now, clean, _signs((n, channels, 1, 1), clean, generator), inside)

    def _moved(self, now: Tensor, clean: Tensor, sign: Tensor, inside: Tensor) -> Tensor:
        """`now` with the perturbation inside the square replaced by `sign` at full strength."""
        if self.threat.norm == "linf":
            return self.threat.project(torch.where(inside, clean + self.threat.eps * sign, now), clean)
        cells = (inside.expand_as(clean).flatten(1).sum(1)).clamp(min=1).to(clean.dtype)
        strength = per_row(self.threat.eps / cells.sqrt(), clean)
        return self.threat.project(now + torch.where(inside, strength * sign, 0.0), clean)


def _signs(shape: tuple[int, ...], like: Tensor, generator: Generator) -> Tensor:
    """Random -1/+1."""
    draw = torch.randint(0, 2, shape, generator=generator, device=generator.device)
    return (draw * 2 - 1).to(like)
