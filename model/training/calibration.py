"""What a Hamming distance means: the probability that a hit at that distance is relevant.

Fitted on pairs of held-out items (model/training/validation.py) by isotonic regression, pool adjacent
violators (Ayer et al., Annals of Mathematical Statistics 26, 1955): among all non-increasing functions of
the distance the one with the greatest likelihood. The probability holds for a random pair of items like
the training data's; in a corpus with another share of relevant items it shifts accordingly.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

FEWEST_PAIRS = 100
"""Pairs below which a task gets no calibration."""


def fit_decreasing(values: NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """The non-increasing sequence with the least weighted squared distance from ``values``.

    Args:
        values: (n,).
        weights: (n,), all > 0.

    """
    blocks: list[tuple[float, float, int]] = []  # mean, weight, length
    for value, weight in zip(values.tolist(), weights.tolist(), strict=True):
        mean, total, length = value, weight, 1
        while blocks and blocks[-1][0] < mean:
            before, heavier, longer = blocks.pop()
            mean = (before * heavier + mean * total) / (heavier + total)
            total, length = total + heavier, length + longer
        blocks.append((mean, total, length))
    return np.repeat([b[0] for b in blocks], [b[2] for b in blocks]).astype(np.float64)


def calibrate(
    distances: NDArray[np.int32], relevant: NDArray[np.bool_], bits: int
) -> tuple[float, ...] | None:
    """P(relevant | distance) for distances 0..bits, non-increasing; None for too few pairs.

    Distances that no pair has are filled in on a line between their neighbours, and with the nearest value
    at the ends.

    Args:
        distances: (q, m); entries above ``bits`` are no pairs and do not count.
        relevant: (q, m).
        bits: code length.

    """
    counted = distances <= bits
    if int(counted.sum()) < FEWEST_PAIRS:
        return None
    pairs = np.bincount(distances[counted], minlength=bits + 1).astype(np.float64)
    hits = np.bincount(distances[counted & relevant], minlength=bits + 1).astype(np.float64)
    seen = np.flatnonzero(pairs)
    fitted = fit_decreasing(hits[seen] / pairs[seen], pairs[seen])
    filled = np.interp(np.arange(bits + 1), seen, fitted)
    # Interpolation may round by the last bit; the promise of monotony is exact.
    return tuple(float(p) for p in np.minimum.accumulate(np.clip(filled, 0.0, 1.0)))


def calibration_table(
    pairs: Mapping[str, tuple[NDArray[np.int32], NDArray[np.bool_]]], bits: int
) -> dict[str, list[float]]:
    """Calibration by task; tasks with too few pairs are left out."""
    found = {}
    for task, (distances, relevant) in pairs.items():
        fitted = calibrate(distances, relevant, bits)
        if fitted is not None:
            found[task] = list(fitted)
    return found
