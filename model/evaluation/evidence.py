"""What was measured: one attack on one model as served, and everything known about one model.

`Attacked` is a work unit: it is kept as one safetensors file, written atomically, never unpickled, and read
back only when it is whole. `ModelEvidence` joins a model's units with the scores of its own database; the
gates and the report read nothing else.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load as read_tensors
from safetensors.numpy import save as write_tensors

from model.attacks.subjects import Subject
from model.data.manifest import Manifest, Record
from model.durable import read_file, write_file
from model.errors import ArtefactError, DataError, ModelError
from model.evaluation.scoring import MAIN_PROTOCOL, TASKS, Bits, Rows, Scorer, Values, mean_of, tasks_of
from model.evaluation.specs import AttackSpec

FORMAT = 1
MAX_UNIT_BYTES = 4 << 30
_META = "meta"

Floats = NDArray[np.float64]

_COLUMNS: Mapping[str, tuple[str, int]] = {
    "rows": ("int64", 1),
    "codes": ("bool", 2),
    "queries": ("int64", 1),
    "never_gradient": ("bool", 1),
    "saturated": ("float64", 1),
    "loss": ("float64", 1),
    "clean_loss": ("float64", 1),
    "linf": ("float64", 1),
    "l2": ("float64", 1),
    "ssim": ("float64", 1),
    "flips": ("int64", 1),
}
"""Arrays with one row per query: type and number of axes."""


@dataclass(frozen=True, eq=False)
class Attacked:
    """One spec on one model, as served: codes of the 8-bit images (or the texts) that a client would send.

    rows: int64 (m,) positions among the evaluated queries (database items for the purpose "candidate").
    codes: bool (m, K). queries: int64 (m,) inputs the model evaluated for this query. never_gradient: bool
    (m,) all of its gradients were zero in every entry. had_gradient: the attack took gradients at all.
    saturated: share of code units with |tanh| > 0.999 at the clean input. loss, clean_loss: the attack's
    objective of the real code after and before. linf, l2: size of the change in [0, 1] pixels; ssim: against
    the clean image; NaN for texts. flips: int64 (m,) bits changed. curve: float (R, T), mean over queries of
    the best relaxed objective so far. seconds: spent. budget: BudgetCheck as a dict, None for texts and
    corruptions. broken_limits: a sentence per limit that a changed text breaks. images: uint8 (m, S, S, 3)
    or None. texts: what was sent, or None. extra: plain JSON that only this kind of attack has.
    """

    spec: AttackSpec
    rows: Rows
    codes: Bits
    queries: NDArray[np.int64]
    never_gradient: Bits
    had_gradient: bool
    saturated: Floats
    loss: Floats
    clean_loss: Floats
    linf: Floats
    l2: Floats
    ssim: Floats
    flips: NDArray[np.int64]
    curve: Floats
    seconds: float
    budget: dict[str, Any] | None = None
    broken_limits: tuple[str, ...] = ()
    images: NDArray[np.uint8] | None = None
    texts: tuple[str, ...] | None = None
    extra: dict[str, Any] = field(default_factory=dict)

    def save(self, path: Path) -> None:
        """Write one file, whole or not at all. Raises OSError."""
        arrays: dict[str, NDArray[Any]] = {
            name: np.ascontiguousarray(getattr(self, name), dtype=kind)
            for name, (kind, _) in _COLUMNS.items()
        }
        arrays["curve"] = np.ascontiguousarray(self.curve, dtype=np.float64)
        if self.images is not None:
            arrays["images"] = np.ascontiguousarray(self.images, dtype=np.uint8)
        meta = {
            "format": FORMAT,
            "spec": self.spec.to_json(),
            "had_gradient": self.had_gradient,
            "seconds": self.seconds,
            "budget": self.budget,
            "broken_limits": list(self.broken_limits),
            "texts": None if self.texts is None else list(self.texts),
            "extra": self.extra,
        }
        text = json.dumps(meta, allow_nan=False, sort_keys=True)
        arrays[_META] = np.frombuffer(text.encode("utf-8"), dtype=np.uint8)
        write_whole(path, write_tensors(arrays))

    @classmethod
    def load(cls, path: Path) -> Attacked:
        """Read a unit back; raises DataError when the file is not a whole one of this format."""
        try:
            data = read_file(path, MAX_UNIT_BYTES)
            arrays = read_tensors(data)
            meta = json.loads(arrays.pop(_META).tobytes().decode("utf-8"))
            return cls(**_checked(arrays, meta))
        except (ArtefactError, SafetensorError, UnicodeDecodeError) as error:
            raise DataError(f"{path.name}: wanted a finished unit, got a damaged file ({error})") from error
        except (KeyError, TypeError, ValueError, AttributeError, ModelError) as error:
            raise DataError(f"{path.name}: wanted a unit of format {FORMAT}, got: {error}") from error

    def __len__(self) -> int:
        return len(self.rows)


@dataclass(frozen=True, eq=False)
class ModelEvidence:
    """Everything measured of one model.

    label: its name in the report, unique in it. queries: the n evaluated query items, the same for all
    models of a report. clean_codes: bool (n, K) by side. database_digest: by protocol, the digest of the
    model that encoded the database. split_digest: SHA-256 over the ids of queries, train and database.
    facts: what the probes found (probes.run_probes fills it). notes: sentences that the report prints.
    left_out: {"what", "why"} of the units that this model cannot be attacked with.
    """

    label: str
    digest: str
    defence: str
    seed: int
    bits: int
    modalities: frozenset[str]
    card: Mapping[str, Any]
    subject: Subject
    manifest: Manifest
    queries: list[Record]
    clean_codes: Mapping[str, Bits]
    database_digest: Mapping[str, str]
    split_digest: str
    scores: Scorer
    attacked: list[Attacked]
    facts: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    left_out: list[dict[str, str]] = field(default_factory=list)
    _known: dict[tuple[int, str, str], tuple[Values, Values]] = field(default_factory=dict, repr=False)

    @property
    def tasks(self) -> tuple[str, ...]:
        """What this model can retrieve, in the order of TASKS."""
        return tuple(task for task in TASKS if set(task.split("-to-")) <= self.modalities)

    @property
    def main_task(self) -> str:
        """The task of the gates: image-to-text, or what an image-only or text-only model has."""
        return next(t for t in ("image-to-text", "image-to-image", "text-to-text") if t in self.tasks)

    def tasks_of(self, unit: Attacked) -> tuple[str, ...]:
        """The tasks that an attacked query of this unit is scored on; none for the candidate side."""
        if unit.spec.purpose == "candidate":
            return ()
        return tasks_of(unit.spec.side, self.modalities)

    def find(self, **wanted: object) -> list[Attacked]:
        """The units whose spec has these values: fields of AttackSpec, or method and aim.

        Floats agree within 1e-9. Raises DataError for a name that specs do not have.
        """
        for name in wanted:
            if not hasattr(AttackSpec, name) and name not in AttackSpec.__dataclass_fields__:
                raise DataError(f"find: specs have no {name!r}")
        return [unit for unit in self.attacked if all(_agrees(unit.spec, *pair) for pair in wanted.items())]

    def clean_ap(self, task: str, protocol: str = MAIN_PROTOCOL) -> Values:
        """AP (n,) of the clean queries, NaN where a query has no relevant item."""
        return self.clean_both(task, protocol)[0]

    def clean_both(self, task: str, protocol: str = MAIN_PROTOCOL) -> tuple[Values, Values]:
        """AP@all and AP@50 (n,) of the clean queries."""
        key = (0, task, protocol)
        if key not in self._known:
            codes = self.clean_codes[task.partition("-to-")[0]]
            self._known[key] = self.scores.ap_both(codes, self.scores.all_rows, task, protocol)
        return self._known[key]

    def unit_ap(self, unit: Attacked, task: str, protocol: str = MAIN_PROTOCOL) -> Values:
        """AP (m,) of one unit's rows."""
        return self.unit_both(unit, task, protocol)[0]

    def unit_both(self, unit: Attacked, task: str, protocol: str = MAIN_PROTOCOL) -> tuple[Values, Values]:
        """AP@all and AP@50 (m,) of one unit's rows; computed once for a unit of this evidence."""
        if not any(unit is own for own in self.attacked):
            return self.scores.ap_both(unit.codes, unit.rows, task, protocol)
        key = (id(unit), task, protocol)  # safe: a unit of the list lives as long as this evidence
        if key not in self._known:
            self._known[key] = self.scores.ap_both(unit.codes, unit.rows, task, protocol)
        return self._known[key]

    def minima(self, units: Sequence[Attacked], task: str, protocol: str = MAIN_PROTOCOL) -> Values:
        """Per query (n,) the least AP over the clean query and these units' attempts at it: the worst case.

        The mean of this is a mean of minima, never a minimum of means. A query that no unit covers keeps its
        clean AP, an excluded one NaN.
        """
        least = self.clean_ap(task, protocol).copy()
        for unit in units:
            np.minimum.at(least, unit.rows, self.unit_ap(unit, task, protocol))
        return least

    def mean_clean(self, task: str, protocol: str = MAIN_PROTOCOL) -> float:
        """MAP of the clean queries."""
        return mean_of(self.clean_ap(task, protocol))


def write_whole(path: Path, data: bytes) -> None:
    """Write beside `path` and rename, so that a reader finds a whole file or none. Raises OSError."""
    temporary = path.with_name(f".{path.name[:80]}.{secrets.token_hex(6)}")
    try:
        write_file(temporary, data)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _agrees(spec: AttackSpec, name: str, wanted: object) -> bool:
    value = getattr(spec, name)
    if isinstance(value, float) and isinstance(wanted, int | float):
        return abs(value - wanted) <= 1e-9
    return bool(value == wanted)


def _checked(arrays: Mapping[str, NDArray[Any]], meta: Mapping[str, Any]) -> dict[str, Any]:
    """Constructor arguments of a unit; raises KeyError, TypeError, ValueError, ModelError."""
    if meta["format"] != FORMAT:
        raise ValueError(f"format {meta['format']!r}")
    count = len(arrays["rows"])
    for name, (kind, axes) in _COLUMNS.items():
        array = arrays[name]
        if array.dtype != np.dtype(kind) or array.ndim != axes or len(array) != count:
            raise ValueError(f"{name}: wanted {kind} with {count} rows, got {array.dtype} {array.shape}")
    spec = AttackSpec.from_json(meta["spec"])
    wanted = np.arange(spec.first, spec.first + count)
    if not 0 < count <= spec.count or not np.array_equal(arrays["rows"], wanted):
        raise ValueError(f"rows: wanted up to {spec.count} from {spec.first} on, got {count}")
    _check_meta(meta, arrays, count)
    texts = meta["texts"]
    return {
        **{name: arrays[name] for name in (*_COLUMNS, "curve")},
        "spec": spec,
        "had_gradient": meta["had_gradient"],
        "seconds": float(meta["seconds"]),
        "budget": meta["budget"],
        "broken_limits": tuple(meta["broken_limits"]),
        "images": arrays.get("images"),
        "texts": None if texts is None else tuple(texts),
        "extra": meta["extra"],
    }


def _check_meta(meta: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]], count: int) -> None:
    curve, images, texts = arrays["curve"], arrays.get("images"), meta["texts"]
    if curve.dtype != np.float64 or curve.ndim != 2:
        raise ValueError(f"curve: wanted float64 (R, T), got {curve.dtype} {curve.shape}")
    if images is not None and (images.dtype != np.uint8 or images.ndim != 4 or len(images) != count):
        raise ValueError(f"images: wanted uint8 ({count}, S, S, 3), got {images.dtype} {images.shape}")
    if texts is not None and (len(texts) != count or not all(isinstance(text, str) for text in texts)):
        raise ValueError(f"texts: wanted {count} strings")
    if not isinstance(meta["had_gradient"], bool) or not isinstance(meta["extra"], dict):
        raise TypeError("had_gradient: wanted true or false, extra: wanted an object")
