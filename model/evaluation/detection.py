"""How well a score tells attacked queries from benign ones: AUROC with an interval, shares above a threshold.

AUROC is the chance that an attacked query scores above a benign one, ties counting half (the Mann-Whitney
statistic over both counts): 0.5 says nothing, below 0.5 the attacked ones look *less* suspicious.
"""

from __future__ import annotations

from math import sqrt

import numpy as np
from numpy.typing import NDArray

from model.errors import DataError

Floats = NDArray[np.float64]

SAMPLES = 2000
LEVEL = 0.95
_Z = 1.959963984540054  # two-sided 95 % quantile of the normal distribution


def auroc(benign: Floats, attacked: Floats) -> float:
    """Chance that an attacked score (m,) is above a benign one (n,), ties half; raises DataError."""
    _check(benign, attacked)
    order = np.sort(benign)
    below = np.searchsorted(order, attacked, side="left") + np.searchsorted(order, attacked, side="right")
    return float(below.mean() / (2 * len(benign)))


def auroc_interval(
    benign: Floats, attacked: Floats, rows: NDArray[np.int64], *, seed: int, samples: int = SAMPLES
) -> tuple[float, float]:
    """95 % percentile interval of `auroc` by a bootstrap over queries.

    attacked (m,) are the scores of the queries `rows` (m,) after the attack, benign (n,) those of all before
    it. A drawn query brings both of its scores, so that easy and hard queries do not count as independent
    noise. Draws without any attacked query are passed over. Raises DataError.
    """
    _check(benign, attacked)
    if len(rows) != len(attacked) or not ((rows >= 0) & (rows < len(benign))).all():
        raise DataError(f"wanted a row below {len(benign)} for each of {len(attacked)} attacked queries")
    # wins (m, n): 1 where the attacked query scores above the benign one, 1/2 where they tie.
    wins = (np.sign(attacked[:, None] - benign[None, :]) + 1) / 2
    rng = np.random.default_rng(seed)
    counts = rng.multinomial(len(benign), np.full(len(benign), 1 / len(benign)), size=samples)
    counts = counts[counts[:, rows].any(1)]
    drawn = counts[:, rows].astype(np.float64)
    found = ((drawn @ wins) * counts).sum(1) / (drawn.sum(1) * len(benign))
    low, high = np.quantile(found, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def share_above(scores: Floats, threshold: float) -> float:
    """Share of scores (n,) above the threshold, as the service counts them; raises DataError without any."""
    _check(scores)
    return float((scores > threshold).mean())


def share_interval(share: float, n: int) -> tuple[float, float]:
    """95 % interval of a share of n independent draws (Wilson 1927), which holds for shares near 0 too."""
    if n < 1:
        raise DataError(f"wanted at least one draw, got {n}")
    middle = (share + _Z**2 / (2 * n)) / (1 + _Z**2 / n)
    half = _Z / (1 + _Z**2 / n) * sqrt(share * (1 - share) / n + _Z**2 / (4 * n**2))
    return max(0.0, min(share, middle - half)), min(1.0, max(share, middle + half))


def _check(*groups: Floats) -> None:
    for scores in groups:
        if scores.ndim != 1 or not len(scores) or not np.isfinite(scores).all():
            raise DataError(f"wanted finite scores (n,), n >= 1, got {scores.dtype} {scores.shape}")
