"""Exact search by NumPy over some rows: for filters, deep pages, and where an engine cannot order ties."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from index.codes import CodeArray, hamming

_BLOCK = 1 << 18  # codes at once: keeps a scan's memory below some 10 MB

Keep = Callable[[NDArray[np.int32], NDArray[np.int64]], NDArray[np.bool_]]


def scan(
    codes: CodeArray,
    query: NDArray[np.uint8],
    k: int,
    rows: NDArray[np.int64] | None = None,
    keep: Keep | None = None,
) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Return distances and rows of the k nearest codes by (distance, row).

    codes: uint8 (n, B). query: uint8 (B,). rows: ascending rows to look at (None: all).
    keep: which of (distances, rows) may be results (None: all).
    """
    best = np.zeros(0, dtype=np.int32), np.zeros(0, dtype=np.int64)
    total = len(codes) if rows is None else len(rows)
    for start in range(0, total, _BLOCK):
        stop = min(start + _BLOCK, total)
        at = np.arange(start, stop) if rows is None else rows[start:stop]
        part = codes[start:stop] if rows is None else codes[at]
        distances = hamming(query[None], part)[0]
        if keep is not None:
            kept = keep(distances, at)
            distances, at = distances[kept], at[kept]
        best = _first(np.concatenate([best[0], distances]), np.concatenate([best[1], at]), k)
    return best


def _first(
    distances: NDArray[np.int32], rows: NDArray[np.int64], k: int
) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Return the first k by (distance, row); equal distances must already be in row order."""
    if len(distances) > k:
        near = distances <= np.partition(distances, k - 1)[k - 1]
        distances, rows = distances[near], rows[near]
    order = np.argsort(distances, kind="stable")[:k]
    return distances[order], rows[order]
