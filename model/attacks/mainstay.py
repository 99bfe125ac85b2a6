"""The mainstay code (SAAT section 4, here over the codes of both modalities) and the objective it maximises.

For a query with labels y over reference codes {b_j, y_j}:
    m = sign( sum_j p_j b_j - sum_j n_j b_j )
p_j proportional to the cosine of (y, y_j) over the items that share a label, n_j uniform over those that
share none, each normalised to sum 1. It maximises psi(b) = sum_j n_j D(b, b_j) - sum_j p_j D(b, b_j) over
{-1, +1}^K, since D(b, b_j) = (K - <b, b_j>) / 2 makes psi linear in every bit. An empty set contributes 0.
Compare values of psi, not codes: a bit whose weights balance may be either (ours is +1).
"""

from __future__ import annotations

import torch
from torch import Tensor

from model.attacks.threat import TINY


def signs(x: Tensor) -> Tensor:
    """Floats -1/+1 of the shape of x, sign(0) = +1."""
    return torch.where(x >= 0, 1.0, -1.0).to(x.dtype if x.is_floating_point() else torch.float32)


def mainstay_weights(labels: Tensor, code_labels: Tensor) -> tuple[Tensor, Tensor]:
    """(p, n), each float (q, N) with rows that sum to 1, or to 0 where the set is empty.

    labels (q, C) and code_labels (N, C) are 0/1.
    """
    y, z = labels.float(), code_labels.float()
    shared = y @ z.T
    norms = y.norm(dim=1).unsqueeze(1) * z.norm(dim=1).unsqueeze(0)
    positive = _normalised(shared / norms.clamp(min=TINY))
    negative = _normalised((shared <= 0).float())
    return positive, negative


def mainstay_sum(labels: Tensor, codes: Tensor, code_labels: Tensor) -> Tensor:
    """sum_j p_j b_j - sum_j n_j b_j, float (q, K): its sign is the mainstay code."""
    positive, negative = mainstay_weights(labels, code_labels)
    return (positive - negative) @ codes.float()


def mainstay_codes(labels: Tensor, codes: Tensor, code_labels: Tensor) -> Tensor:
    """Mainstay codes -1/+1 (q, K) of labels (q, C) over reference codes (N, K) with labels (N, C)."""
    return signs(mainstay_sum(labels, codes, code_labels))


def psi(b: Tensor, labels: Tensor, codes: Tensor, code_labels: Tensor) -> Tensor:
    """The weighted Hamming objective (q,) of candidate codes b (q, K)."""
    positive, negative = mainstay_weights(labels, code_labels)
    distances = (codes.shape[1] - b.float() @ codes.float().T) / 2
    return ((negative - positive) * distances).sum(1)


def _normalised(weights: Tensor) -> Tensor:
    return weights / weights.sum(1, keepdim=True).clamp(min=TINY)
