"""Codes made from sets of codes: weighted means, votes, neighbours, prototypes."""

from __future__ import annotations

import torch
from torch import Tensor

from model.attacks.mainstay import signs
from model.attacks.threat import TINY

BLOCK = 4_000_000  # entries of a queries x references matrix handled at once


def hamming(a: Tensor, b: Tensor) -> Tensor:
    """Distances in bits, float (n, N), of codes -1/+1 (n, K) and (N, K)."""
    return (a.shape[1] - a.float() @ b.float().T) / 2


def ranked_mean(queries: Tensor, codes: Tensor, relevant: Tensor) -> Tensor:
    """Mean (n, K) of the relevant codes, the one at rank r among them weighing 1/r; NaN where none is.

    queries (n, K), codes (N, K), relevant bool (n, N). Items at one distance share their mean weight, so
    the order of the reference set does not matter.
    """
    blocks = max(1, BLOCK // max(len(codes), 1))
    starts = range(0, len(queries), blocks)
    parts = [_ranked_block(queries[i : i + blocks], codes, relevant[i : i + blocks]) for i in starts]
    return torch.cat(parts) if parts else queries.float()


def _ranked_block(queries: Tensor, codes: Tensor, relevant: Tensor) -> Tensor:
    bits = codes.shape[1]
    distance = hamming(queries, codes).round().long()
    counts = torch.zeros(len(queries), bits + 1, device=codes.device)
    counts.scatter_add_(1, distance, relevant.float())
    after = counts.cumsum(1)
    ranks = torch.arange(1, len(codes) + 1, device=codes.device, dtype=torch.float64)
    harmonic = torch.cat([ranks.new_zeros(1), ranks.reciprocal().cumsum(0)])
    inverse = harmonic[after.long()] - harmonic[(after - counts).long()]
    weight = (inverse / counts.clamp(min=1)).float().gather(1, distance) * relevant
    return weight @ codes.float() / weight.sum(1, keepdim=True)


def neighbour_mean(queries: Tensor, codes: Tensor, count: int) -> Tensor:
    """Mean (n, K) of the `count` codes of (N, K) nearest to each of (n, K)."""
    near = hamming(queries, codes).topk(min(count, len(codes)), dim=1, largest=False).indices
    return codes.float()[near].mean(1)


def voted_codes(codes: Tensor) -> Tensor:
    """Bitwise majority (n, K) of codes (n, M, K); a tie is +1."""
    return signs(codes.sum(1))


def prototype_codes(codes: Tensor, similar: Tensor, steps: int) -> Tensor:
    """Codes (n, K) near the similar ones of (N, K) and far from the others, by THA's pairwise likelihood.

    Minimises, over p in [-1, 1]^K, the mean over similar and the mean over dissimilar items of
    log(1 + exp(theta)) - s theta with theta = <p, b_j> / 2, by Adam-free normalised gradient steps: the
    problem is convex, and only signs of p are used. similar: bool (n, N); an empty set contributes 0.
    """
    b = codes.float()
    weights = similar.float() / similar.sum(1, keepdim=True).clamp(min=1)
    rest = (~similar).float() / (~similar).sum(1, keepdim=True).clamp(min=1)
    p = (weights - rest) @ b
    p = p / p.abs().amax(1, keepdim=True).clamp(min=TINY)
    for step in range(steps):
        theta = p @ b.T / 2
        slope = (weights + rest) * torch.sigmoid(theta) - weights
        gradient = slope @ b
        size = gradient.abs().amax(1, keepdim=True).clamp(min=TINY)
        p = (p - (1 - step / steps) * 0.2 * gradient / size).clamp(-1, 1)
    return signs(p)
