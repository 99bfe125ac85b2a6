"""The hashing objective: similarity, quantisation and balance terms over both modalities, weighted.

It is a part, not a trainer: an undefended model is trained by it alone, a defence calls it once more on
attacked or generated examples and adds its own terms.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from model.hashers.options import option
from model.losses.balance import bit_balance, bit_decorrelation
from model.losses.pairwise import PairwiseLikelihood
from model.losses.proxy import ProxyLikelihood
from model.losses.quantisation import quantisation
from model.losses.ranking import smooth_average_precision
from model.losses.similarity import shared_label


@dataclass(frozen=True)
class LossSettings:
    """The recipe's ``[loss]`` table: a weight per term (0 switches it off) and their first values."""

    inter: float = option(5.0, low=0.0, high=1e4)
    """Pairwise likelihood between an image and a text."""
    intra: float = option(5.0, low=0.0, high=1e4)
    """Pairwise likelihood within a modality."""
    pair_scale: float = option(10.0, low=1e-3, high=1e3)
    """First scale of the pairwise logits."""
    pair_offset: float = option(-3.0, low=-100.0, high=100.0)
    """First offset of the pairwise logits."""
    pair_binary: float = option(0.5, low=0.0, high=1.0)
    """Share of the pairwise terms that is taken on binary codes with straight-through gradients."""
    pair_balanced: bool = True
    """Whether relevant and irrelevant pairs of a batch weigh the same in sum."""
    proxy: float = option(1.0, low=0.0, high=1e4)
    """Likelihood of the labels given the cosines to the labels' centres, each modality."""
    proxy_scale: float = option(10.0, low=1e-3, high=1e3)
    """First scale of the cosines' logits."""
    quantisation: float = option(0.2, low=0.0, high=1e4)
    """Distance of relaxed codes from binary ones."""
    balance: float = option(0.0, low=0.0, high=1e4)
    """Squared mean of each bit."""
    decorrelation: float = option(0.0, low=0.0, high=1e4)
    """Squared covariance between bits."""
    ranking: float = option(0.0, low=0.0, high=1e4)
    """Smoothed average precision, image to text and text to image."""
    ranking_tau: float = option(0.05, low=1e-3, high=2.0)
    """Temperature of the smoothed ranking."""


@dataclass(frozen=True)
class Codes:
    """Relaxed codes of one batch: row i of each tensor belongs to item i.

    ``image`` and ``text`` are (n, K) in (-1, 1), 0 where the item lacks that modality; ``has_image`` and
    ``has_text`` are (n,) in {0, 1} and say so; ``labels`` is (n, C) multi-hot. All float, one device.
    """

    image: Tensor
    text: Tensor
    has_image: Tensor
    has_text: Tensor
    labels: Tensor


class HashObjective(nn.Module):
    """Named, weighted terms of the undefended hashing loss; see the terms' own modules for sources."""

    def __init__(self, settings: LossSettings, prior: Tensor, bits: int) -> None:
        """Build the terms; ``prior`` is (C,), the share of training items with each label."""
        super().__init__()
        self.settings = settings
        self.pair = PairwiseLikelihood(
            settings.pair_scale,
            settings.pair_offset,
            binary=settings.pair_binary,
            balanced=settings.pair_balanced,
        )
        self.proxy = ProxyLikelihood(prior, bits, settings.proxy_scale)

    def forward(self, codes: Codes) -> dict[str, Tensor]:
        """Weighted scalar terms by name; those with weight 0 are left out. Their sum is the loss."""
        s = self.settings
        terms = self._similarity(codes)
        sides = ((codes.image, codes.has_image), (codes.text, codes.has_text))
        if s.proxy:
            terms["proxy"] = s.proxy * _total(self.proxy(h, codes.labels, has) for h, has in sides)
        for name, weight, term in (
            ("quantisation", s.quantisation, quantisation),
            ("balance", s.balance, bit_balance),
            ("decorrelation", s.decorrelation, bit_decorrelation),
        ):
            if weight:
                terms[name] = weight * _total(term(h, has) for h, has in sides)
        return terms

    def _similarity(self, codes: Codes) -> dict[str, Tensor]:
        """Pairwise and ranking terms; an item is never its own neighbour within a modality."""
        s = self.settings
        relevant = shared_label(codes.labels)
        others = 1 - torch.eye(len(relevant), dtype=relevant.dtype, device=relevant.device)
        across = codes.has_image[:, None] * codes.has_text[None, :]
        terms = {}
        if s.inter:
            terms["inter"] = s.inter * self.pair(codes.image, codes.text, relevant, across)
        if s.intra:
            sides = ((codes.image, codes.has_image), (codes.text, codes.has_text))
            terms["intra"] = (
                0.5
                * s.intra
                * _total(self.pair(h, h, relevant, others * has[:, None] * has[None, :]) for h, has in sides)
            )
        if s.ranking:
            directions = ((codes.image, codes.text, across), (codes.text, codes.image, across.T))
            terms["ranking"] = s.ranking * _total(
                smooth_average_precision(u, v, relevant, seen, s.ranking_tau) for u, v, seen in directions
            )
        return terms


def _total(terms: Iterable[Tensor]) -> Tensor:
    """Their sum; an absent modality's term is 0 already."""
    return torch.stack(list(terms)).sum()
