"""Candidate side: an item of the database that is to rise (CA+) or sink (CA-) for given queries.

After Zhou et al., "Adversarial ranking attack and defense" (ECCV 2020). The attacked input is the item; the
target holds the M queries' codes and, per query, the distance that marks the wanted place in its list: rising
means coming within it, sinking means leaving it. A query whose place is reached pulls with a tenth of the
force: the relaxed distance only approximates the real one, so it must not let go entirely.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Generator, Tensor

from model.attacks.anchors import hamming
from model.attacks.base import Target
from model.attacks.knowledge import Knowledge
from model.errors import DataError


@dataclass(frozen=True)
class Raise:
    """CA+: into the first `place` hits of the given queries (by distance)."""

    place: int = 1
    slack: float = 1.0
    name: ClassVar[str] = "raise"
    targeted: ClassVar[bool] = True

    def target(self, knowledge: Knowledge, *, generator: Generator) -> Target:
        """The queries of Knowledge.paired (one per item) as targets, against its reference codes."""
        return candidate_target(_paired(knowledge).unsqueeze(1), knowledge.codes, self.place)

    def __call__(self, h: Tensor, target: Target) -> Tensor:
        """Minus the mean over queries of the bits still too many, per K."""
        distance, radii = _distances(h, target)
        return (_eased(radii - distance, self.slack) * target.weights).sum(1) / h.shape[1]


@dataclass(frozen=True)
class Sink:
    """CA-: out of the first `place` hits of the given queries (by distance)."""

    place: int = 100
    slack: float = 1.0
    name: ClassVar[str] = "sink"
    targeted: ClassVar[bool] = False

    def target(self, knowledge: Knowledge, *, generator: Generator) -> Target:
        """The queries of Knowledge.paired (one per item) as targets, against its reference codes."""
        return candidate_target(_paired(knowledge).unsqueeze(1), knowledge.codes, self.place)

    def __call__(self, h: Tensor, target: Target) -> Tensor:
        """Minus the mean over queries of the bits still too few, per K."""
        distance, radii = _distances(h, target)
        return (_eased(distance - radii, self.slack) * target.weights).sum(1) / h.shape[1]


def candidate_target(queries: Tensor, database: Tensor, place: int) -> Target:
    """Targets for n items from their queries' codes (n, M, K): radius of place `place` among (N, K) codes.

    Raises DataError when `place` is not in 1..N.
    """
    if not 1 <= place <= len(database):
        raise DataError(f"place: wanted 1 to {len(database)}, the size of the database, got {place}")
    n, m, bits = queries.shape
    distance = hamming(queries.reshape(n * m, bits), database)
    radii = distance.kthvalue(place, dim=1).values.view(n, m)
    return Target(queries.float(), torch.full((n, m), 1 / m, device=queries.device), radii)


def expected_ranks(item_codes: Tensor, queries: Tensor, database: Tensor) -> Tensor:
    """Expected rank (n, M), from 1, of items (n, K) for their queries (n, M, K) among other codes (N, K).

    Ties count half: the expectation over their orders. `database` must not hold the item itself.
    """
    n, m, bits = queries.shape
    own = (bits - (queries.float() * item_codes.float().unsqueeze(1)).sum(2)) / 2
    others = hamming(queries.reshape(n * m, bits), database).view(n, m, -1)
    nearer = (others < own.unsqueeze(2)).float() + 0.5 * (others == own.unsqueeze(2)).float()
    return 1 + nearer.sum(2)


def _eased(bits: Tensor, slack: float) -> Tensor:
    """Bits won (n, M), those past `slack` counting a tenth."""
    return bits.clamp(max=slack) + 0.1 * (bits - slack).clamp(min=0)


def _distances(h: Tensor, target: Target) -> tuple[Tensor, Tensor]:
    """Relaxed distances (n, M) of h (n, K) to the queries, and the radii."""
    if target.radii is None:
        raise DataError("candidate-side objectives need a target with radii (candidate_target), got none")
    bits = h.shape[1]
    return (bits - (target.codes * h.unsqueeze(1)).sum(2)) / 2, target.radii


def _paired(knowledge: Knowledge) -> Tensor:
    if knowledge.paired is None:
        raise DataError("candidate-side objectives need the queries' codes in `paired`, got none")
    return knowledge.paired.float()
