"""An attack over many queries in batches of a size that memory bears, and outcomes joined again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

import torch
from torch import Generator, Tensor

from model.attacks.base import Attack, AttackOutcome, Criterion, ModelFn, Target
from model.attacks.victims import rows_of

Progress = Callable[[int, int], None]
"""Called with (queries done, queries in all)."""

CriterionOf = Callable[[slice], Criterion]
"""The criterion for a slice of the queries, for criteria that hold something per query (their relevance)."""


@dataclass(frozen=True)
class Batching:
    """How to go through the queries: `size` at a time, by what criterion (None: the attack's own)."""

    size: int = 64
    criterion_of: CriterionOf | None = None
    progress: Progress | None = None


def attack_in_batches(
    attack: Attack,
    model_fn: ModelFn,
    x: Tensor,
    target: Target,
    *,
    generator: Generator,
    batching: Batching | None = None,
) -> AttackOutcome:
    """Attack x (n, ...) a batch at a time, in order, with one generator."""
    how = batching or Batching()
    parts: list[AttackOutcome] = []
    for start in range(0, len(x), how.size):
        rows = slice(start, min(start + how.size, len(x)))
        criterion = how.criterion_of(rows) if how.criterion_of else None
        part = attack(
            rows_of(model_fn, rows), x[rows], target.rows(rows), generator=generator, criterion=criterion
        )
        parts.append(part)
        if how.progress:
            how.progress(rows.stop, len(x))
    if not parts:
        return attack(model_fn, x, target, generator=generator)
    return join_outcomes(parts)


def join_outcomes(parts: Sequence[AttackOutcome]) -> AttackOutcome:
    """One outcome of several batches' (n is the last axis of the curve, the first of all else)."""
    joined = {
        field.name: torch.cat(
            [getattr(part, field.name) for part in parts], dim=-1 if field.name == "curve" else 0
        )
        for field in fields(AttackOutcome)
    }
    return AttackOutcome(**joined)
