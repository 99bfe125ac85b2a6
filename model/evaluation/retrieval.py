"""Retrieval metrics for Hamming rankings, as expected values over the orders of tied distances.

With 16 to 64 bits most distances are shared, and a metric that lets the sort decide moves by tens of
points (design notes: mAP@50 between the worst and the best order of ties 0.32-0.70 at 16 bits). All
metrics here but the two named after other people's code are the mean over all orders of the tied items,
each equally likely, in closed form (compare McSherry and Najork, "Computing information retrieval
performance measures efficiently in the presence of tied scores", ECIR 2008).

Definitions. R is the number of relevant items of a query, rel_i is 1 when rank i is relevant, P@i the
precision at rank i.
    AP@k = (1 / min(R, k)) * sum over i <= k of rel_i * P@i        (k = n without a cut-off)
A query without relevant items has no AP: it is excluded, counted, and NaN among the values.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from model.errors import DataError
from model.evaluation.buckets import Buckets, check_pairs, hamming_distances, query_blocks

Gain = Literal["linear", "exponential"]


@dataclass(frozen=True, eq=False)
class Scores:
    """One metric over queries.

    values: float64 (q,), aligned with the queries, NaN where the query is excluded.
    mean: mean over the `n` queries that count, NaN when none does. excluded: how many do not.
    """

    values: NDArray[np.float64]
    mean: float
    n: int
    excluded: int


@dataclass(frozen=True, eq=False)
class Curve:
    """Mean precision and recall when everything within a Hamming radius is returned, radius 0 to D.

    precision: float64 (D + 1,), over the queries that return anything at that radius (`answering`,
    int64); NaN where none does. recall: float64 (D + 1,), over all queries that have relevant items.
    """

    precision: NDArray[np.float64]
    recall: NDArray[np.float64]
    answering: NDArray[np.int64]
    n: int
    excluded: int


def mean_average_precision(
    query_codes: NDArray[Any], database_codes: NDArray[Any], relevance: NDArray[Any], k: int | None = None
) -> Scores:
    """Tie-aware mAP@k (mAP@all without k) of codes (q, K) against (n, K), relevance (q, n).

    Codes are bool or -1/+1, relevance is bool or grades (> 0 is relevant). Raises DataError.
    """
    return average_precision(Buckets.from_codes(query_codes, database_codes, relevance), k)


def average_precision(buckets: Buckets, k: int | None = None) -> Scores:
    """Expected AP@k per query (AP over the whole ranking without k). Raises DataError on k < 1."""
    items, relevant = buckets.items, buckets.relevant
    before, taken = _positions(items, k)
    hits_before = np.cumsum(relevant, axis=1) - relevant
    harmonic = _prefix(items, lambda ranks: 1.0 / ranks)
    # Sum of 1/(before + j) over the first `taken` places j = 1.. of a tie group.
    inverse = harmonic[before + taken] - harmonic[before]
    # Place j of a group of m items with r relevant ones is relevant with probability r/m, and then the
    # j - 1 places before it hold (j - 1)(r - 1)/(m - 1) relevant ones on average.
    share = _ratio(relevant, items)
    slope = _ratio(relevant - 1, items - 1)
    sums = share * ((hits_before + 1) * inverse + slope * (taken - (before + 1) * inverse))
    best = buckets.totals if k is None else np.minimum(buckets.totals, k)
    return _scores(sums.sum(axis=1), best, buckets.totals > 0)


def precision_at(buckets: Buckets, k: int) -> Scores:
    """Expected share of relevant items among the first k. A ranking shorter than k still divides by k."""
    _, taken = _positions(buckets.items, k)
    hits = (_ratio(buckets.relevant, buckets.items) * taken).sum(axis=1)
    return _scores(hits, np.full(len(hits), k), buckets.totals > 0)


def ndcg_at(buckets: Buckets, k: int | None = None, gain: Gain = "linear") -> Scores:
    """Expected NDCG@k with discount 1/log2(rank + 1).

    An item of grade g gains g ("linear") or 2**g - 1 ("exponential"); with bool relevance both are 0 or
    1. The ideal ranking is cut at k too. Raises DataError.
    """
    grades = np.arange(buckets.counts.shape[2], dtype=np.float64)
    if gain not in ("linear", "exponential"):
        raise DataError(f"gain: wanted linear or exponential, got {gain!r}")
    gains = grades if gain == "linear" else np.exp2(grades) - 1
    items = buckets.items
    discount = _prefix(items, lambda ranks: 1.0 / np.log2(ranks + 1))
    before, taken = _positions(items, k)
    mean_gain = _ratio(buckets.counts @ gains, items)
    found = (mean_gain * (discount[before + taken] - discount[before])).sum(axis=1)
    best_first = buckets.counts.sum(axis=1, dtype=np.int64)[:, ::-1]
    before, taken = _positions(best_first, k)
    ideal = ((discount[before + taken] - discount[before]) * gains[::-1]).sum(axis=1)
    return _scores(found, ideal, buckets.totals > 0)


def precision_recall(buckets: Buckets) -> Curve:
    """Precision and recall per Hamming radius; a radius takes whole tie groups, so no order matters."""
    valid = buckets.totals > 0
    returned = np.cumsum(buckets.items[valid], axis=1)
    hits = np.cumsum(buckets.relevant[valid], axis=1)
    answering = (returned > 0).sum(axis=0)
    precision = _ratio(_ratio(hits, returned).sum(axis=0), answering, empty=np.nan)
    n = int(valid.sum())
    recall = _ratio(hits, buckets.totals[valid][:, None]).sum(axis=0) / n if n else precision
    return Curve(precision, recall, answering.astype(np.int64), n, len(valid) - n)


def chance_level(relevance: NDArray[Any], k: int | None = None) -> Scores:
    """Expected AP@k of a random ranking for relevance (q, n): what a code that knows nothing reaches.

    It lies a little above the share of relevant items. Raises DataError.
    """
    everything_tied = np.zeros(relevance.shape, dtype=np.uint8)
    return average_precision(Buckets.from_distances(everything_tied, relevance), k)


def saat_map(
    query_codes: NDArray[Any], database_codes: NDArray[Any], relevance: NDArray[Any], k: int
) -> Scores:
    """Return mAP@k as SAAT's code has it, for comparison with its tables.

    Ties are broken by the order of the database rows, AP divides by the number of hits in the list, and a
    query without a hit in its first k counts as 0: none is excluded. Raises DataError.
    """

    def value(relevant: NDArray[np.bool_]) -> NDArray[np.float64]:
        listed = relevant[:, : _cut(k)]
        return _list_precision(listed, listed.sum(axis=1))

    return _ranked(query_codes, database_codes, relevance, value)


def first_relevant_map(
    query_codes: NDArray[Any], database_codes: NDArray[Any], relevance: NDArray[Any], k: int
) -> Scores:
    """Return mAP over the first k relevant items wherever they rank, as FPAD, AR-CMH and TA-DCH have it.

    It is never below AP@k's numerator over the same items and is not comparable with mAP@k. Ties are
    broken by the order of the database rows; a query without relevant items counts as 0. Raises DataError.
    """

    def value(relevant: NDArray[np.bool_]) -> NDArray[np.float64]:
        listed = relevant & (np.cumsum(relevant, axis=1) <= _cut(k))
        return _list_precision(listed, listed.sum(axis=1))

    return _ranked(query_codes, database_codes, relevance, value)


def bootstrap_interval(
    scores: Scores, *, seed: int, confidence: float = 0.95, samples: int = 2000
) -> tuple[float, float]:
    """Percentile interval of the mean over queries, by resampling queries with `seed`.

    It says how far the mean depends on which queries were drawn, not on the training seed. (NaN, NaN)
    without a query that counts. Raises DataError when confidence is not in (0, 1) or samples < 1.
    """
    if not 0 < confidence < 1 or samples < 1:
        raise DataError(f"wanted confidence in (0, 1) and samples >= 1, got {confidence} and {samples}")
    values = scores.values[~np.isnan(scores.values)]
    if not len(values):
        return float("nan"), float("nan")
    generator = np.random.default_rng(seed)
    means = np.empty(samples)
    for sample in range(samples):
        means[sample] = values[generator.integers(0, len(values), len(values))].mean()
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def _cut(k: object) -> int:
    """Return a valid cut-off; raise DataError on another."""
    if isinstance(k, bool) or not isinstance(k, int) or k < 1:
        raise DataError(f"k: wanted a whole number >= 1, got {k!r}")
    return k


def _positions(items: NDArray[np.int64], k: int | None) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """For each group (q, D): the number of places before it, and how many of its places lie within k."""
    before = np.cumsum(items, axis=1) - items
    if k is None:
        return before, items
    return before, np.clip(_cut(k) - before, 0, items)


def _prefix(
    items: NDArray[np.int64], value: Callable[[NDArray[np.float64]], NDArray[np.float64]]
) -> NDArray[np.float64]:
    """Prefix sums of value(rank) over ranks 1.. up to the longest ranking; entry 0 is 0."""
    longest = int(items.sum(axis=1).max(initial=0))
    return np.concatenate([[0.0], np.cumsum(value(np.arange(1, longest + 1, dtype=np.float64)))])


def _ratio(top: NDArray[Any], bottom: NDArray[Any], empty: float = 0.0) -> NDArray[np.float64]:
    """Elementwise top / bottom, `empty` where bottom is not positive."""
    out = np.full(np.broadcast_shapes(top.shape, bottom.shape), empty)
    np.divide(top, bottom, out=out, where=bottom > 0)
    return out


def _scores(sums: NDArray[np.float64], best: NDArray[Any], valid: NDArray[np.bool_]) -> Scores:
    """Divide by the best reachable sum where the query counts, NaN elsewhere, and take the mean."""
    values = np.full(len(sums), np.nan)
    values[valid] = sums[valid] / best[valid]
    n = int(valid.sum())
    return Scores(values, float(values[valid].mean()) if n else float("nan"), n, len(values) - n)


def _list_precision(listed: NDArray[np.bool_], hits: NDArray[np.int64]) -> NDArray[np.float64]:
    """Sum of P@i over the listed ranks (q, n), divided by `hits`; 0 where there are none."""
    precision = np.cumsum(listed, axis=1) / np.arange(1, listed.shape[1] + 1)
    return _ratio((precision * listed).sum(axis=1), hits)


def _ranked(
    query_codes: NDArray[Any],
    database_codes: NDArray[Any],
    relevance: NDArray[Any],
    value: Callable[[NDArray[np.bool_]], NDArray[np.float64]],
) -> Scores:
    """Apply `value` to relevance (q, n) in ranked order, ties by database row; every query counts."""
    parts = [np.zeros(0)]
    for rows in query_blocks(len(query_codes), len(database_codes)):
        distances = hamming_distances(query_codes[rows], database_codes)
        check_pairs(distances, relevance[rows])
        order = np.argsort(distances.astype(np.uint16), axis=1, kind="stable")
        parts.append(value(np.take_along_axis(relevance[rows] > 0, order, axis=1)))
    values = np.concatenate(parts)
    return _scores(values, np.ones(len(values)), np.ones(len(values), dtype=bool))
