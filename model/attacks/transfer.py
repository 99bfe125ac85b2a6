"""Transfer: made on a surrogate that the attacker trained itself, tried on the victim.

The aim is chosen from what the surrogate's own codes say; the victim is asked only to judge. With several
surrogates the best per query for the victim is kept, which is what an attacker with that many tries gets.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Generator, Tensor

from model.attacks.base import Attack, AttackOutcome, CodeCriterion, Criterion, ModelFn, Target
from model.attacks.loop import Best
from model.attacks.mainstay import signs
from model.attacks.victims import frozen
from model.errors import DataError


@dataclass(frozen=True, eq=False)
class Surrogate:
    """A model of the attacker's, with the targets its own codes gave."""

    model_fn: ModelFn
    target: Target


def transfer(
    attack: Attack,
    surrogates: Sequence[Surrogate],
    victim: ModelFn,
    x: Tensor,
    target: Target,
    *,
    generator: Generator,
    criterion: Criterion | None = None,
) -> AttackOutcome:
    """Attack each surrogate, judge on `victim` with its own `target`; one victim query per surrogate.

    The outcome's value and losses are the victim's; its queries count the victim's evaluations (and the one
    of the clean input), its gradients and curve are those of the last surrogate. Raises DataError without
    a surrogate.
    """
    if not surrogates:
        raise DataError("transfer needs at least one surrogate, got none")
    judge = criterion or CodeCriterion(attack.objective)

    def look(point: Tensor) -> tuple[Tensor, Tensor]:
        with frozen(victim), torch.no_grad():
            logits = victim(point)
        return judge(logits, target), attack.objective(signs(logits), target)

    value, clean_loss = look(x)
    best = Best(x, value, clean_loss)
    tries = [attack(s.model_fn, x, s.target, generator=generator) for s in surrogates]
    for made in tries:
        best.keep(made.x_adv, *look(made.x_adv))
    queries = torch.full((len(x),), 1 + len(surrogates), dtype=torch.int64)
    return replace(
        tries[-1], x_adv=best.x, value=best.value, loss=best.loss, clean_loss=clean_loss, queries=queries
    )
