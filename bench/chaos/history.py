"""What each item may have been at any time, from what was asked of the service and what it answered.

A version of an item may be current from the moment its write was sent until a later write of the same item
was acknowledged. A write without an acknowledgement (the service died, or said 503) may have been done or
not: its version may be current, and the one before it too. So at most times an item has one version that
may be seen, and for a moment two or three.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from math import inf

from bench.chaos.journal import Event

Metadata = dict[str, object]


@dataclass
class Version:
    """What an item may be from `since` to `until`; without image and text it is not there."""

    image: int | None
    text: int | None
    metadata: Metadata
    since: float
    until: float = inf

    @property
    def present(self) -> bool:
        """Whether the item is there."""
        return self.image is not None or self.text is not None

    def may_be_seen(self, start: float, end: float) -> bool:
        """Whether a request that ran from `start` to `end` may have met it."""
        return self.since <= end and self.until >= start


@dataclass
class History:
    """The versions of all items in the order of their writes, and answers to writes that cannot be."""

    items: dict[str, list[Version]] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)
    acknowledged: int = 0
    unknown: int = 0

    def take(self, writes: Iterable[Event]) -> None:
        """Take in the writes of the whole run, in any order.

        Raises ValueError when two writes of one item went on at a time.
        """
        busy: dict[str, float] = {}
        for write in sorted(writes, key=lambda one: one["t0"]):
            if write["t0"] < busy.get(write["id"], -inf):
                raise ValueError(f"two writes of {write['id']} at a time")
            busy[write["id"]] = write["t1"]
            versions = self.items.setdefault(write["id"], [Version(None, None, {}, -inf)])
            self._take(versions, write)

    def _take(self, versions: list[Version], write: Event) -> None:
        if write.get("status", 503) == 503:
            self.unknown += 1
        else:
            seen = [one.present for one in versions if one.may_be_seen(write["t0"], write["t1"])]
            if write["status"] not in _statuses(write["what"], seen):
                self.wrong.append(f"{write['what']} {write['id']}: {write['status']} with {seen} before it")
            if write["status"] not in {200, 201, 204, 404}:
                return
            self.acknowledged += 1
            for version in versions:
                version.until = min(version.until, write["t1"])
        if write["what"] == "delete":
            versions.append(Version(None, None, {}, write["t0"]))
        else:
            versions.append(Version(write["image"], write["text"], write["metadata"], write["t0"]))

    def final(self) -> dict[str, Version]:
        """What is there at the end. Raises ValueError when an item's last write was never acknowledged."""
        found = {}
        for item_id, versions in self.items.items():
            last = [one for one in versions if one.until == inf]
            if len(last) != 1:
                raise ValueError(f"the last write of {item_id} was not acknowledged")
            if last[0].present:
                found[item_id] = last[0]
        return found


def _statuses(what: str, present: list[bool]) -> set[int]:
    """What a service may say to a write of an item that was there or not before."""
    if what == "delete":
        return {204 if one else 404 for one in present}
    return {200 if one else 201 for one in present}


@dataclass(frozen=True)
class Reign:
    """A generation and when it may have been live."""

    generation: str
    model: str
    since: float
    until: float


def reigns(first: Event, reindexes: Iterable[Event]) -> list[Reign]:
    """Which generation may have been live when.

    From the moment its reindex was asked for, until the next one was seen to be done.
    """
    done = sorted((one for one in reindexes if one["phase"] == "done"), key=lambda one: one["t0"])
    marks = [(first["id"], first["model_version"], -inf, -inf)]
    marks += [(one["generation"], one["model"], one["t0"], one["t1"]) for one in done]
    ends = [mark[3] for mark in marks[1:]] + [inf]
    return [
        Reign(generation, model, since, until)
        for (generation, model, since, _), until in zip(marks, ends, strict=True)
    ]


def windows(kills: Iterable[Event]) -> list[tuple[float, float]]:
    """From each kill of the service until it was ready again."""
    return [(one["at"], one["ready_at"]) for one in kills if one["ready_at"] is not None]
