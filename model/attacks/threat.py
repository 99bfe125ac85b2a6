"""What an attacker may do: a ball around the input, the valid range, and nothing else.

Images are RGB in [0, 1] before any preprocessing, so 8/255 is 8 grey levels (field code that scales pixels
to [-1, 1] halves the budget without saying so). Embedded texts have no valid range, and their budget is in
units of the root mean square of the model's own embedding table, so that no model defends itself by growing
its norms (`embedding_threat`).
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from math import inf, isfinite, sqrt
from typing import Literal, get_args

import torch
from torch import Generator, Tensor

from model.errors import RecipeError
from model.hashers.base import TextTower

Norm = Literal["linf", "l2"]
NORMS: tuple[Norm, ...] = get_args(Norm)

TINY = 1e-12  # below this a gradient or a perturbation has no direction


@dataclass(frozen=True)
class Threat:
    """All x' with ||x' - x|| <= eps in `norm` (per query, over all its entries) and low <= x' <= high.

    Raises RecipeError for an unknown norm, a negative or infinite eps, or an empty range.
    """

    norm: Norm = "linf"
    eps: float = 8 / 255
    low: float = 0.0
    high: float = 1.0

    def __post_init__(self) -> None:
        if self.norm not in NORMS:
            raise RecipeError(f"norm: wanted one of {', '.join(NORMS)}, got {self.norm!r}")
        if not (isfinite(self.eps) and self.eps >= 0):
            raise RecipeError(f"eps: wanted a number >= 0, got {self.eps!r}")
        if not self.low < self.high:
            raise RecipeError(f"range: wanted low < high, got {self.low!r} and {self.high!r}")

    def size(self, delta: Tensor) -> Tensor:
        """Norm (n,) of perturbations (n, ...)."""
        flat = delta.flatten(1)
        if self.norm == "linf":
            return flat.abs().amax(1) if flat.shape[1] else flat.new_zeros(len(flat))
        size: Tensor = torch.linalg.vector_norm(flat, dim=1)
        return size

    def project(self, x_adv: Tensor, x: Tensor) -> Tensor:
        """The point of ball and range nearest to `x_adv` (L-inf), or in both and near it (L2).

        For L2 the scaling comes first and the clamp after it. With `x` in the range the clamp only brings
        entries nearer to `x`, so the result stays in the ball.
        """
        if self.norm == "linf":
            delta = (x_adv - x).clamp(-self.eps, self.eps)
        else:
            delta = x_adv - x
            scale = (self.eps / self.size(delta).clamp(min=TINY)).clamp(max=1.0)
            delta = delta * _per_row(scale, x)
        return (x + delta).clamp(self.low, self.high)

    def direction(self, gradient: Tensor) -> Tensor:
        """Steepest ascent of norm 1 per query: the sign (L-inf) or the unit vector (L2); 0 where it is 0."""
        if self.norm == "linf":
            return gradient.sign()
        # By the largest entry first: squares of gradients below 1e-19 would vanish in float32.
        largest = gradient.flatten(1).abs().amax(1)
        scaled = gradient / _per_row(largest.clamp(min=torch.finfo(gradient.dtype).tiny), gradient)
        return scaled / _per_row(self.size(scaled).clamp(min=TINY), gradient)

    def draw(self, x: Tensor, generator: Generator, movable: Tensor | None = None) -> Tensor:
        """Random point: uniform in the L-inf ball, or a uniform radius along a random direction (L2).

        `movable` (broadcasts to x) is false at entries that stay (padding). Drawn on the generator's
        device, so that one seed gives one attack whatever the device of `x`.
        """
        if self.norm == "linf":
            noise = uniform(x, generator) * 2 - 1
            scale: Tensor | float = self.eps
        else:
            noise = torch.randn(x.shape, generator=generator, device=generator.device, dtype=x.dtype).to(x)
            radius = torch.rand(len(x), generator=generator, device=generator.device, dtype=x.dtype).to(x)
            scale = _per_row(self.eps * radius, x)
        if movable is not None:
            noise = noise * movable
        if self.norm == "l2":
            noise = noise / _per_row(torch.linalg.vector_norm(noise.flatten(1), dim=1).clamp(min=TINY), x)
        return self.project(x + scale * noise, x)

    def contains(self, x_adv: Tensor, x: Tensor, tolerance: float = 1e-5) -> Tensor:
        """Bool (n,): within ball and range up to `tolerance` (relative to the ball for L2)."""
        slack = tolerance * max(1.0, self.eps) if self.norm == "l2" else tolerance
        inside = self.size(x_adv - x) <= self.eps + slack
        flat = x_adv.flatten(1)
        return inside & ((flat >= self.low) & (flat <= self.high)).all(1)


def uniform(like: Tensor, generator: Generator) -> Tensor:
    """Uniform [0, 1) of the shape, type and device of `like`, drawn on the generator's device."""
    return torch.rand(like.shape, generator=generator, device=generator.device, dtype=like.dtype).to(like)


def embedding_threat(tower: TextTower, eps: float, tokens: int, norm: Norm = "linf") -> Threat:
    """The papers' text budget in units of `tower.embedding_rms()`: eps per entry (L-inf).

    For L2 the radius is eps times the norm that `tokens` average token vectors have together, so that both
    norms mean "this share of the text's own size".
    """
    scale = tower.embedding_rms()
    if norm == "l2":
        scale *= sqrt(max(tokens, 1) * tower.embedding_width)
    return Threat(norm, eps * scale, -inf, inf)


def parse_eps(text: str) -> float:
    """A budget as people write it, "8/255" or "0.031"; raises RecipeError."""
    try:
        value = float(Fraction(text.strip()))
    except (ValueError, ZeroDivisionError) as error:
        raise RecipeError(f"eps: wanted a number or a fraction such as 8/255, got {text!r}") from error
    if value < 0:
        raise RecipeError(f"eps: wanted a number >= 0, got {text!r}")
    return value


def _per_row(values: Tensor, like: Tensor) -> Tensor:
    """Values (n,) shaped to multiply `like` (n, ...) row by row."""
    return values.view(-1, *[1] * (like.dim() - 1))
