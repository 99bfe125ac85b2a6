"""Hash layers and the fixed-feature trunk: what follows a representation, the same for both modalities."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

DROPOUT = 0.1


def hash_layer(width: int, hidden: int, bits: int) -> nn.Module:
    """(n, width) -> logits (n, bits); one linear map when `hidden` is 0, else two with a ReLU between.

    The two-layer form is batch-normed before each use and lightly dropped out: representations that are
    pooled from several depths differ in scale by orders of magnitude, and a plain layer follows the largest.
    """
    if hidden == 0:
        return nn.Linear(width, bits)
    return nn.Sequential(
        nn.BatchNorm1d(width),
        nn.Linear(width, hidden, bias=False),
        nn.BatchNorm1d(hidden),
        nn.ReLU(),
        nn.Dropout(DROPOUT),
        nn.Linear(hidden, bits),
    )


def feature_trunk(dim: int, hidden: int) -> nn.Module:
    """Precomputed vectors (n, dim) -> representation (n, hidden), layer-normed so that any scale trains."""
    return nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, hidden), nn.ReLU())


def channel_buffer(values: tuple[float, ...]) -> Tensor:
    """Three per-channel numbers as (1, 3, 1, 1), to broadcast over images (n, 3, S, S); raises ValueError."""
    if len(values) != 3:
        raise ValueError(f"wanted three numbers, one per channel, got {len(values)}")
    return torch.tensor(values, dtype=torch.float32).view(1, 3, 1, 1)


@contextmanager
def drawing_from(generator: torch.Generator) -> Iterator[None]:
    """Lend `generator` to the constructors in the block, which know only torch's default generator.

    Within the block the default CPU generator continues `generator`'s stream; afterwards `generator` has
    moved on and the default generator is as it was. So initial weights follow from an argument and the
    process keeps its own randomness. Not safe beside another thread that draws from the default one.
    """
    before = torch.get_rng_state()
    torch.set_rng_state(generator.get_state())
    try:
        yield
    finally:
        generator.set_state(torch.get_rng_state())
        torch.set_rng_state(before)
