"""The report's figures: rows per attack, the worst case per budget, paired differences between models.

The headline is the worst case per query: the least average precision over every attempt at a query within a
budget, clean query included, averaged over queries. It is a mean of minima, never the minimum of means.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from math import isfinite, isnan
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.attacks.registry import OBJECTIVES
from model.evaluation.evidence import Attacked, ModelEvidence
from model.evaluation.retrieval import bootstrap_interval
from model.evaluation.scoring import PROTOCOLS, Values, as_scores, mean_of, tasks_of
from model.evaluation.specs import AttackSpec

FORMAT = 1
CURVE_POINTS = 101
SENT_TEXTS = ("words", "typos")
"""Norms of what a user can send as a text; together they are the headline for texts, norm "text"."""
TEXT_EPS = 0.2
DIGITS = 10  # significant ones: 8/255 must read as 8/255 again
BOOTSTRAP_SEED = 0

Row = dict[str, Any]
CaseKey = tuple[str, str, str, float]
"""Task, protocol, norm, eps."""


@dataclass(frozen=True, eq=False)
class Case:
    """The worst case of one model. values: (n,) least AP per query, NaN where excluded or not attacked."""

    key: CaseKey
    values: Values
    attacks: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Summary:
    """The figures of one model, from its evidence."""

    evidence: ModelEvidence

    @property
    def identity(self) -> Row:
        """What every row says of the model."""
        own = self.evidence
        return {"model": own.label, "defence": own.defence, "seed": own.seed, "bits": own.bits}

    @cached_property
    def chance(self) -> dict[tuple[str, str], Values]:
        """AP (n,) of a random ranking by (task, protocol)."""
        scores = self.evidence.scores
        return {pair: scores.chance_ap(*pair) for pair in self._pairs()}

    @cached_property
    def floor(self) -> dict[tuple[str, str], Values]:
        """AP (n,) of the minus-mainstay codes by (task, protocol)."""
        scores = self.evidence.scores
        return {pair: scores.floor_ap(*pair) for pair in self._pairs()}

    def rows(self) -> list[Row]:
        """A row for the clean queries and for every unit, by task and protocol."""
        found = [self._clean_row(task, protocol) for task, protocol in self._pairs()]
        return found + [
            self._row(unit, task, protocol)
            for unit in self.evidence.attacked
            for task in self.evidence.tasks_of(unit)
            for protocol in PROTOCOLS
        ]

    @cached_property
    def cases(self) -> dict[CaseKey, Case]:
        """The worst case for every task, protocol, norm and eps that was attacked."""
        found = {}
        for (side, norm, eps), units in budgets_of(self.evidence.attacked).items():
            for task in tasks_of(side, self.evidence.modalities):
                for protocol in PROTOCOLS:
                    values = self._minima(units, task, protocol)
                    key = (task, protocol, norm, eps)
                    names = tuple(dict.fromkeys(unit.spec.name for unit in units))
                    found[key] = Case(key, values, names)
        return found

    def _minima(self, units: Sequence[Attacked], task: str, protocol: str) -> Values:
        """Least AP (n,), NaN also where no unit tried: an unattacked query says nothing of the worst case."""
        values = self.evidence.minima(units, task, protocol)
        tried = np.zeros(len(values), dtype=np.bool_)
        for unit in units:
            tried[unit.rows] = True
        values[~tried] = np.nan
        return values

    def worst_case(self) -> list[Row]:
        """The worst cases as rows."""
        return [self._case_row(case) for case in self.cases.values()]

    def clean(self) -> Row:
        """Figures of the clean queries by task and protocol."""
        found: Row = {}
        for task, protocol in self._pairs():
            row = self._clean_row(task, protocol)
            values = self.evidence.clean_ap(task, protocol)
            low, high = bootstrap_interval(as_scores(values), seed=BOOTSTRAP_SEED)
            figures = {name: row[name] for name in ("map", "map_at_50", "chance", "n")}
            more = {"lo": low, "hi": high, "floor": mean_of(self.floor[task, protocol])}
            excluded = int(np.isnan(values).sum())
            found.setdefault(task, {})[protocol] = {**figures, **more, "excluded": excluded}
        return found

    def candidates(self) -> list[Row]:
        """Mean expected places of the candidate side's items."""
        found = []
        for unit in self.evidence.attacked:
            if unit.spec.purpose == "candidate":
                places = {name: _mean(unit.extra[name]) for name in ("rank_before", "rank_after")}
                found.append(
                    {
                        "model": self.evidence.label,
                        "attack": unit.spec.name,
                        "norm": unit.spec.norm,
                        "eps": unit.spec.eps,
                        "n": len(unit),
                        **places,
                        "database": unit.extra["database"],
                        "asking": unit.extra["asking"],
                    }
                )
        return found

    def _pairs(self) -> list[tuple[str, str]]:
        return [(task, protocol) for task in self.evidence.tasks for protocol in PROTOCOLS]

    def _clean_row(self, task: str, protocol: str) -> Row:
        values, cut = self.evidence.clean_both(task, protocol)
        nothing = {"attack": "none", "purpose": "clean", "norm": "none", "eps": 0.0}
        none: Row = {"steps": 0, "restarts": 0, "queries": 0, "mean_queries": 0.0, "t_map": None, "curve": []}
        same = {"linf": None, "l2": None, "ssim": None, "loss": None, "clean_loss": None, "seconds": 0.0}
        return {
            **self.identity,
            "task": task,
            "protocol": protocol,
            "side": task.partition("-to-")[0],
            **nothing,
            **none,
            **same,
            "map": mean_of(values),
            "map_at_50": mean_of(cut),
            "bit_flips": 0.0,
            "n": int((~np.isnan(values)).sum()),
            "chance": mean_of(self.chance[task, protocol]),
        }

    def _row(self, unit: Attacked, task: str, protocol: str) -> Row:
        spec = unit.spec
        values, cut = self.evidence.unit_both(unit, task, protocol)
        named = ("side", "purpose", "norm", "eps", "steps", "restarts", "queries")
        return {
            **self.identity,
            "task": task,
            "protocol": protocol,
            "attack": spec.name,
            **{name: getattr(spec, name) for name in named},
            "mean_queries": _mean(unit.queries),
            "map": mean_of(values),
            "map_at_50": mean_of(cut),
            "t_map": self._target_map(unit, task, protocol),
            "bit_flips": _mean(unit.flips),
            "n": int((~np.isnan(values)).sum()),
            "chance": mean_of(self.chance[task, protocol][unit.rows]),
            **{name: _mean(getattr(unit, name)) for name in ("linf", "l2", "ssim", "loss", "clean_loss")},
            "saturated": _mean(unit.saturated),
            "seconds": unit.seconds,
            "curve": thinned(unit.curve),
        }

    def _target_map(self, unit: Attacked, task: str, protocol: str) -> float | None:
        """MAP towards the goal labels, for attacks that have some."""
        if unit.spec.aim not in OBJECTIVES or not OBJECTIVES[unit.spec.aim].targeted:
            return None
        return mean_of(self.evidence.scores.target_ap(unit.codes, unit.rows, task, protocol))

    def _case_row(self, case: Case) -> Row:
        task, protocol, norm, eps = case.key
        low, high = bootstrap_interval(as_scores(case.values), seed=BOOTSTRAP_SEED)
        counted = ~np.isnan(case.values)
        return {
            **self.identity,
            "task": task,
            "protocol": protocol,
            "norm": norm,
            "eps": eps,
            "map": mean_of(case.values),
            "lo": low,
            "hi": high,
            "clean_map": mean_of(self.evidence.clean_ap(task, protocol)[counted]),
            "chance": mean_of(self.chance[task, protocol][counted]),
            "floor": mean_of(self.floor[task, protocol][counted]),
            "n": int(counted.sum()),
            "attacks": list(case.attacks),
        }


def budgets_of(units: Sequence[Attacked]) -> dict[tuple[str, str, float], list[Attacked]]:
    """The units that count in each worst case, by (side, norm, eps); corruptions are no attack.

    What a user can send as a text also counts together, as the norm "text".
    """
    found: dict[tuple[str, str, float], list[Attacked]] = {}
    for unit in units:
        spec: AttackSpec = unit.spec
        if spec.purpose in ("natural", "candidate"):
            continue
        found.setdefault((spec.side, spec.norm, spec.eps), []).append(unit)
        if spec.norm in SENT_TEXTS:
            found.setdefault(("text", "text", TEXT_EPS), []).append(unit)
    return dict(sorted(found.items()))


def paired(a: Summary, b: Summary) -> list[Row]:
    """Differences a - b of the worst cases that both have, with intervals over the queries (paired)."""
    found = []
    for key, case in a.cases.items():
        if key not in b.cases:
            continue
        task, protocol, norm, eps = key
        gap = case.values - b.cases[key].values
        low, high = bootstrap_interval(as_scores(gap), seed=BOOTSTRAP_SEED)
        place = {"a": a.evidence.label, "b": b.evidence.label, "task": task, "protocol": protocol}
        budget = {"norm": norm, "eps": eps, "difference": mean_of(gap), "lo": low, "hi": high}
        found.append({**place, **budget, "n": int((~np.isnan(gap)).sum())})
    return found


def all_pairs(summaries: Sequence[Summary]) -> list[Row]:
    """`paired` of every two models."""
    return [row for a, b in combinations(summaries, 2) for row in paired(a, b)]


def thinned(curve: NDArray[np.float64]) -> list[list[float]]:
    """Curves (R, T) as lists of at most CURVE_POINTS, evenly spaced, first and last kept."""
    if not curve.size:
        return []
    count = min(curve.shape[1], CURVE_POINTS)
    places = np.linspace(0, curve.shape[1] - 1, count).round().astype(int)
    found: list[list[float]] = curve[:, places].tolist()
    return found


def clean_json(value: object) -> Any:  # noqa: ANN401 - JSON has no narrower type
    """A copy that JSON can hold: NaN and infinities become None, floats have DIGITS significant digits."""
    if isinstance(value, Mapping):
        return {str(key): clean_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple | frozenset | set):
        return [clean_json(item) for item in value]
    if isinstance(value, np.generic):
        return clean_json(value.item())
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}") if isfinite(value) else None
    return value


def _mean(values: object) -> float | None:
    found = mean_of(np.asarray(values, dtype=np.float64))
    return None if isnan(found) else found
