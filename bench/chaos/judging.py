"""Whether an answer can be true: the oracle's heart, which knows nothing of how the service works.

An answer is one of the states that the history allows when each hit is a version of its item that may have
been seen while the request ran, with the right distance, once, in the order of distance and then of the id's
bytes; and when no item is missing of which every version that may have been seen comes before the last hit.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from bench.chaos.codes import Codes
from bench.chaos.filters import holds
from bench.chaos.history import History, Reign, Version
from bench.chaos.journal import Event

_TOLERANCE = 1e-9


class Judge:
    """Judges answers by the history, the models' codes (by label) and the texts of the contents."""

    def __init__(
        self, history: History, live: Sequence[Reign], codes: dict[str, Codes], texts: Sequence[str]
    ) -> None:
        self._live = live
        self._codes = codes
        self._texts = texts
        self._ids = sorted(history.items, key=str.encode)
        self._numbers = {item_id: number for number, item_id in enumerate(self._ids)}
        self._versions = [(n, one) for n, item_id in enumerate(self._ids) for one in history.items[item_id]]
        self._first = np.searchsorted([n for n, _ in self._versions], np.arange(len(self._ids) + 1))
        self._item = np.array([n for n, _ in self._versions], np.int64)
        self._since = np.array([one.since for _, one in self._versions])
        self._until = np.array([one.until for _, one in self._versions])
        self._content = {side: self._contents(side) for side in ("image", "text")}
        self._passing: dict[str, NDArray[np.bool_]] = {}

    def judge(self, event: Event) -> list[str]:
        """What is wrong with the answer to one search; nothing for a true one."""
        body = event["body"]
        wrong = self._pair(event, body)
        if body["model_version"] not in self._codes:
            return wrong
        return wrong + self.hits(event, body["model_version"], body["hits"], event["k"])

    def hits(self, event: Event, model: str, hits: Sequence[Event], k: int) -> list[str]:
        """What is wrong with the hits of a search that wanted `k` of them, under a model."""
        codes = self._codes[model]
        seen = np.flatnonzero((self._since <= event["t1"]) & (self._until >= event["t0"]))
        contents = self._content[event["to"]][seen]
        distances = codes.distances(event["from"], event["query"], event["to"], contents)
        most = codes.bits if event["max_distance"] is None else event["max_distance"]
        good = (distances <= most) & self._filtered(event["filter"])[seen]
        by_version = dict(
            zip(seen.tolist(), zip(distances.tolist(), good.tolist(), strict=True), strict=True)
        )
        wrong = [problem for hit in hits for problem in self._hit(event, codes, hit, by_version)]
        wrong += _order(hits)
        if len(hits) > k:
            wrong.append(f"too many: {len(hits)} hits of {k}")
        return wrong + self._missing(hits, k, seen, distances, good)

    def _pair(self, event: Event, body: Event) -> list[str]:
        """Whether this generation may have answered, and with this model."""
        named = [one for one in self._live if one.generation == body["index_generation"]]
        wrong = []
        if not any(one.since <= event["t1"] and one.until >= event["t0"] for one in named):
            wrong.append(f"stale generation: {body['index_generation']} was not live then")
        if (
            any(one.model != body["model_version"] for one in named)
            or body["model_version"] not in self._codes
        ):
            wrong.append(f"wrong model: {body['model_version']} with {body['index_generation']}")
        if not body["exact"]:
            wrong.append("not exact")
        return wrong

    def _hit(
        self, event: Event, codes: Codes, hit: Event, by_version: dict[int, tuple[int, bool]]
    ) -> list[str]:
        """Whether some version that may have been seen looks like this hit, all of it at once."""
        number = self._numbers.get(hit["id"])
        if number is None:
            return [f"invented item: {hit['id']}"]
        seen = [one for one in range(self._first[number], self._first[number + 1]) if one in by_version]
        there = [one for one in seen if self._content[event["to"]][one] >= 0]
        if not there:
            return [f"deleted item: {hit['id']}"]
        near = [one for one in there if by_version[one][0] == hit["distance"]]
        if not near:
            wanted = sorted({by_version[one][0] for one in there})
            return [f"wrong distance: {hit['id']} at {hit['distance']}, wanted {wanted}"]
        same = [one for one in near if self._looks_like(self._versions[one][1], hit)]
        if not same:
            torn = any(self._looks_like(self._versions[one][1], hit) for one in there)
            return [f"{'torn item' if torn else 'wrong content'}: {hit['id']}"]
        if not any(by_version[one][1] for one in same):
            return [f"not asked for: {hit['id']} does not pass the filter or is too far"]
        return _scores(event, codes, hit)

    def _looks_like(self, version: Version, hit: Event) -> bool:
        text = None if version.text is None else self._texts[version.text]
        url = None if version.image is None else f"/v1/items/{hit['id']}/image"
        return (hit["text"], hit["image_url"], hit["metadata"]) == (text, url, version.metadata)

    def _missing(
        self,
        hits: Sequence[Event],
        k: int,
        seen: NDArray[np.int64],
        distances: NDArray[np.int64],
        good: NDArray[np.bool_],
    ) -> list[str]:
        """Items that must be among the hits, whichever of their versions was met, and are not."""
        count = len(self._ids)
        items = self._item[seen]
        if len(hits) >= k:
            last = hits[-1]
            good = good & (distances * count + items <= last["distance"] * count + self._rank(last["id"]))
        sure = np.bincount(items, good, count) == np.bincount(items, minlength=count)
        found = {self._numbers.get(hit["id"]) for hit in hits}
        absent = [self._ids[one] for one in np.flatnonzero(sure) if one not in found]
        return [f"missing: {len(absent)} items, {', '.join(absent[:3])}"] if absent else []

    def _rank(self, item_id: str) -> int:
        """The place of an id among all, by its bytes; an invented one has been named already."""
        return self._numbers.get(item_id, -1)

    def _contents(self, side: str) -> NDArray[np.int64]:
        found = [one.image if side == "image" else one.text for _, one in self._versions]
        return np.array([-1 if one is None else one for one in found], np.int64)

    def _filtered(self, condition: Event | None) -> NDArray[np.bool_]:
        """Which of all versions pass a filter."""
        key = json.dumps(condition)
        if key not in self._passing:
            passing = [holds(condition, one.metadata) for _, one in self._versions]
            self._passing[key] = np.array(passing, np.bool_)
        return self._passing[key]


def _order(hits: Sequence[Event]) -> list[str]:
    """Hits that are doubled or stand in another order than distance, then the id's bytes."""
    wrong = []
    ids = [hit["id"] for hit in hits]
    if len(set(ids)) < len(ids):
        wrong.append(f"doubled: {sorted({one for one in ids if ids.count(one) > 1})[:3]}")
    keys = [(hit["distance"], hit["id"].encode()) for hit in hits]
    if any(one > other for one, other in pairwise(keys)):
        wrong.append("wrong order")
    return wrong


def _scores(event: Event, codes: Codes, hit: Event) -> list[str]:
    """Whether similarity and match are those of the distance."""
    wrong = []
    if abs(hit["similarity"] - (1 - hit["distance"] / codes.bits)) > _TOLERANCE:
        wrong.append(f"wrong similarity: {hit['id']} {hit['similarity']}")
    table = codes.match.get(f"{event['from']}-to-{event['to']}")
    match = None if table is None else table[hit["distance"]]
    if hit["match"] != match:
        wrong.append(f"wrong match: {hit['id']} {hit['match']}, wanted {match}")
    return wrong
