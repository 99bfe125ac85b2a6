"""Adversarial weight perturbation: train at the worst point near the weights, not at the weights.

Wu, Xia, Wang, "Adversarial Weight Perturbation Helps Robust Generalization" (NeurIPS 2020, arXiv
2004.05884, section 4): each layer moves by gamma times its own norm along the gradient of the adversarial
loss, the losses and gradients are taken there, and the weights come back before the optimiser's step. One
extra forward and backward pass.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from model.attacks.threat import TINY
from model.attacks.victims import statistics_kept
from model.defences.base import StepState
from model.hashers.base import CrossModalHasher


def perturb(hasher: CrossModalHasher, state: StepState, loss: Callable[[], Tensor], size: float) -> None:
    """Move the hasher's matrices by ``size`` of their norms up ``loss`` until ``state.held`` is closed.

    Vectors (biases, norms) and frozen parameters stay, as in the authors' implementation. The direction is
    the mean of all processes'. ``loss`` is run once, with running statistics kept.
    """
    moved: list[Tensor] = [p for p in hasher.parameters() if p.requires_grad and p.ndim > 1]
    with statistics_kept(hasher):
        slopes = torch.autograd.grad(loss(), moved, materialize_grads=True)
    flat = torch.cat([slope.flatten() for slope in slopes])
    parts = torch.split(state.gather(flat[None]).mean(0), [p.numel() for p in moved])
    deltas = []
    for parameter, part in zip(moved, parts, strict=True):
        norm = parameter.detach().norm()
        deltas.append(size * norm * part.view_as(parameter) / part.norm().clamp(min=TINY))
    state.held.enter_context(_shifted(moved, deltas))


@contextmanager
def _shifted(parameters: list[Tensor], deltas: list[Tensor]) -> Iterator[None]:
    """The parameters plus ``deltas`` inside, and exactly as they were after."""
    before = [p.detach().clone() for p in parameters]
    with torch.no_grad():
        for parameter, delta in zip(parameters, deltas, strict=True):
            parameter.add_(delta)
    try:
        yield
    finally:
        with torch.no_grad():
            for parameter, kept in zip(parameters, before, strict=True):
                parameter.copy_(kept)
