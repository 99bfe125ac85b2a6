"""What the inner attack moves: one modality's rows of a batch, and the tower that reads them.

Towers run in the run's precision; logits and everything after them are float32.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from model.attacks.base import ModelFn
from model.attacks.threat import Threat
from model.attacks.victims import EmbeddingModel, ImageModel
from model.hashers.base import CrossModalHasher


@dataclass(frozen=True, eq=False)
class InPrecision:
    """A tower in the run's precision, logits in float32; `of` is what it wraps."""

    of: ImageModel | EmbeddingModel
    autocast: Callable[[], AbstractContextManager[None]]

    @property
    def module(self) -> nn.Module:
        """The tower."""
        return self.of.module

    def rows(self, index: Tensor | slice) -> "InPrecision":
        """The same for some of the inputs."""
        return self

    def __call__(self, x: Tensor) -> Tensor:
        """Logits (n, K)."""
        with self.autocast():
            logits = self.of(x)
        return logits.float()


@dataclass(frozen=True, eq=False)
class TextsInPrecision(InPrecision):
    """The same where some entries stay as they are."""

    of: EmbeddingModel

    @property
    def movable(self) -> Tensor:
        """Bool (n, L, 1): padding does not move."""
        return self.of.movable

    def rows(self, index: Tensor | slice) -> "TextsInPrecision":
        """The same for some of the texts."""
        return TextsInPrecision(self.of.rows(index), self.autocast)


@dataclass(frozen=True, eq=False)
class Side:
    """One modality of a batch: the rows that have it, what moves (m, ...), away from which codes (m, K).

    ``model_fn`` gives their logits; ``threat`` is this step's ball.
    """

    name: str
    rows: Tensor
    x: Tensor
    anchors: Tensor
    model_fn: ModelFn
    threat: Threat


def embedded(hasher: CrossModalHasher, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Embeddings (n, L, D) and mask (n, L); D is 0 without a text tower."""
    if hasher.text is None:
        return torch.zeros(*tokens.shape, 0, device=tokens.device), torch.zeros_like(tokens, dtype=torch.bool)
    model_fn, embeddings = EmbeddingModel.of(hasher, tokens)
    return embeddings, model_fn.mask


def some_rows(whole: Tensor, rows: Tensor) -> Tensor:
    """Some rows; all of them are not copied."""
    return whole if len(rows) == len(whole) else whole[rows]
