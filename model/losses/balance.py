"""Each bit split half and half, and no bit a copy of another."""

import torch
from torch import Tensor


def _mean(h: Tensor, present: Tensor) -> Tensor:
    """(K,) mean code of the present rows of (n, K)."""
    return (h * present[:, None]).sum(0) / present.sum().clamp(min=1)


def bit_balance(h: Tensor, present: Tensor) -> Tensor:
    """Mean over bits of the squared mean of the bit: 0 when every bit is +1 as often as -1.

    DCMH's balance term (Jiang, Li, CVPR 2017, eq. 1, third line), as a mean so that its weight is
    independent of batch and code length.

    Args:
        h: (n, K) relaxed codes in (-1, 1).
        present: (n,) in {0, 1}; rows at 0 do not count.

    """
    return _mean(h, present).square().mean()


def bit_decorrelation(h: Tensor, present: Tensor) -> Tensor:
    """Mean squared off-diagonal covariance of bits: 0 when no two bits move together.

    The uncorrelated-bits constraint of spectral hashing (Weiss, Torralba, Fergus, NIPS 2008) as a
    penalty on centred codes. 0 for a code of one bit.

    Args:
        h: (n, K) relaxed codes in (-1, 1).
        present: (n,) in {0, 1}; rows at 0 do not count.

    """
    centred = (h - _mean(h, present)) * present[:, None]
    covariance = centred.T @ centred / present.sum().clamp(min=1)
    off = covariance - torch.diag(torch.diagonal(covariance))
    bits = h.shape[1]
    return off.square().sum() / max(bits * (bits - 1), 1)
