"""Values that the use cases take and return; plain frozen dataclasses, no behaviour.

Units: distances in bits, times in milliseconds where the name ends in `_ms` and seconds where it ends
in `_s`, timestamps timezone-aware UTC.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Literal, TypeAlias

MetadataValue: TypeAlias = str | int | float | bool | list[str]
Metadata: TypeAlias = Mapping[str, MetadataValue]
Side: TypeAlias = Literal["image", "text"]
Operator: TypeAlias = Literal["eq", "in", "gt", "gte", "lt", "lte"]

SIDES: tuple[Side, Side] = ("image", "text")


@dataclass(frozen=True)
class Condition:
    """One test on one metadata key: `eq` and `in` take scalars (a list value matches when it holds one)."""

    key: str
    operator: Operator
    value: str | int | float | bool | Sequence[str | int | float | bool]


@dataclass(frozen=True)
class Filter:
    """All of `must`, at least one of `should` (when there are any), none of `must_not`."""

    must: tuple[Condition, ...] = ()
    should: tuple[Condition, ...] = ()
    must_not: tuple[Condition, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.must or self.should or self.must_not)


@dataclass(frozen=True)
class Item:
    """An item of the corpus; `image_digest` is the SHA-256 (hex) of its image's bytes in the blob store.

    `seq` is the number of the change that made it what it is; 0 before it is stored.
    """

    id: str
    image_digest: str | None
    image_type: str | None
    text: str | None
    metadata: Metadata
    created: datetime
    updated: datetime
    seq: int = field(default=0, compare=False)


@dataclass(frozen=True)
class ItemDraft:
    """What a client sends to create or replace an item; at least one of `image` and `text` is there."""

    id: str
    image: bytes | None = None
    text: str | None = None
    metadata: Metadata = field(default_factory=dict)


@dataclass(frozen=True)
class Query:
    """One search: what to look for (exactly one of `image`, `text`, `item`) and where (`to`)."""

    to: Side
    image: bytes | None = None
    text: str | None = None
    item: tuple[str, Side] | None = None
    k: int = 10
    max_distance: int | None = None
    filter: Filter = field(default_factory=Filter)
    cursor: str | None = None


@dataclass(frozen=True)
class SearchHit:
    """One hit; `similarity` is 1 - distance/bits, `match` the calibrated probability of relevance."""

    id: str
    distance: int
    similarity: float
    match: float | None
    text: str | None
    image_url: str | None
    metadata: Metadata


@dataclass(frozen=True)
class Timing:
    """Where the time of one search went, in milliseconds."""

    decode_ms: float
    encode_ms: float
    search_ms: float
    total_ms: float


@dataclass(frozen=True)
class Examined:
    """What a model makes of one query: its packed code, and its attack score where the model has one."""

    code: bytes
    score: float | None = None


@dataclass(frozen=True)
class Suspicion:
    """The attack score of a query, at least 0; `thresholds` maps a false positive rate to a score.

    Of benign queries at most that share scores above the threshold, as calibrated on held-out data.
    """

    side: Side
    score: float
    thresholds: Mapping[float, float]

    def exceeded(self) -> list[float]:
        """The rates whose threshold the score is above, strictest first; empty for an unsuspicious query."""
        return sorted(rate for rate, threshold in self.thresholds.items() if self.score > threshold)


@dataclass(frozen=True)
class SearchAnswer:
    """The page of hits of one search and what produced it."""

    hits: tuple[SearchHit, ...]
    next_cursor: str | None
    exact: bool
    model_version: str
    index_generation: str
    timing: Timing
    suspicion: Suspicion | None = None

    @property
    def attack_score(self) -> float | None:
        """The query's attack score; None without one."""
        return None if self.suspicion is None else self.suspicion.score


@dataclass(frozen=True)
class EncodeAnswer:
    """A code in lower-case hex (bits / 4 digits) and the model that made it, as `name/version`."""

    code: str
    bits: int
    model_version: str


@dataclass(frozen=True)
class ItemPage:
    """One page of items in the order of their ids."""

    items: tuple[Item, ...]
    next_cursor: str | None


@dataclass(frozen=True)
class ItemOutcome:
    """What became of one item of a batch: HTTP-like status, and the error when there was one."""

    id: str | None
    status: int
    code: str | None = None
    detail: str | None = None


class JobKind(StrEnum):
    """What a job does."""

    IMPORT = "import"
    REINDEX = "reindex"
    CATCH_UP = "catch-up"


class JobPhase(StrEnum):
    """Where a job stands; the last three are final."""

    QUEUED = "queued"
    ENCODING = "encoding"
    BUILDING = "building"
    VALIDATING = "validating"
    SWAPPING = "swapping"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


FINAL_PHASES = frozenset({JobPhase.DONE, JobPhase.FAILED, JobPhase.CANCELLED})


@dataclass(frozen=True)
class TaskQuality:
    """mAP (0 to 1) of a new model and of the live one on the same pairs, in one direction of search."""

    task: str
    map: float
    live_map: float


@dataclass(frozen=True)
class Quality:
    """A new model beside the live one on pairs of the corpus.

    `relevance` says what counts as a hit: an item that shares a label ("labels") or the item's own other
    half ("pairs"). `floor` is how much lower than the live one's an mAP may be; None when nothing was asked.
    """

    model: str
    live_model: str
    relevance: Literal["labels", "pairs"]
    queries: int
    items: int
    tasks: tuple[TaskQuality, ...]
    floor: float | None


@dataclass(frozen=True)
class LeftOut:
    """Items that a generation lacks although the corpus has them, which was allowed; `ids` are the first few.

    `reason`: "bare" came as codes of another model, with no content to encode; "broken" cannot be encoded.
    """

    reason: Literal["bare", "broken"]
    count: int
    ids: tuple[str, ...]


@dataclass(frozen=True)
class Validation:
    """What was checked before a generation could be served: codes counted, canaries found, quality measured.

    `note` says why there is no `quality`.
    """

    image_count: int
    text_count: int
    canaries: int
    quality: Quality | None = None
    note: str | None = None
    left_out: tuple[LeftOut, ...] = ()


@dataclass(frozen=True)
class Job:
    """A persistent job; `rate` in items per second, `eta_s` in seconds, both None while unknown.

    `quality_floor` is what the request asked for, None for the service's own.
    """

    id: str
    kind: JobKind
    phase: JobPhase
    done: int
    total: int
    rate: float | None
    eta_s: float | None
    error: str | None
    model: str | None
    activate: bool
    generation_id: str | None
    created: datetime
    started: datetime | None
    finished: datetime | None
    quality_floor: float | None = None
    validation: Validation | None = None


@dataclass(frozen=True)
class Generation:
    """An index generation: one model version x one snapshot of the catalog.

    The `predecessor` was live before the live one; writes are encoded for both, so it can be served at once.
    """

    id: str
    model_name: str
    model_version: str
    model_digest: str
    preprocessing_digest: str
    bits: int
    snapshot_seq: int
    image_count: int
    text_count: int
    created: datetime
    live: bool
    predecessor: bool = False


class Scope(StrEnum):
    """What a caller may do; the three are independent, no one holds another."""

    SEARCH = "search"
    WRITE = "write"
    ADMIN = "admin"


@dataclass(frozen=True)
class ApiKey:
    """An API key as the catalog keeps it: `digest` is the SHA-256 (hex) of the key, `id` its public part."""

    id: str
    name: str
    digest: str = field(repr=False)
    scopes: frozenset[Scope]
    created: datetime
    expires: datetime | None = None
    last_used: datetime | None = None
    revoked: datetime | None = None

    def state(self, now: datetime) -> Literal["valid", "expired", "revoked"]:
        """Whether the key is good at a time."""
        if self.revoked is not None:
            return "revoked"
        return "expired" if self.expires is not None and self.expires <= now else "valid"


@dataclass(frozen=True)
class Caller:
    """Who is calling and what they may do; `key_id` is None for callers without a key."""

    key_id: str | None
    scopes: frozenset[Scope]


ANONYMOUS = Caller(None, frozenset(Scope))
"""A caller who was not asked for a key: they may do everything."""
