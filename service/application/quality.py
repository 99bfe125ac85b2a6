"""Is a new model worse than the live one? Both are asked about the same pairs of the corpus.

A pair is an item with an image and a text, each encoded by both models. Where at least half of the sampled
pairs have labels (metadata `labels`, a list of strings), an item is relevant when it shares one with the
query, and the queries are held out of what is searched; else the one relevant item is the query's own other
half. Nothing is encoded here: the live model's codes are in the catalog, and the new one's by now as well.

The pairs are the corpus's own. Whether one of the models has seen them in training nobody here can know;
one that has looks better than it is.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from service.application.life_cycle_ports import PairScore
from service.application.ports import CodeArray, CodeRepository, ItemRepository
from service.application.types import SIDES, Generation, Item, Quality, Side, TaskQuality

MOST = 2000
"""Items that are looked at."""

LEAST = 20
"""Pairs below which no figure is given: a few queries say nothing."""

_QUERIES = 500
_SEED = 20_261_124
_TASKS: tuple[tuple[Side, Side], ...] = (("image", "text"), ("text", "image"))
_LABELS = "labels"


class NotMeasured(Exception):
    """There are too few pairs for a figure; the message says so."""


@dataclass(frozen=True)
class _Trial:
    """What both models are asked: queries and items by their positions among the pairs."""

    relevance_kind: Literal["labels", "pairs"]
    queries: NDArray[np.intp]
    items: NDArray[np.intp]
    relevance: NDArray[np.bool_]


@dataclass(frozen=True)
class QualityCheck:
    """Compares the codes of two models."""

    codes: CodeRepository
    items: ItemRepository
    score: PairScore

    def compare(self, new: Generation, live: Generation, ids: Sequence[str], floor: float | None) -> Quality:
        """Both models' mAP on the pairs among `ids`. Raises `NotMeasured`."""
        mine, theirs = self._pairs(ids, new.model_digest), self._pairs(ids, live.model_digest)
        both = [item_id for item_id in ids if item_id in mine and item_id in theirs]
        if len(both) < LEAST:
            raise NotMeasured(
                f"{len(both)} of {len(ids)} items have an image and a text that both models encode, "
                f"wanted {LEAST} or more"
            )
        trial = _trial(both, self.items.get(both))
        tasks = tuple(
            TaskQuality(
                f"{asked}-to-{found}",
                self._map(trial, _rows(mine, both, asked), _rows(mine, both, found), new.bits),
                self._map(trial, _rows(theirs, both, asked), _rows(theirs, both, found), live.bits),
            )
            for asked, found in _TASKS
        )
        if any(math.isnan(task.map) for task in tasks):
            raise NotMeasured(f"no two of the {len(both)} pairs that were looked at share a label")
        return Quality(
            model=_label(new),
            live_model=_label(live),
            relevance=trial.relevance_kind,
            queries=len(trial.queries),
            items=len(trial.items),
            tasks=tasks,
            floor=floor,
        )

    def lost_sides(self, new: Generation, live: Generation, sides: frozenset[str]) -> list[Side]:
        """Sides on which the live model has codes and the new one, which encodes `sides`, can have none."""
        lost: list[Side] = []
        for side in SIDES:
            alone = frozenset({side})
            if side not in sides and self.codes.count_lacking(live.model_digest, alone) < (
                self.codes.count_lacking(new.model_digest, alone)
            ):
                lost.append(side)
        return lost

    def _pairs(self, ids: Sequence[str], model_digest: str) -> dict[str, Mapping[Side, bytes]]:
        versions = self.codes.versions(ids, model_digest)
        return {
            item_id: found.codes for item_id, found in versions.items() if len(found.codes) == len(_TASKS)
        }

    def _map(self, trial: _Trial, asked: CodeArray, found: CodeArray, bits: int) -> float:
        value = self.score(asked[trial.queries], found[trial.items], trial.relevance, bits)
        return round(value, 4)


def falls_below(quality: Quality) -> list[TaskQuality]:
    """The directions in which the new model is worse than the floor allows; none without a floor."""
    floor = quality.floor
    if floor is None:
        return []
    return [task for task in quality.tasks if task.live_map - task.map > floor]


def sample_ids(ids: Sequence[str]) -> list[str]:
    """At most `MOST` of the ids, the same of the same: in random order, so that any part is a sample too."""
    chosen = np.random.default_rng(_SEED).choice(len(ids), min(MOST, len(ids)), replace=False)
    return [ids[position] for position in chosen]


def _trial(ids: Sequence[str], items: Mapping[str, Item]) -> _Trial:
    labels = [_labels(items.get(item_id)) for item_id in ids]
    labelled = np.flatnonzero([bool(found) for found in labels])
    if 2 * len(labelled) < len(ids):
        everything = np.arange(len(ids))
        queries = everything[:_QUERIES]
        return _Trial("pairs", queries, everything, queries[:, np.newaxis] == everything)
    count = min(_QUERIES, len(labelled) // 2)
    queries, held = labelled[:count], labelled[count:]
    known = {label: column for column, label in enumerate(sorted(set().union(*labels)))}
    marks = np.zeros((len(ids), len(known)), np.float32)
    for row, found in enumerate(labels):
        marks[row, [known[label] for label in found]] = 1.0
    return _Trial("labels", queries, held, marks[queries] @ marks[held].T > 0)


def _labels(item: Item | None) -> set[str]:
    found = item.metadata.get(_LABELS) if item is not None else None
    return set(found) if isinstance(found, list) else {found} if isinstance(found, str) else set()


def _rows(codes: Mapping[str, Mapping[Side, bytes]], ids: Sequence[str], side: Side) -> CodeArray:
    packed = b"".join(codes[item_id][side] for item_id in ids)
    return np.frombuffer(packed, np.uint8).reshape(len(ids), -1)


def _label(generation: Generation) -> str:
    return f"{generation.model_name}/{generation.model_version}"
