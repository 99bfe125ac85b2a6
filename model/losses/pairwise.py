"""Pairwise likelihood of relevance on inner products of codes."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model.losses.quantisation import straight_through


class PairwiseLikelihood(nn.Module):
    """Negative log-likelihood of "these two are relevant" given their codes' inner product.

    With ``phi = exp(a) * <u, v> / K + b`` the term of a pair is ``log(1 + exp(phi)) - s * phi``: the
    likelihood of DPSH (Li, Wang, Kang, IJCAI 2016, eq. 3) and, across modalities, of DCMH (Jiang, Li,
    CVPR 2017, eq. 1). They fix ``phi = <u, v> / 2``; the learnt scale ``exp(a)`` and offset ``b`` are
    ours in the manner of SigLIP (Zhai et al., ICCV 2023): dividing by K makes one recipe fit every code
    length.

    ``binary`` of the loss is taken on binary codes with straight-through gradients (see
    `straight_through`), the rest on relaxed ones: what is compared at serving is then what was trained.
    With ``balanced``, relevant and irrelevant pairs of a batch weigh one half each.
    """

    def __init__(self, scale: float, offset: float, *, binary: float = 0.0, balanced: bool = False) -> None:
        """Start at ``phi = scale * <u, v> / K + offset``; both are learnt (scale > 0, on a log axis).

        Args:
            scale: first value of ``exp(a)``.
            offset: first value of ``b``.
            binary: share of the loss on binary codes, in [0, 1].
            balanced: whether both kinds of pairs weigh the same in sum.

        """
        super().__init__()
        self.binary, self.balanced = binary, balanced
        self.log_scale = nn.Parameter(torch.tensor(math.log(scale)))
        self.offset = nn.Parameter(torch.tensor(float(offset)))

    def forward(self, u: Tensor, v: Tensor, relevant: Tensor, counted: Tensor) -> Tensor:
        """Weighted mean over the counted pairs; 0 when none counts.

        Args:
            u: (n, K) relaxed codes in (-1, 1).
            v: (m, K) relaxed codes in (-1, 1).
            relevant: (n, m) in {0, 1}.
            counted: (n, m) in {0, 1}; 0 hides pairs with a missing modality and an item paired with itself.

        """
        weights = balance(relevant, counted) if self.balanced else counted
        total = torch.zeros((), dtype=u.dtype, device=u.device)
        if self.binary < 1:
            total = total + (1 - self.binary) * self._mean(u, v, relevant, weights)
        if self.binary > 0:
            total = total + self.binary * self._mean(
                straight_through(u), straight_through(v), relevant, weights
            )
        return total

    def _mean(self, u: Tensor, v: Tensor, relevant: Tensor, weights: Tensor) -> Tensor:
        """Weighted mean of the pairs' terms."""
        logits = self.log_scale.exp() * (u @ v.T) / u.shape[1] + self.offset
        each = F.binary_cross_entropy_with_logits(logits, relevant, reduction="none")
        return (each * weights).sum() / weights.sum().clamp(min=1e-12)


def balance(relevant: Tensor, counted: Tensor) -> Tensor:
    """Weights (n, m) with which relevant and irrelevant counted pairs sum to one half each.

    A kind that no pair has weighs nothing; then the other's half is the whole.
    """
    hits, misses = relevant * counted, (1 - relevant) * counted
    return 0.5 * hits / hits.sum().clamp(min=1) + 0.5 * misses / misses.sum().clamp(min=1)
