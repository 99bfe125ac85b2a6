"""What a gate says, and the view of one model's evidence that the gates share.

Every gate about strength is judged on one task (image-to-text, or what the model has) under the main
protocol. Differences count in points of mAP, and only above chance: once an attack has brought a model to
chance or below, how far below is no question of honesty, and curves there may do as they like.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from model.attacks.registry import BLACK_BOX, UNTARGETED, WHITE_BOX
from model.attacks.threat import NORMS
from model.evaluation.evidence import Attacked, ModelEvidence
from model.evaluation.scoring import MAIN_PROTOCOL, Rows, Values, mean_of

EFFORT = frozenset({"suite", "convergence", "steps"})
"""Purposes under which the white-box attacks of the headline run."""

Figures = Mapping[str, Any]
"""Plain JSON without NaN."""


@dataclass(frozen=True)
class Check:
    """A gate's verdict. detail: a sentence for people, with the figures that decided."""

    name: str
    holds: bool
    detail: str
    figures: Figures = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """An entry of the report's `checks`."""
        return {
            "name": self.name,
            "holds": self.holds,
            "detail": self.detail,
            "figures": dict(self.figures),
        }


@dataclass(frozen=True)
class LeftOut:
    """A gate that could not be judged: it neither holds nor fails. reason: what was not run."""

    name: str
    reason: str

    def __str__(self) -> str:
        return f"{self.name}: {self.reason}"


Verdict = Check | LeftOut


@dataclass(frozen=True, eq=False)
class View:
    """One model's evidence as the gates look at it. strict: the tighter numbers of the full profile."""

    evidence: ModelEvidence
    strict: bool = False

    @property
    def task(self) -> str:
        """The task of the image gates; "" for a model that reads no images."""
        return self.evidence.main_task if "image" in self.evidence.modalities else ""

    @property
    def white_box(self) -> list[Attacked]:
        """Units of gradient attacks on images, whatever their aim."""
        return [unit for unit in self.evidence.attacked if is_white_box(unit)]

    @property
    def gradient_free(self) -> list[Attacked]:
        """Units of attacks on images that take no gradient of this model: black-box, transfer, random."""
        kinds = (*BLACK_BOX, "noise", "transfer")
        return [unit for unit in self.evidence.attacked if unit.spec.method in kinds and of_images(unit)]

    @cached_property
    def counted(self) -> Rows:
        """The queries that have something relevant to retrieve, ascending: only they have an AP."""
        clean = self.evidence.clean_ap(self.task, MAIN_PROTOCOL)
        return np.flatnonzero(~np.isnan(clean)).astype(np.int64)

    def shared(self, *units: Attacked) -> Rows:
        """The counted queries that all units cover, ascending."""
        rows = self.counted
        for unit in units:
            rows = np.intersect1d(rows, unit.rows)
        return rows

    def covered(self, units: Iterable[Attacked]) -> Rows:
        """The counted queries that any of the units covers, ascending."""
        return np.intersect1d(self.counted, np.concatenate([unit.rows for unit in units]))

    def mean(self, unit: Attacked, rows: Rows | None = None) -> float:
        """MAP of the unit, on the queries `rows` only when given (which it must cover)."""
        return mean_of(self.ap(unit, rows))

    def ap(self, unit: Attacked, rows: Rows | None = None) -> Values:
        """AP (m,) of the unit's rows, or of `rows`."""
        values = self.evidence.unit_ap(unit, self.task, MAIN_PROTOCOL)
        return values if rows is None else values[np.searchsorted(unit.rows, rows)]

    def minima(self, units: Iterable[Attacked], rows: Rows) -> float:
        """Mean over the queries `rows` of the least AP over the clean query and the units."""
        return mean_of(self.evidence.minima(list(units), self.task, MAIN_PROTOCOL)[rows])

    def clean(self, rows: Rows) -> float:
        """MAP of the clean queries `rows`."""
        return mean_of(self.evidence.clean_ap(self.task, MAIN_PROTOCOL)[rows])

    def chance(self, rows: Rows) -> float:
        """MAP of a random ranking for the queries `rows`."""
        return self.evidence.scores.chance(self.task, MAIN_PROTOCOL, rows)

    def above_chance(self, value: float, rows: Rows) -> float:
        """`value`, at least chance."""
        return max(value, self.chance(rows))


def of_images(unit: Attacked) -> bool:
    """Whether the unit attacks query images within a ball."""
    spec = unit.spec
    return spec.side == "image" and spec.norm in ("linf", "l2") and spec.purpose != "candidate"


def is_white_box(unit: Attacked) -> bool:
    """Whether it is a gradient attack on query images."""
    return of_images(unit) and unit.spec.method in WHITE_BOX and unit.spec.purpose in EFFORT


def is_headline(unit: Attacked) -> bool:
    """Whether it is a white-box attack of the suite whose aim is to leave what is relevant."""
    return is_white_box(unit) and unit.spec.purpose == "suite" and unit.spec.aim in UNTARGETED


def same_budget(a: Attacked, b: Attacked) -> bool:
    """Whether two units have the same ball."""
    return a.spec.norm == b.spec.norm and abs(a.spec.eps - b.spec.eps) < 1e-9


def budget_name(unit: Attacked) -> str:
    """As "8/255" or "L2 2"."""
    eps = unit.spec.eps
    return f"{255 * eps:g}/255" if unit.spec.norm == "linf" else f"L2 {eps:g}"


def grouped(units: Iterable[Attacked], key: Callable[[Attacked], Any]) -> dict[Any, list[Attacked]]:
    """Units by `key`, in the order in which the keys come first."""
    groups: dict[Any, list[Attacked]] = {}
    for unit in units:
        groups.setdefault(key(unit), []).append(unit)
    return groups


def in_points(value: float) -> float:
    """A share of mAP in points, two digits."""
    return round(100 * value, 2)


def title(unit: Attacked) -> str:
    """One unit among a model's, as "apgd:mainstay 8/255 20x1 rows 0-99"."""
    spec = unit.spec
    size = budget_name(unit) if spec.norm in NORMS else f"{spec.norm} {spec.eps:g}"
    return f"{spec.name} {size} {effort(unit)} rows {spec.first}-{spec.first + len(unit) - 1}"


def effort(unit: Attacked) -> str:
    """How hard it tried: "50x2" (steps x restarts) or "1000q" (queries)."""
    spec = unit.spec
    return f"{spec.steps}x{spec.restarts}" if spec.steps else f"{spec.queries}q"
