"""How items are laid out in segments: options, building, merging.

New items come as a segment of their own. Small neighbours are merged at once, larger ones when they have
become of similar size, so that a row is copied a few times in its life and a search visits few segments.
No merge makes more than `segment_rows` rows, so memory beside the index stays small however large it is;
only the one inverted file grows without this limit, since its lists are worth most when it holds all.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any, Self

import faiss
import numpy as np
from numpy.typing import NDArray

from index.backends.engines import Engine, FlatEngine, GpuEngine
from index.backends.ivf import IvfEngine, assign, suggested_lists, train
from index.backends.segment import Part, Segment, merged_parts
from index.codes import CodeArray
from index.errors import UnknownOption, Unsupported
from index.ids import IdTable

_TAIL_ROWS = 8192  # a segment below this many rows is merged with what comes next
_SIMILAR = 4  # a segment up to this many times as large as the next is merged with it
_DEAD_SHARE = 16  # a segment is rebuilt when one row in this many is dead
_FEW_DEAD = 64
_FRESH_SHARE = 4  # the inverted file is rebuilt when 1/4 of its size has come beside it


@dataclass(frozen=True)
class FaissOptions:
    """Options of the Faiss backends; all are recorded with a generation.

    ivf_from: build an inverted file from this many items on; None: exact search for ever.
    nprobe: lists that a query opens in it; "all" makes it exact.
    lists: number of its lists; None: the power of two nearest to the square root of the item count.
    segment_rows: most rows of a flat segment.
    device: "cpu", "gpu", or "auto": a GPU when Faiss has one.
    """

    ivf_from: int | None = None
    nprobe: int | str = 16
    lists: int | None = None
    segment_rows: int = 1 << 20
    device: str = "auto"

    def __post_init__(self) -> None:
        """Raise UnknownOption when a value is out of its range, Unsupported when a GPU is missing."""
        for name in ("ivf_from", "lists"):
            if getattr(self, name) is not None:
                _positive(name, getattr(self, name))
        _positive("segment_rows", self.segment_rows)
        if self.nprobe != "all":
            _positive("nprobe", self.nprobe)
        if self.device not in {"auto", "cpu", "gpu"}:
            raise UnknownOption(f"device: wanted auto, cpu or gpu, got {self.device!r}")
        if self.device == "gpu" and not faiss.get_num_gpus():
            raise Unsupported("device: wanted gpu, but this Faiss sees no GPU")

    @classmethod
    def of(cls, options: dict[str, Any]) -> Self:
        """Make options from names and values. Raises UnknownOption."""
        known = {field.name for field in fields(cls)}
        unknown = sorted(set(options) - known)
        if unknown:
            raise UnknownOption(f"options: wanted some of {sorted(known)}, got {unknown}")
        return cls(**options)

    @property
    def probes(self) -> int | None:
        """Lists to open, None for all."""
        return None if isinstance(self.nprobe, str) else self.nprobe


def _positive(name: str, value: object) -> None:
    """Raise UnknownOption unless the value is a whole number of at least 1."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise UnknownOption(f"{name}: wanted a whole number >= 1, got {value!r}")


def settle(segments: Sequence[Segment], options: FaissOptions) -> tuple[Segment, ...]:
    """Return segments with the same items, rebuilt and merged where it is time."""
    kept = [_cleaned(segment, options) for segment in segments if segment.alive]
    inverted = [segment for segment in kept if isinstance(segment.engine, IvfEngine)]
    flat = [segment for segment in kept if not isinstance(segment.engine, IvfEngine)]
    if _wants_inverted(sum(s.alive for s in inverted), sum(s.alive for s in flat), options):
        return (_inverted(kept, options),)
    while len(flat) > 1 and _mergeable(flat[-2], flat[-1], options):
        flat[-2:] = [_flat(merged_parts(flat[-2:]), options)]
    return (*inverted, *flat)


def build_segment(ids: IdTable, codes: CodeArray, options: FaissOptions) -> Segment:
    """Make an exact segment of n > 0 items in id order."""
    engine: Engine
    if len(ids) > _TAIL_ROWS and options.device != "cpu" and faiss.get_num_gpus():
        engine = GpuEngine(codes)
    else:
        engine = FlatEngine(codes)
    return Segment(ids, engine)


def _cleaned(segment: Segment, options: FaissOptions) -> Segment:
    """Return the segment, rebuilt without its dead rows when they have become many."""
    if len(segment.dead) <= max(_FEW_DEAD, len(segment.ids) // _DEAD_SHARE):
        return segment
    if isinstance(segment.engine, IvfEngine):
        return _inverted([segment], options)
    return _flat(merged_parts([segment]), options)


def _mergeable(left: Segment, right: Segment, options: FaissOptions) -> bool:
    """True when it is time to merge two neighbours."""
    small = len(left.ids) < _TAIL_ROWS or len(left.ids) <= _SIMILAR * len(right.ids)
    return small and left.alive + right.alive <= options.segment_rows


def _wants_inverted(filed: int, fresh: int, options: FaissOptions) -> bool:
    """True when an inverted file should be built now, of `filed` items that are in one and `fresh` others."""
    if options.ivf_from is None or filed + fresh < options.ivf_from:
        return False
    return not filed or fresh * _FRESH_SHARE >= filed


def _flat(parts: Iterator[Part], options: FaissOptions) -> Segment:
    """Build an exact segment from parts in id order."""
    keys, codes = [], []
    for part in parts:
        keys.append(part.keys)
        codes.append(part.codes)
    return build_segment(IdTable.from_keys(keys), np.concatenate(codes), options)


def _inverted(segments: Sequence[Segment], options: FaissOptions) -> Segment:
    """Build one inverted file of all items.

    The centroids are kept while they fit the number of items, so that only fresh items are assigned.
    """
    parts = list(merged_parts(segments))
    ids = IdTable.from_keys(part.keys for part in parts)
    codes = np.concatenate([part.codes for part in parts])
    lists = np.concatenate([part.lists for part in parts])
    wanted = min(len(ids), options.lists or suggested_lists(len(ids)))
    centroids = next((s.engine.centroids for s in segments if isinstance(s.engine, IvfEngine)), None)
    if centroids is None or len(centroids) * 2 <= wanted or len(centroids) > len(ids):
        centroids = train(codes, wanted)
        lists[:] = -1
    return inverted_segment(ids, codes, centroids, lists, options)


def inverted_segment(
    ids: IdTable, codes: CodeArray, centroids: CodeArray, lists: NDArray[np.int32], options: FaissOptions
) -> Segment:
    """Make a segment with an inverted file; rows whose list is -1 are assigned to their nearest."""
    fresh = lists < 0
    if fresh.any():
        lists = lists.copy()
        lists[fresh] = assign(centroids, codes[fresh])
    return Segment(ids, IvfEngine(codes, centroids, lists, options.probes))
