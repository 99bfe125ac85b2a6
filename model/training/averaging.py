"""Exponential moving average of a model's weights and batch-norm statistics."""

import copy
from typing import Generic, TypeVar

import torch
from torch import nn

Model = TypeVar("Model", bound=nn.Module)


class Averaged(Generic[Model]):
    """A second copy of a model that follows it slowly and usually retrieves better than the last step.

    The decay starts low, ``min(decay, (1 + t) / (10 + t))`` at update t, so that the random start is
    forgotten quickly. Floating-point state (weights, running statistics) is averaged, the rest copied.
    """

    def __init__(self, model: Model, decay: float) -> None:
        """Start as a copy of ``model``; ``decay`` in [0, 1), 0 just follows."""
        self.decay = decay
        self.model: Model = copy.deepcopy(model).eval().requires_grad_(False)

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Take one step of ``model`` in; ``step`` counts from 1."""
        decay = min(self.decay, (1 + step) / (10 + step)) if self.decay else 0.0
        ours, theirs = self.model.state_dict(), model.state_dict()
        moving = [name for name, value in ours.items() if value.is_floating_point()]
        torch._foreach_lerp_([ours[n] for n in moving], [theirs[n] for n in moving], 1 - decay)
        for name in ours.keys() - set(moving):
            ours[name].copy_(theirs[name])
