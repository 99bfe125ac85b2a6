"""Aims of attacks on image and text queries; registry.OBJECTIVES names them.

All of them reduce to one weighted code per query, and share one formula: `away` from it, or towards it
(away from its negative). They differ in what that code is and in when a bit counts as done (`margin`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Generator, Tensor

from model.attacks.anchors import neighbour_mean, prototype_codes, ranked_mean, voted_codes
from model.attacks.base import Target
from model.attacks.knowledge import Knowledge, draw_rows, shared_labels
from model.attacks.mainstay import mainstay_codes
from model.errors import DataError


def away(h: Tensor, anchor: Tensor, margin: float) -> Tensor:
    """Mean over bits of the weighted, capped disagreement of h (n, K) with anchor (n, K): (n,), maximised.

    A set of codes with weights summing to 1 and mean c has the share (1 + c) / 2 of +1 at a bit. Each of its
    codes b contributes min(-h b, margin) there: past the margin a bit is wrong enough and pulls no more,
    which leaves the budget to the others. With margin 1 this is -<h, c> / K.
    """
    if margin >= 1.0:
        return -(h * anchor).mean(1)
    plus = (1 + anchor) / 2 * torch.clamp(-h, max=margin)
    minus = (1 - anchor) / 2 * torch.clamp(h, max=margin)
    return (plus + minus).mean(1)


@dataclass(frozen=True)
class OwnCode:
    """HAG (Yang et al. 2018, "Adversarial examples for Hamming space search"): away from one's own code.

    HAG drops bits with h b below its threshold -0.5, which is `margin`; it needs no labels.
    """

    margin: float = 0.5
    name: ClassVar[str] = "own-code"
    targeted: ClassVar[bool] = False

    def target(self, knowledge: Knowledge, *, generator: Generator) -> Target:
        """The clean codes."""
        return Target.single(knowledge.clean.float())

    def __call__(self, h: Tensor, target: Target) -> Tensor:
        """In [-1, margin]."""
        return away(h, target.anchor, self.margin)


@dataclass(frozen=True)
class Smart:
    """SDHA (Lu et al., ICMR 2021): away from the relevant items, the nearest weighing most, bit by bit.

    From the paper: a dimension-wise surrogate of the Hamming distance (`margin`), several relevant items at
    once, weights after what their rank does to AP. Ours: the weight of rank r is 1/r, and all relevant items
    of the reference set count. A query without relevant items moves away from its own code.
    """

    margin: float = 0.5
    name: ClassVar[str] = "sdha"
    targeted: ClassVar[bool] = False

    def target(self, knowledge: Knowledge, *, generator: Generator) -> Target:
        """Weighted mean of the relevant codes, by rank from the clean code."""
        mean = ranked_mean(knowledge.clean, knowledge.codes, knowledge.relevant())
        return Target.single(torch.where(mean.isnan(), knowledge.clean.float(), mean))

    def __call__(self, h: Tensor, target: Target) -> Tensor:
        """In [-1, 1]."""
        return away(h, target.anchor, self.margin)


@dataclass(frozen=True)
class Mainstay:
    """SAAT's attack: away from the mainstay code, argmin <h, m> / K."""

    margin: float = 1.0
    name: ClassVar[str] = "mainstay"
    targeted: ClassVar[bool] = False

    def target(self, knowledge: Knowledge, *, generator: Generator) -> Target:
        """Mainstay codes of the query's labels over the reference codes of both modalities."""
        return Target.single(mainstay_codes(knowledge.labels, knowledge.codes, knowledge.code_labels))

    def __call__(self, h: Tensor, target: Target) -> Tensor:
        """In [-1, 1]."""
        return away(h, target.anchor, self.margin)


@dataclass(frozen=True)
class CrossModal:
    """CMLA-like (Li et al., NeurIPS 2019): away from the partner's code and its neighbours'.

    No labels: the `neighbours` codes of the other modality nearest to the partner's code stand for what is
    relevant, with half of the weight; the partner itself has the other half.
    """

    neighbours: int = 20
    margin: float = 0.5
    name: ClassVar[str] = "cross-modal"
    targeted: ClassVar[bool] = False

    def target(self, knowledge: Knowledge, *, generator: Generator) -> Target:
        """Mean of the partner's code and its neighbours'; raises DataError without a paired side."""
        if knowledge.paired is None:
            raise DataError("the cross-modal attack needs `paired` codes of the other modality, got none")
        paired = knowledge.paired.float()
        if knowledge.other_side is None or not len(knowledge.other_side):
            return Target.single(paired)
        near = neighbour_mean(paired, knowledge.other_side, self.neighbours)
        return Target.single((paired + near) / 2)

    def __call__(self, h: Tensor, target: Target) -> Tensor:
        """In [-1, 1]."""
        return away(h, target.anchor, self.margin)


@dataclass(frozen=True)
class PointToPoint:
    """P2P (in Bai et al., ECCV 2020): towards the code of one random item that has a goal label."""

    name: ClassVar[str] = "p2p"
    targeted: ClassVar[bool] = True

    def target(self, knowledge: Knowledge, *, generator: Generator) -> Target:
        """The code of that item."""
        return Target.single(goal_codes(knowledge, 1, generator)[:, 0])

    def __call__(self, h: Tensor, target: Target) -> Tensor:
        """In [-1, 1]."""
        return away(h, -target.anchor, 1.0)


@dataclass(frozen=True)
class Voting:
    """DHTA (Bai et al., ECCV 2020): towards the anchor, the bitwise vote of `votes` goal items (9 there)."""

    votes: int = 9
    name: ClassVar[str] = "dhta"
    targeted: ClassVar[bool] = True

    def target(self, knowledge: Knowledge, *, generator: Generator) -> Target:
        """The anchor code."""
        return Target.single(voted_codes(goal_codes(knowledge, self.votes, generator)))

    def __call__(self, h: Tensor, target: Target) -> Tensor:
        """In [-1, 1]."""
        return away(h, -target.anchor, 1.0)


@dataclass(frozen=True)
class Prototype:
    """THA-like (Wang et al., AAAI 2021): towards a prototype code learned from the goal labels.

    THA trains a network from labels to prototypes with the pairwise likelihood of similar and dissimilar
    codes; ours minimises the same likelihood over the prototype itself (anchors.prototype_codes).
    """

    steps: int = 50
    name: ClassVar[str] = "tha"
    targeted: ClassVar[bool] = True

    def target(self, knowledge: Knowledge, *, generator: Generator) -> Target:
        """The prototype codes."""
        similar = shared_labels(knowledge.wanted_goals(), knowledge.code_labels)
        return Target.single(prototype_codes(knowledge.codes, similar, self.steps))

    def __call__(self, h: Tensor, target: Target) -> Tensor:
        """In [-1, 1]."""
        return away(h, -target.anchor, 1.0)


@dataclass(frozen=True)
class TargetedMainstay:
    """SAAT's targeted form: towards the mainstay code of the goal labels."""

    name: ClassVar[str] = "targeted-mainstay"
    targeted: ClassVar[bool] = True

    def target(self, knowledge: Knowledge, *, generator: Generator) -> Target:
        """The mainstay codes of the goals."""
        goals = knowledge.wanted_goals()
        return Target.single(mainstay_codes(goals, knowledge.codes, knowledge.code_labels))

    def __call__(self, h: Tensor, target: Target) -> Tensor:
        """In [-1, 1]."""
        return away(h, -target.anchor, 1.0)


def goal_codes(knowledge: Knowledge, count: int, generator: Generator) -> Tensor:
    """Codes (n, count, K) of random reference items that share a goal label, if possible none of the query's.

    Raises DataError when no reference item has a goal label.
    """
    goals = knowledge.wanted_goals()
    reached = shared_labels(goals, knowledge.code_labels)
    missing = torch.nonzero(~reached.any(1)).flatten()
    if len(missing):
        raise DataError(f"no reference item has a goal label of query {int(missing[0])}")
    pure = reached & ~knowledge.relevant()
    allowed = torch.where(pure.any(1, keepdim=True), pure, reached)
    return knowledge.codes.float()[draw_rows(allowed, count, generator)]
