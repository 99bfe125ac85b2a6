"""Rankings as counts per Hamming distance, which is all that a tie-aware metric needs.

Short codes share most of their distances: a query over 7,500 items at 64 bits has at most 65 distinct
ones. A ranking is therefore kept as an integer table "how many items of relevance grade g lie at distance
d", and every metric is computed on that table, as the expected value over all orders of the tied items.
NumPy only; memory is bounded by taking queries in blocks.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from model.errors import DataError

MAX_DISTANCE = 4096
"""Largest distance that is accepted; the table has one column per distance."""
MAX_GRADE = 255
"""Largest relevance grade (number of shared labels) that is accepted."""
_BLOCK_CELLS = 1 << 22  # query x item pairs handled at once: some 100 MB of temporaries


def hamming_distances(query_codes: NDArray[Any], database_codes: NDArray[Any]) -> NDArray[np.int32]:
    """Hamming distances in bits, int32 (q, n), between codes (q, K) and (n, K).

    Codes are bool, or signed numbers that are all -1 or +1. Unsigned integers are refused, because
    packed bytes would look the same. Raises DataError.
    """
    left, right = _packed(query_codes, "query codes"), _packed(database_codes, "database codes")
    if query_codes.shape[1] != database_codes.shape[1]:
        raise DataError(f"codes: wanted one width, got {query_codes.shape[1]} and {database_codes.shape[1]}")
    out = np.empty((len(left), len(right)), dtype=np.int32)
    for row, query in enumerate(left):
        np.sum(np.bitwise_count(right ^ query), axis=1, dtype=np.int32, out=out[row])
    return out


def _packed(codes: NDArray[Any], what: str) -> NDArray[np.uint64]:
    """Pack bool or +-1 codes (n, K) to words (n, ceil(K/64)), the last word filled up with zeros."""
    if codes.ndim != 2 or not codes.shape[1]:
        raise DataError(f"{what}: wanted an array (n, K), got {codes.shape}")
    if codes.dtype.kind not in "bif":
        raise DataError(f"{what}: wanted bool or signed -1/+1, got {codes.dtype}")
    if codes.dtype.kind != "b" and not np.all(np.abs(codes) == 1):
        raise DataError(f"{what}: wanted only -1 and +1 in {codes.dtype} codes")
    positive = codes if codes.dtype.kind == "b" else codes > 0
    width = -codes.shape[1] % 64
    return np.packbits(np.pad(positive, ((0, 0), (0, width))), axis=1).view(np.uint64)


def shared_labels(query_labels: NDArray[Any], database_labels: NDArray[Any]) -> NDArray[np.uint8]:
    """Number of labels that a query and an item share, uint8 (q, n), from multi-hot (q, L) and (n, L).

    It is the graded relevance of NDCG, and `> 0` is the project's relevance. Raises DataError.
    """
    if (
        query_labels.ndim != 2
        or database_labels.ndim != 2
        or query_labels.shape[1] != database_labels.shape[1]
    ):
        raise DataError(
            f"labels: wanted (q, L) and (n, L), got {query_labels.shape}, {database_labels.shape}"
        )
    if query_labels.shape[1] > MAX_GRADE:  # more than a byte could count: clip instead of wrapping round
        return np.minimum(_overlap(query_labels, database_labels), MAX_GRADE).astype(np.uint8)
    return _overlap(query_labels, database_labels).astype(np.uint8)


def _overlap(left: NDArray[Any], right: NDArray[Any]) -> NDArray[np.float32]:
    """Inner products of multi-hot rows as float32 (q, n): exact up to 2**24 shared labels."""
    return (left > 0).astype(np.float32) @ (right > 0).astype(np.float32).T


def check_pairs(distances: NDArray[Any], relevance: NDArray[Any]) -> None:
    """Raise DataError unless both are (q, n), distances are small counts and relevance is bool or grades."""
    if distances.ndim != 2 or distances.shape != relevance.shape:
        raise DataError(f"wanted distances and relevance (q, n), got {distances.shape} and {relevance.shape}")
    if distances.dtype.kind not in "iu":
        raise DataError(f"distances: wanted integers, got {distances.dtype}")
    if relevance.dtype.kind not in "biu":
        raise DataError(f"relevance: wanted bool or integer grades, got {relevance.dtype}")
    if distances.size and not 0 <= int(distances.min()) <= int(distances.max()) <= MAX_DISTANCE:
        raise DataError(f"distances: wanted 0..{MAX_DISTANCE}, got {distances.min()}..{distances.max()}")
    if relevance.size and not 0 <= int(relevance.min()) <= int(relevance.max()) <= MAX_GRADE:
        raise DataError(f"relevance: wanted 0..{MAX_GRADE}, got {relevance.min()}..{relevance.max()}")


def query_blocks(queries: int, items: int) -> Iterator[slice]:
    """Slices of queries whose pairs with all items fit the block limit."""
    step = max(1, _BLOCK_CELLS // max(1, items))
    for start in range(0, queries, step):
        yield slice(start, min(start + step, queries))


@dataclass(frozen=True, eq=False)
class Buckets:
    """The rankings of q queries as counts.

    counts: int32 (q, D + 1, G + 1); `counts[i, d, g]` items of relevance grade g lie at distance d from
    query i. Grade 0 is "not relevant"; without grades G is 1.
    """

    counts: NDArray[np.int32]

    @classmethod
    def from_codes(
        cls, query_codes: NDArray[Any], database_codes: NDArray[Any], relevance: NDArray[Any]
    ) -> Self:
        """Count codes (q, K) against (n, K) with relevance (q, n), bool or grades. Raises DataError."""
        if query_codes.ndim != 2 or database_codes.ndim != 2:
            raise DataError(
                f"codes: wanted (q, K) and (n, K), got {query_codes.shape} and {database_codes.shape}"
            )
        if relevance.shape != (len(query_codes), len(database_codes)):
            raise DataError(
                f"relevance: wanted {(len(query_codes), len(database_codes))}, got {relevance.shape}"
            )
        shape = (query_codes.shape[1] + 1, _grades(relevance))
        parts = [
            _count(hamming_distances(query_codes[rows], database_codes), relevance[rows], shape)
            for rows in query_blocks(*relevance.shape)
        ]
        return cls(np.concatenate(parts) if parts else np.zeros((0, *shape), dtype=np.int32))

    @classmethod
    def from_distances(cls, distances: NDArray[Any], relevance: NDArray[Any]) -> Self:
        """Count integer distances (q, n) with relevance (q, n), bool or grades. Raises DataError."""
        check_pairs(distances, relevance)
        shape = (int(distances.max(initial=0)) + 1, _grades(relevance))
        parts = [_count(distances[rows], relevance[rows], shape) for rows in query_blocks(*relevance.shape)]
        return cls(np.concatenate(parts) if parts else np.zeros((0, *shape), dtype=np.int32))

    @property
    def items(self) -> NDArray[np.int64]:
        """Items at each distance, int64 (q, D + 1)."""
        items: NDArray[np.int64] = self.counts.sum(axis=2, dtype=np.int64)
        return items

    @property
    def relevant(self) -> NDArray[np.int64]:
        """Relevant items at each distance, int64 (q, D + 1)."""
        relevant: NDArray[np.int64] = self.counts[:, :, 1:].sum(axis=2, dtype=np.int64)
        return relevant

    @property
    def totals(self) -> NDArray[np.int64]:
        """Relevant items of each query, int64 (q,)."""
        totals: NDArray[np.int64] = self.counts[:, :, 1:].sum(axis=(1, 2), dtype=np.int64)
        return totals


def _grades(relevance: NDArray[Any]) -> int:
    """Number of relevance grades, the irrelevant one included; at least two."""
    return max(1, int(relevance.max(initial=0))) + 1


def _count(distances: NDArray[Any], relevance: NDArray[Any], shape: tuple[int, int]) -> NDArray[np.int32]:
    """Count one block of queries into int32 (q, *shape) with a single pass of `bincount`."""
    check_pairs(distances, relevance)
    queries = len(distances)
    key = distances.astype(np.int64) * shape[1]
    key += relevance
    key += np.arange(queries)[:, None] * (shape[0] * shape[1])
    counts = np.bincount(key.ravel(), minlength=queries * shape[0] * shape[1])
    return counts.reshape(queries, *shape).astype(np.int32)
