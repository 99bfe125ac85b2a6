"""The attacker who knows the attack score: one attack on the code and the score together (evaluation.md, 1).

`JointModel` gives the logits of the code and one number more, positive where the query would pass the
threshold; `Joint` is any objective that in addition pays for being suspicious. Both fit every attack of the
suite unchanged: the extra number goes through the same relaxation, its sign says "passes" as a bit's does.

    model_fn = JointModel(ImageModel(hasher), ImageScore(score), threshold)
    attack = pgd(threat, Joint(Mainstay()), random_start=False)
    outcome = attack(model_fn, x, target, generator=generator)

Small steps from the clean input: there a query passes. A random start, like the first step of APGD, is
noise, which the score sees at once, and few such attacks found back (docs/method.md).
`JointTextModel` is the same for attacks that change words.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor, nn

from model.attack_score import AttackScore
from model.attacks.base import ModelFn, Objective, Target
from model.attacks.knowledge import Knowledge
from model.attacks.text_model import BATCH, TextModel
from model.attacks.threat import TINY
from model.attacks.victims import module_of, movable_of, rows_of
from model.hashers.base import CrossModalHasher


@dataclass(frozen=True, eq=False)
class ImageScore:
    """Images (n, 3, S, S) in [0, 1] to attack scores (n,); differentiable."""

    score: AttackScore

    @property
    def module(self) -> nn.Module:
        """The encoders."""
        return self.score.encoders

    def __call__(self, x: Tensor) -> Tensor:
        """Scores (n,) >= 0."""
        return self.score.of_images(x)


@dataclass(frozen=True, eq=False)
class EmbeddingScore:
    """Embedded texts (n, L, D) with their mask bool (n, L) to attack scores (n,); differentiable."""

    score: AttackScore
    hasher: CrossModalHasher
    mask: Tensor

    @property
    def module(self) -> nn.Module:
        """The encoders."""
        return self.score.encoders

    def rows(self, index: Tensor | slice) -> EmbeddingScore:
        """The function for some of the texts."""
        return EmbeddingScore(self.score, self.hasher, self.mask[index])

    def __call__(self, x: Tensor) -> Tensor:
        """Scores (n,) >= 0."""
        return self.score.of_embeddings(self.hasher, x, self.mask)


@dataclass(frozen=True, eq=False)
class JointModel:
    """Logits (n, K) of `model_fn` and, as column K, `sharpness` * log(threshold / score).

    The last column is negative where the query is suspicious. `sharpness` brings it to the size of logits.
    The logarithm keeps a slope where the score is many times the threshold: 1 - score / threshold is far out
    on the relaxation's tanh there, and the attack would not find back.
    """

    model_fn: ModelFn
    score_fn: ModelFn
    threshold: float
    sharpness: float = 1.0

    @property
    def module(self) -> nn.Module:
        """What both run."""
        parts = [module_of(fn) for fn in (self.model_fn, self.score_fn)]
        return nn.ModuleList([part for part in parts if part is not None])

    @property
    def movable(self) -> Tensor | None:
        """What may move of the input; None for all."""
        return movable_of(self.model_fn)

    def rows(self, index: Tensor | slice) -> JointModel:
        """The function for some of the queries."""
        parts = (rows_of(self.model_fn, index), rows_of(self.score_fn, index))
        return JointModel(*parts, self.threshold, self.sharpness)

    def __call__(self, x: Tensor) -> Tensor:
        """Logits (n, K + 1)."""
        return with_passing(self.model_fn(x), self.score_fn(x), self.threshold, self.sharpness)


@dataclass(frozen=True, eq=False)
class JointTextModel(TextModel):
    """A text hasher whose logits (n, K + 1) have the column of `JointModel`, for word and typing attacks."""

    score: AttackScore
    threshold: float
    sharpness: float = 1.0

    def logits(self, texts: Sequence[str]) -> Tensor:
        """Logits (n, K + 1), without gradient."""
        parts = [torch.zeros(0, device=self.device)]
        with torch.no_grad():
            starts = range(0, len(texts), BATCH)
            parts += [self.score.of_tokens(self.hasher, self.tokens(texts[at : at + BATCH])) for at in starts]
        return with_passing(super().logits(texts), torch.cat(parts), self.threshold, self.sharpness)

    def read(self, embeddings: Tensor, mask: Tensor) -> Tensor:
        """Logits (n, K + 1) of embedded texts; differentiable."""
        scores = self.score.of_embeddings(self.hasher, embeddings, mask)
        return with_passing(super().read(embeddings, mask), scores, self.threshold, self.sharpness)


def with_passing(logits: Tensor, scores: Tensor, threshold: float, sharpness: float) -> Tensor:
    """Logits (n, K) with `sharpness` * log(threshold / score) as one column more: negative if suspicious."""
    passes = sharpness * torch.log(max(threshold, TINY) / scores.clamp(min=TINY))
    return torch.cat([logits, passes.unsqueeze(1)], dim=1)


@dataclass(frozen=True)
class Joint:
    """`objective` on the first K columns, less `weight` times how suspicious the last one is.

    With a weight above 2, the range of the objectives on codes, a query that passes always counts more than
    one that does not; below, an attacker trades one for the other.
    """

    objective: Objective
    weight: float = 3.0

    @property
    def name(self) -> str:
        """As "mainstay+score"."""
        return f"{self.objective.name}+score"

    @property
    def targeted(self) -> bool:
        """As the objective."""
        return self.objective.targeted

    def target(self, knowledge: Knowledge, *, generator: Generator) -> Target:
        """As the objective's: K bits, the score needs none."""
        return self.objective.target(knowledge, generator=generator)

    def __call__(self, h: Tensor, target: Target) -> Tensor:
        """One number per query (n,) of h (n, K + 1)."""
        return joint_objective(self.objective, h, target, self.weight)


def joint_objective(objective: Objective, h: Tensor, target: Target, weight: float) -> Tensor:
    """objective(h[:, :K]) + weight * min(h[:, K], 0), each (n,); h (n, K + 1) relaxed or signs."""
    bits = target.codes.shape[2]
    return objective(h[:, :bits], target) + weight * h[:, bits].clamp(max=0)
