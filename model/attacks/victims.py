"""Models as attacks see them: a function from the attacked variable to logits, left as it was found.

`Expectation` and `StraightThrough` are the adaptive attacker's tools (algorithms.md section 6.1): whatever
runs at serving that is random is averaged over draws, whatever is not differentiable gets a surrogate slope.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from model.attacks.base import ModelFn
from model.hashers.base import CrossModalHasher


@runtime_checkable
class HasModule(Protocol):
    """A model function that tells which module it runs, so that `frozen` can guard it."""

    @property
    def module(self) -> nn.Module:
        """The module behind the function."""
        ...


@runtime_checkable
class PerRow(Protocol):
    """A model function that holds something per query (a text's mask) and can be cut to some of them."""

    def rows(self, index: Tensor | slice) -> ModelFn:
        """The same function for the queries `index`."""
        ...


@runtime_checkable
class HasMovable(Protocol):
    """A model function that knows which entries of its input count; the others stay as they are."""

    @property
    def movable(self) -> Tensor:
        """Bool, broadcasts to the input."""
        ...


@dataclass(frozen=True, eq=False)
class ImageModel:
    """RGB images (n, 3, S, S) in [0, 1] to logits (n, K) of a hasher's image tower."""

    hasher: CrossModalHasher

    @property
    def module(self) -> nn.Module:
        """The image tower."""
        return self.hasher.image_tower()

    def __call__(self, x: Tensor) -> Tensor:
        """Logits (n, K)."""
        logits: Tensor = self.module(x)
        return logits


@dataclass(frozen=True, eq=False)
class EmbeddingModel:
    """Embedded texts (n, L, D) to logits (n, K): the papers' text variable. mask: bool (n, L)."""

    hasher: CrossModalHasher
    mask: Tensor

    @classmethod
    def of(cls, hasher: CrossModalHasher, tokens: Tensor) -> tuple[EmbeddingModel, Tensor]:
        """The function for token ids (n, L), and their embeddings (n, L, D), which is what to attack."""
        tower = hasher.text_tower()
        with torch.no_grad():
            return cls(hasher, tower.mask(tokens)), tower.embed(tokens).detach()

    @property
    def module(self) -> nn.Module:
        """The text tower."""
        return self.hasher.text_tower()

    @property
    def movable(self) -> Tensor:
        """Bool (n, L, 1): padding does not move."""
        return self.mask.unsqueeze(-1)

    def rows(self, index: Tensor | slice) -> EmbeddingModel:
        """The function for some of the texts."""
        return EmbeddingModel(self.hasher, self.mask[index])

    def __call__(self, x: Tensor) -> Tensor:
        """Logits (n, K)."""
        return self.hasher.text_tower().from_embeddings(x, self.mask)


@dataclass(frozen=True, eq=False)
class Expectation:
    """Mean logits over `draws` runs of a random model (expectation over transformation)."""

    model_fn: ModelFn
    draws: int = 20

    @property
    def module(self) -> nn.Module:
        """What `model_fn` runs."""
        return module_of(self.model_fn) or nn.Identity()

    def __call__(self, x: Tensor) -> Tensor:
        """Mean logits (n, K)."""
        return torch.stack([self.model_fn(x) for _ in range(self.draws)]).mean(0)


@dataclass(frozen=True, eq=False)
class StraightThrough:
    """Values of `forward_fn`, slope of `slope_fn` (BPDA, Athalye et al. 2018), for gradientless steps."""

    forward_fn: ModelFn
    slope_fn: ModelFn

    @property
    def module(self) -> nn.Module:
        """What both run."""
        parts = [module_of(fn) for fn in (self.forward_fn, self.slope_fn)]
        return nn.ModuleList([part for part in parts if part is not None])

    def __call__(self, x: Tensor) -> Tensor:
        """Logits (n, K)."""
        slope = self.slope_fn(x)
        with torch.no_grad():
            gap = self.forward_fn(x) - slope
        return slope + gap


def module_of(model_fn: object) -> nn.Module | None:
    """The module behind a model function, or None when it does not tell."""
    if isinstance(model_fn, nn.Module):
        return model_fn
    return model_fn.module if isinstance(model_fn, HasModule) else None


@contextmanager
def frozen(model_fn: object, *, training: bool = False) -> Iterator[None]:
    """Evaluation mode and no parameter gradients inside; exactly the former state of each part after.

    So batch norm keeps its statistics, dropout is off, and autograd saves nothing for parameters. With
    `training` each part stays in the mode it is in, and batch norms keep their running statistics all the
    same: that is for attacks within training. A plain function whose module is unknown is called as it is.
    """
    module = module_of(model_fn)
    if module is None:
        yield
        return
    modes = [(part, part.training) for part in module.modules()]
    wanted = [(p, p.requires_grad) for p in module.parameters()]
    try:
        if not training:
            module.eval()
        for parameter, _ in wanted:
            parameter.requires_grad_(False)
        with statistics_kept(module):
            yield
    finally:
        for part, mode in modes:
            part.training = mode
        for parameter, required in wanted:
            parameter.requires_grad_(required)


@contextmanager
def statistics_kept(module: nn.Module) -> Iterator[None]:
    """Inside, batch norms in training mode normalise by the batch and leave running statistics alone."""
    norms = [part for part in module.modules() if isinstance(part, _BatchNorm) and part.training]
    tracking = [part.track_running_stats for part in norms]
    try:
        for part in norms:
            part.track_running_stats = False
        yield
    finally:
        for part, tracked in zip(norms, tracking, strict=True):
            part.track_running_stats = tracked


def rows_of(model_fn: ModelFn, index: Tensor | slice) -> ModelFn:
    """`model_fn` for some of the queries."""
    whole: object = model_fn
    return whole.rows(index) if isinstance(whole, PerRow) else model_fn


def movable_of(model_fn: object) -> Tensor | None:
    """Which entries may move, or None for all."""
    return model_fn.movable if isinstance(model_fn, HasMovable) else None
