"""Relaxed codes and the binary ones that are stored."""

import torch
from torch import Tensor


def quantisation(h: Tensor, present: Tensor) -> Tensor:
    """Mean of ``(|h| - 1)^2`` over bits and present rows: DPSH's eq. 5 with b = sign(h), per bit.

    Args:
        h: (n, K) relaxed codes in (-1, 1).
        present: (n,) in {0, 1}; rows at 0 do not count. 0 when none is present.

    """
    each = (h.abs() - 1).square().mean(1)
    return (each * present).sum() / present.sum().clamp(min=1)


def straight_through(h: Tensor) -> Tensor:
    """Binary codes in {-1, +1} whose gradient is that of ``h`` itself; sign(0) = +1.

    The straight-through estimator (Bengio, Leonard, Courville, arXiv 1308.3432) as used for hashing in
    Greedy Hash (Su et al., NeurIPS 2018): what is measured is the stored code, what moves is ``h``.
    """
    return h + (torch.where(h >= 0, 1.0, -1.0).to(h.dtype) - h).detach()
