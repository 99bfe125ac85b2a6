"""Attacks that see answers only: what the service shows, the search's book-keeping, and random noise.

`CodeFeedback` is the attacker that reads the returned code, or the distances of the hits: with the codes of
the items it knows, either gives the objective on whole bits and nothing of the relaxed code. `RankFeedback`
sees only which ids came back in which order. Every evaluation of the model counts as a query, the first
look at the clean input included.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Generator, Tensor

from model.attacks.anchors import hamming
from model.attacks.base import AttackOutcome, CodeCriterion, Criterion, ModelFn, Objective, Target
from model.attacks.loop import SATURATED, Best, per_row
from model.attacks.mainstay import signs
from model.attacks.threat import Threat
from model.attacks.victims import frozen
from model.errors import RecipeError

Score = Callable[[Tensor], Tensor]
"""Logits (n, K) of the same n queries -> what the attacker makes of the answers, (n,), larger is better."""


class Feedback(Protocol):
    """What the attacker sees of an answer."""

    @property
    def name(self) -> str:
        """Either code or ranks."""
        ...

    def open(self, clean: Tensor, target: Target) -> Score:
        """The score for a batch whose clean inputs gave logits `clean` (n, K)."""
        ...


@dataclass(frozen=True)
class CodeFeedback:
    """The objective of the returned code, in steps of whole bits."""

    objective: Objective
    name: ClassVar[str] = "code"

    def open(self, clean: Tensor, target: Target) -> Score:
        """The objective on codes."""
        return lambda logits: self.objective(signs(logits), target)


@dataclass(frozen=True, eq=False)
class RankFeedback:
    """How far the list of the first k ids has left the clean one: 1 - overlap, the first ranks weighing most.

    gallery: codes (N, K) of the items the service searches; the attacker never reads them, they stand for
    the service. Ties are broken by row, as by id. Rank r of the clean list weighs 1 / log2(r + 1), and its
    item counts by where it stands in the new list in the same way, so that losing places shows too.
    """

    gallery: Tensor
    k: int = 50
    name: ClassVar[str] = "ranks"

    def open(self, clean: Tensor, target: Target) -> Score:
        """Compares with the lists that the clean queries got."""
        k = min(self.k, len(self.gallery))
        gains = 1 / torch.log2(torch.arange(2, k + 2, device=clean.device, dtype=torch.float32))
        first = self._list(clean, k)

        def score(logits: Tensor) -> Tensor:
            gained = torch.zeros(len(logits), len(self.gallery), device=logits.device)
            gained.scatter_(1, self._list(logits, k), gains.expand(len(logits), k))
            kept = gained.gather(1, first).minimum(gains) * gains
            return 1 - kept.sum(1) / gains.square().sum()

        return score

    def _list(self, logits: Tensor, k: int) -> Tensor:
        """Rows of the gallery (n, k) in the order served: distance, then row."""
        distance = hamming(signs(logits), self.gallery).double()
        rows = torch.arange(len(self.gallery), device=logits.device) / (len(self.gallery) + 1)
        return (distance + rows).topk(k, dim=1, largest=False).indices


@dataclass(eq=False)
class Search:
    """A search in progress: where it stands, what it was told, what it has spent.

    now: current points; score: (n,) feedback there; best: by the criterion, over all points evaluated.
    """

    model_fn: ModelFn
    score_of: Score
    judge: Callable[[Tensor], tuple[Tensor, Tensor]]
    now: Tensor
    score: Tensor
    best: Best | None
    clean_loss: Tensor
    saturated: Tensor
    history: list[Tensor]
    spent: int = 1

    def look(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Feedback (n,) on x and its logits; one query each."""
        with torch.no_grad():
            logits = self.model_fn(x)
        self.spent += 1
        if self.best is not None:
            self.best.keep(x, *self.judge(logits))
        return self.score_of(logits), logits

    def offer(self, x: Tensor) -> None:
        """Look at x and go there where the feedback is no worse: plateaus of whole bits must be crossed."""
        score, _ = self.look(x)
        better = score >= self.score
        self.now = torch.where(per_row(better, x), x, self.now)
        self.score = torch.where(better, score, self.score)
        self.history.append(self.score)

    def outcome(self, objective: Objective, target: Target) -> AttackOutcome:
        """The current points, or the best by the evaluator's criterion when one was given."""
        if self.best is not None:
            x, value, loss = self.best.x, self.best.value, self.best.loss
        else:
            with torch.no_grad():  # the evaluator's look, not a query of the attacker
                logits = self.model_fn(self.now)
            x, value, loss = self.now, self.score, objective(signs(logits), target)
        n = len(x)
        spent = torch.full((n,), self.spent, dtype=torch.int64)
        none = torch.zeros_like(spent)
        curve = torch.stack(self.history).unsqueeze(0)
        zero = torch.zeros(n, device=x.device)
        return AttackOutcome(x, value, loss, self.clean_loss, spent, none, zero, self.saturated, curve)


def begin(
    model_fn: ModelFn,
    x: Tensor,
    target: Target,
    feedback: Feedback,
    objective: Objective,
    criterion: Criterion | None,
) -> Search:
    """A search that has asked for the clean inputs; call it inside `frozen`."""
    x = x.detach()
    with torch.no_grad():
        logits = model_fn(x)

    def judge(z: Tensor) -> tuple[Tensor, Tensor]:
        return (criterion or CodeCriterion(objective))(z, target), objective(signs(z), target)

    value, loss = judge(logits)
    score_of = feedback.open(logits, target)
    score = score_of(logits)
    best = Best(x, value, loss) if criterion is not None else None
    saturated = (torch.tanh(logits).abs() > SATURATED).float().mean(1)
    return Search(model_fn, score_of, judge, x, score, best, loss, saturated, [score])


@dataclass(frozen=True)
class NoiseAttack:
    """Random points of the budget, no search: with one draw that draw, with many the best by the criterion.

    One draw is what an unlucky client would send, kept even when it helps the query; with many the clean
    input counts too. Raises RecipeError when draws < 1.
    """

    threat: Threat
    objective: Objective
    draws: int = 1

    def __post_init__(self) -> None:
        if self.draws < 1:
            raise RecipeError(f"draws: wanted a whole number >= 1, got {self.draws!r}")

    @property
    def name(self) -> str:
        """As "noise:mainstay"."""
        return f"noise:{self.objective.name}"

    def __call__(
        self,
        model_fn: ModelFn,
        x: Tensor,
        target: Target,
        *,
        generator: Generator,
        criterion: Criterion | None = None,
    ) -> AttackOutcome:
        """Draw around x (n, ...)."""
        chosen = criterion or CodeCriterion(self.objective)
        with frozen(model_fn):
            search = begin(model_fn, x, target, CodeFeedback(self.objective), self.objective, chosen)
            best = search.best
            for draw in range(self.draws):
                noisy = self.threat.draw(search.now, generator)
                score, logits = search.look(noisy)
                search.history.append(score)
                if self.draws == 1 and not draw:
                    best = Best(noisy, *search.judge(logits))
        search.best = best
        return search.outcome(self.objective, target)
