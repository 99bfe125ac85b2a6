"""How logits become the relaxed code that gradients flow through.

tanh saturates: a trained hasher's logits are often beyond 9, where 1 - tanh^2 is exactly 0 in float32, and an
attack that differentiates through it stands still and flatters the model. HAG (Yang et al. 2018) anneals
h = tanh(alpha z) from alpha = 0.1 up. Ours takes the scale from the logits themselves, so it needs no
constant per model, and ends sharper than the model's own tanh: a bit far from zero is then left alone, and
the budget goes to bits that can turn. Trials on one undefended small CNN favoured it over the plain tanh for
the mainstay and not for the own code at 8/255, so every second restart is half as sharp; what that
alternation gains was not measured.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from model.attacks.threat import TINY
from model.errors import RecipeError

Kind = Literal["sharpened", "tanh", "annealed", "logits"]
KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclass(frozen=True)
class Relaxation:
    """Logits (n, K) to what the objective's gradient is taken of.

    sharpened: tanh(a z / s), s the root mean square of the query's logits (a constant to the gradient) and a
    rising over the attack from `first` to `last`. tanh: the model's own h. annealed: HAG's tanh(alpha z),
    alpha rising from 0.1 to 1. logits: z / s, linear. Raises RecipeError.
    """

    kind: Kind = "sharpened"
    first: float = 1.0
    last: float = 6.0

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise RecipeError(f"relaxation: wanted one of {', '.join(KINDS)}, got {self.kind!r}")
        if not 0 < self.first <= self.last:
            raise RecipeError(f"sharpness: wanted 0 < first <= last, got {self.first!r} and {self.last!r}")

    def of_restart(self, restart: int) -> Relaxation:
        """This for even restarts, half as sharp for odd ones: different starts, different compromises."""
        if restart % 2 == 0 or self.kind != "sharpened":
            return self
        return Relaxation(self.kind, self.first / 2, self.last / 2)

    def __call__(self, logits: Tensor, progress: float) -> Tensor:
        """Relaxed codes (n, K) at `progress` in [0, 1] of the attack."""
        if self.kind == "tanh":
            return torch.tanh(logits)
        if self.kind == "annealed":
            return torch.tanh(logits * (0.1 + 0.9 * progress))
        scaled = logits / logits.detach().square().mean(1, keepdim=True).sqrt().clamp(min=TINY)
        if self.kind == "logits":
            return scaled
        return torch.tanh((self.first + (self.last - self.first) * progress) * scaled)
