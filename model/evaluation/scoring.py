"""Scores of codes against the database, per query: all that rows, worst case and gates are made of.

The database's codes come from the model under test and are held together with its digest (encoded.py). An
average precision is the expected value over the orders of tied distances (retrieval.py); a query without a
relevant item in a pool has none there and is NaN: excluded and counted, never scored 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.errors import DataError
from model.evaluation.buckets import Buckets, query_blocks, shared_labels
from model.evaluation.retrieval import Scores, average_precision, chance_level

TASKS = ("image-to-text", "text-to-image", "image-to-image", "text-to-text")
PROTOCOLS: Mapping[str, tuple[str, ...]] = {
    "train+database": ("train", "database"),
    "database": ("database",),
}
"""What is retrieved from: the papers' protocol first, which is the main one, then the strict one."""
MAIN_PROTOCOL = "train+database"
CUT = 50

Bits = NDArray[np.bool_]
Rows = NDArray[np.int64]
Values = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Pool:
    """What one task retrieves from under one protocol.

    codes: bool (N, K) of one side. labels: bool (N, C). ids, texts: of the items, in the same order (a text
    is "" where the item has none).
    """

    codes: Bits
    labels: Bits
    ids: tuple[str, ...]
    texts: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Scorer:
    """Scores codes of the n evaluated queries.

    labels: bool (n, C). goals: bool (n, C), what targeted attacks want to reach. floor_codes: bool (n, K),
    minus the mainstay codes: what an attacker who may choose the code itself would send. pools: by
    (side retrieved, protocol); a side that the model does not read is absent.
    """

    labels: Bits
    goals: Bits | None
    floor_codes: Bits
    pools: Mapping[tuple[str, str], Pool]

    @property
    def all_rows(self) -> Rows:
        """Every query, int64 (n,)."""
        return np.arange(len(self.labels))

    def pool(self, task: str, protocol: str) -> Pool:
        """What `task` retrieves from; raises DataError for a task that the model cannot do."""
        side = sides_of(task)[1]
        if (side, protocol) not in self.pools:
            known = ", ".join(f"{a}/{b}" for a, b in sorted(self.pools))
            raise DataError(f"wanted the codes to retrieve {side} from {protocol}, there are: {known}")
        return self.pools[side, protocol]

    def ap(self, codes: Bits, rows: Rows, task: str, protocol: str, k: int | None = None) -> Values:
        """Average precision (m,) of codes (m, K) sent in place of the queries `rows` (m,); @all without k."""
        return self._precision(codes, self.labels[rows], self.pool(task, protocol), (k,))[0]

    def ap_both(self, codes: Bits, rows: Rows, task: str, protocol: str) -> tuple[Values, Values]:
        """AP@all and AP@50, each (m,), in one pass."""
        whole, cut = self._precision(codes, self.labels[rows], self.pool(task, protocol), (None, CUT))
        return whole, cut

    def target_ap(self, codes: Bits, rows: Rows, task: str, protocol: str) -> Values:
        """AP (m,) towards the goal labels (t-MAP is its mean); raises DataError without goals."""
        if self.goals is None:
            raise DataError("t-MAP needs the goals of targeted attacks, got none")
        return self._precision(codes, self.goals[rows], self.pool(task, protocol), (None,))[0]

    def chance_ap(self, task: str, protocol: str, rows: Rows | None = None) -> Values:
        """AP (m,) of a random ranking for the queries `rows` (all without)."""
        pool = self.pool(task, protocol)
        labels = self.labels if rows is None else self.labels[rows]
        parts = [
            chance_level(shared_labels(labels[block], pool.labels) > 0).values
            for block in query_blocks(len(labels), len(pool.codes))
        ]
        return np.concatenate([np.zeros(0), *parts])

    def chance(self, task: str, protocol: str, rows: Rows | None = None) -> float:
        """Mean of `chance_ap` over the queries that count; NaN when none does."""
        return mean_of(self.chance_ap(task, protocol, rows))

    def floor_ap(self, task: str, protocol: str, rows: Rows | None = None) -> Values:
        """AP (m,) of the minus-mainstay codes."""
        wanted = self.all_rows if rows is None else rows
        return self.ap(self.floor_codes[wanted], wanted, task, protocol)

    def floor(self, task: str, protocol: str, rows: Rows | None = None) -> float:
        """Theoretical floor ("Theory MAP"): mean of `floor_ap`; NaN when no query counts."""
        return mean_of(self.floor_ap(task, protocol, rows))

    def relevant(self, row: int, task: str, protocol: str) -> Bits:
        """Bool (N,): which items of the pool share a label with the query `row`."""
        pool = self.pool(task, protocol)
        found: Bits = shared_labels(self.labels[row : row + 1], pool.labels)[0] > 0
        return found

    def _precision(
        self, codes: Bits, labels: Bits, pool: Pool, cuts: tuple[int | None, ...]
    ) -> tuple[Values, ...]:
        if len(codes) != len(labels):
            raise DataError(f"wanted a code for each query, got {len(codes)} for {len(labels)}")
        parts: list[list[Values]] = [[np.zeros(0)] for _ in cuts]
        for block in query_blocks(len(codes), len(pool.codes)):
            relevance = shared_labels(labels[block], pool.labels) > 0
            buckets = Buckets.from_codes(codes[block], pool.codes, relevance)
            for part, cut in zip(parts, cuts, strict=True):
                part.append(average_precision(buckets, cut).values)
        return tuple(np.concatenate(part) for part in parts)


def sides_of(task: str) -> tuple[str, str]:
    """(query side, retrieved side) of a task; raises DataError for another name."""
    if task not in TASKS:
        raise DataError(f"task: wanted one of {', '.join(TASKS)}, got {task!r}")
    source, _, target = task.partition("-to-")
    return source, target


def tasks_of(side: str, modalities: frozenset[str]) -> tuple[str, ...]:
    """The tasks whose queries are of `side`, for a model that reads `modalities`."""
    return tuple(
        task for task in TASKS if sides_of(task)[0] == side and {side, sides_of(task)[1]} <= modalities
    )


def as_scores(values: Values) -> Scores:
    """Values per query, NaN for the excluded, as `Scores` (for `bootstrap_interval`)."""
    counted = ~np.isnan(values)
    n = int(counted.sum())
    return Scores(values, mean_of(values), n, len(values) - n)


def mean_of(values: NDArray[Any]) -> float:
    """Mean over the queries that count, NaN when none does."""
    counted = values[~np.isnan(values)]
    return float(counted.mean()) if len(counted) else float("nan")
