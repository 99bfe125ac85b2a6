"""Defences that are broken on purpose: modules around a trained image tower, each hiding something else.

Every one of them looks robust to the attack that it was built against, and none is. The gates must say so:
`TABLE` names what a wrapper does, `wrapped` puts it around a subject's tower. All are deterministic for a
seed, apart from the one whose point is that it is not.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional

from model.attacks.subjects import Subject
from model.hashers.base import CrossModalHasher


class Wrapped(nn.Module):
    """A tower behind something; it keeps the interface that attacks and encoder use."""

    def __init__(self, tower: nn.Module) -> None:
        super().__init__()
        self.tower = tower
        self.bits = tower.bits

    def forward(self, x: Tensor) -> Tensor:
        return self.tower(x)


class SignLogits(Wrapped):
    """The code itself instead of logits: the same bits, and a gradient of zero."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.sign(self.tower(x))


class DetachedInput(Wrapped):
    """Cuts the graph at the input: no gradient at all."""

    def forward(self, x: Tensor) -> Tensor:
        return self.tower(x.detach())


class RandomResize(Wrapped):
    """Shrinks the picture by a random factor and puts it at a random place, anew each time."""

    def __init__(self, tower: nn.Module, seed: int = 0) -> None:
        super().__init__(tower)
        self.generator = torch.Generator().manual_seed(seed)

    def forward(self, x: Tensor) -> Tensor:
        return self.tower(_shrunk(x, torch.rand(3, generator=self.generator).tolist()))


class SeededResize(Wrapped):
    """The same, seeded by the picture: two runs agree, and every step of an attack meets another size."""

    def forward(self, x: Tensor) -> Tensor:
        rows = []
        for row in range(len(x)):
            seed = int((x[row].detach() * 255).sum().item() * 64) % (2**31)
            draws = torch.rand(3, generator=torch.Generator().manual_seed(seed)).tolist()
            rows.append(_shrunk(x[row : row + 1], draws))
        return self.tower(torch.cat(rows))


class ShatteredSlope(Wrapped):
    """A staircase of `levels` steps with a faint sawtooth on it: every slope is there, and wrong."""

    def __init__(self, tower: nn.Module, levels: int = 16, tooth: float = 0.05) -> None:
        super().__init__(tower)
        self.levels, self.tooth = levels, tooth

    def extra_repr(self) -> str:
        return f"levels={self.levels}, tooth={self.tooth}"

    def forward(self, x: Tensor) -> Tensor:
        scaled = x * self.levels
        step = scaled.detach().floor()
        inside = scaled - step
        return self.tower((step + 0.5 - self.tooth * (inside - 0.5)) / self.levels)


class GradientInside(Wrapped):
    """Moves the picture so that its own code gets surer, by gradients taken while it answers."""

    def forward(self, x: Tensor) -> Tensor:
        with torch.inference_mode(False), torch.enable_grad():
            variable = x.detach().clone().requires_grad_(True)
            sureness = torch.tanh(self.tower(variable)).square().mean()
            (slope,) = torch.autograd.grad(sureness, variable)
        return self.tower((x + 4 / 255 * slope.sign()).clamp(0, 1))


class SmoothedInSecret(Wrapped):
    """Smooths the picture unless somebody records gradients: the attacker is shown another model."""

    def forward(self, x: Tensor) -> Tensor:
        return self.tower(x if torch.is_grad_enabled() else functional.avg_pool2d(x, 3, 1, 1))


class SmoothedWhenNoisy(Wrapped):
    """Replaces a picture that looks noisy by its coarse mean, with a hard threshold that has no slope.

    A small perturbation goes through, a large one is smoothed away: mAP rises with the budget.
    """

    def __init__(self, tower: nn.Module, threshold: float = 0.03, cell: int = 4) -> None:
        super().__init__(tower)
        self.threshold, self.cell = threshold, cell

    def extra_repr(self) -> str:
        return f"threshold={self.threshold}, cell={self.cell}"

    def forward(self, x: Tensor) -> Tensor:
        rough = (x - functional.avg_pool2d(x, 3, 1, 1)).abs().flatten(1).median(1).values
        coarse = functional.avg_pool2d(x, self.cell)
        smooth = functional.interpolate(coarse, x.shape[2:], mode="bilinear").detach()
        return self.tower(torch.where((rough > self.threshold).view(-1, 1, 1, 1), smooth, x))


class WholeLevelsOnly(Wrapped):
    """Rounds to whole grey levels, and passes a slope only where the input is on one already.

    The first step from the clean picture sees the slope; a random start, and so every later step, sees none.
    """

    def forward(self, x: Tensor) -> Tensor:
        levels = (x.detach() * 255).round()
        on_level = ((x.detach() * 255 - levels).abs() < 1e-3).to(x)
        return self.tower(levels / 255 + on_level * (x - x.detach()))


class BatchStatistics(Wrapped):
    """Takes half of the batch's mean picture away: an attack is made in company, a client comes alone."""

    def forward(self, x: Tensor) -> Tensor:
        return self.tower(x + 0.5 * (0.5 - x.mean(0, keepdim=True)))


Wrapper = Callable[[nn.Module], nn.Module]

TABLE: Mapping[str, tuple[Wrapper, str]] = {
    "sign without gradient": (SignLogits, "the tower gives signs instead of logits: the gradient is zero"),
    "detached input": (DetachedInput, "the graph is cut at the input: there is no gradient"),
    "random resize": (RandomResize, "a random size and place each time"),
    "resize seeded by the picture": (SeededResize, "a size and place that depend on the picture"),
    "shattered slope": (ShatteredSlope, "a staircase with a sawtooth whose slope points the wrong way"),
    "gradients inside": (GradientInside, "an optimisation while it answers"),
    "smoothed in secret": (SmoothedInSecret, "smooths unless gradients are recorded"),
    "smoothed when noisy": (SmoothedWhenNoisy, "replaces noisy pictures by a coarse mean, without slope"),
    "slope on whole levels only": (WholeLevelsOnly, "rounds, with a slope only on whole grey levels"),
    "batch statistics": (BatchStatistics, "a code depends on what else is in the batch"),
}
"""Name -> (wrapper, what it does)."""


def wrapped(subject: Subject, name: str) -> Subject:
    """The subject with its image tower behind the broken defence `name`; its weights are shared."""
    wrapper, _ = TABLE[name]
    hasher = subject.hasher
    broken = CrossModalHasher(wrapper(hasher.image_tower()), hasher.text).eval()
    return replace(subject, hasher=broken)


def _shrunk(x: Tensor, draws: list[float]) -> Tensor:
    """x shrunk to 70 to 100 % of its side, placed on grey; `draws` are three numbers in [0, 1)."""
    side = x.shape[-1]
    small = max(1, round(side * (0.7 + 0.3 * draws[0])))
    left, top = (int(draw * (side - small + 1)) for draw in draws[1:])
    picture = functional.interpolate(x, (small, small), mode="bilinear")
    return functional.pad(picture, (left, side - small - left, top, side - small - top), value=0.5)
