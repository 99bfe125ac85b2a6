"""What one unit of the evaluation does: an attack, its budget and effort, and the queries it is run on.

A spec is a frozen value that survives JSON, because it is part of the key under which a finished unit is
kept, of the report's rows, and of what a reader needs to run the same thing again. It holds no model, data
or seed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from math import isfinite
from typing import Any, Literal, get_args

from model.attacks.corruptions import CORRUPTIONS, SEVERITIES
from model.attacks.registry import METHODS, OBJECTIVES, TEXT_METHODS
from model.attacks.text_limits import SHARE
from model.attacks.threat import NORMS
from model.errors import RecipeError, UnknownName

Side = Literal["image", "text"]
SpecNorm = Literal["linf", "l2", "words", "typos", "embedding", "natural"]
Purpose = Literal[
    "suite", "convergence", "steps", "black-box", "transfer", "random", "text", "natural", "candidate"
]

SIDES: tuple[Side, ...] = get_args(Side)
SPEC_NORMS: tuple[SpecNorm, ...] = get_args(SpecNorm)
PURPOSES: tuple[Purpose, ...] = get_args(Purpose)

TRANSFER, NATURAL, EMBEDDING = "transfer", "natural", "embedding"
IMAGE_METHODS = (*METHODS, TRANSFER)
MAX_COUNT = 10_000_000  # of steps, restarts, queries and rows: more is a slip of the pen


@dataclass(frozen=True)
class AttackSpec:
    """One attack on a range of the evaluated queries of one side.

    name: "method:aim", as "apgd:mainstay", "transfer:mainstay", "words:mainstay", "embedding:mainstay", or
    "natural:jpeg". norm and eps: the budget; in [0, 1] pixels for linf and l2, the share of words for words
    (0.2), edits a word for typos (1), units of the embedding table's RMS for embedding, the severity 1 to 5
    for natural. steps, restarts: of gradient methods, 0 for others. queries: evaluations per input of
    black-box methods, draws of noise, 0 for others. first, count: the half-open range [first, first + count)
    of the evaluated queries; of the evaluated database items for the purpose "candidate". keep_images: store
    the attacked images beside their codes. Raises RecipeError, UnknownName.
    """

    name: str
    side: Side
    norm: SpecNorm
    eps: float
    steps: int
    restarts: int
    queries: int
    first: int
    count: int
    purpose: Purpose
    keep_images: bool = False

    def __post_init__(self) -> None:
        _choice("side", self.side, SIDES)
        _choice("norm", self.norm, SPEC_NORMS)
        _choice("purpose", self.purpose, PURPOSES)
        for name, least in (("steps", 0), ("restarts", 0), ("queries", 0), ("first", 0), ("count", 1)):
            _whole(name, getattr(self, name), least)
        object.__setattr__(self, "eps", _number("eps", self.eps))
        _choice("keep_images", str(self.keep_images), ("True", "False"))
        check_name(self.name, self.side)
        self._check_budget()

    @property
    def method(self) -> str:
        """The first half of the name: "apgd"."""
        return self.name.partition(":")[0]

    @property
    def aim(self) -> str:
        """The second half of the name: "mainstay", or the corruption of a natural unit."""
        return self.name.partition(":")[2]

    @property
    def stop(self) -> int:
        """One past the last row."""
        return self.first + self.count

    @property
    def one_draw(self) -> bool:
        """Whether it is a single draw of noise: what an unlucky client sends, and no attack."""
        return self.method == "noise" and self.queries == 1

    def to_json(self) -> dict[str, Any]:
        """Plain JSON; `from_json` reads it back equal."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: object) -> AttackSpec:
        """The spec of a JSON object. Raises RecipeError for anything else than exactly its fields."""
        names = [field.name for field in fields(cls)]
        if not isinstance(value, Mapping) or sorted(value) != sorted(names):
            got = sorted(map(str, value)) if isinstance(value, Mapping) else type(value).__name__
            raise RecipeError(f"attack spec: wanted an object of {', '.join(names)}, got {got}")
        return cls(**value)

    def _check_budget(self) -> None:
        own = {"words", "typos", EMBEDDING, NATURAL}
        own_norm = self.method if self.method in own else None
        if own_norm is None and self.norm not in NORMS:
            raise RecipeError(f"{self.name}: wanted the norm {' or '.join(NORMS)}, got {self.norm!r}")
        if own_norm is not None and self.norm != own_norm:
            raise RecipeError(f"{self.name}: wanted the norm {own_norm!r}, got {self.norm!r}")
        fixed: Mapping[str, tuple[float, ...]] = {NATURAL: SEVERITIES, "words": (SHARE,), "typos": (1,)}
        if self.eps not in fixed.get(self.norm, (self.eps,)):
            wanted = " or ".join(f"{value:g}" for value in fixed[self.norm])
            raise RecipeError(f"{self.name}: wanted eps {wanted}, got {self.eps!r}")
        if self.norm == "linf" and not 0 <= self.eps <= 1:
            raise RecipeError(f"{self.name}: wanted eps in [0, 1] pixels, got {self.eps!r}")
        if self.eps < 0:
            raise RecipeError(f"{self.name}: wanted eps >= 0, got {self.eps!r}")


def check_name(name: str, side: str) -> None:
    """Raise UnknownName or RecipeError unless `name` is an attack that there is for queries of `side`."""
    if str(name).count(":") != 1:
        raise RecipeError(f"attack: wanted a name such as apgd:mainstay, got {str(name)[:80]!r}")
    method, aim = str(name).split(":")
    if method == NATURAL:
        if side != "image":
            raise RecipeError(f"{name}: natural corruptions are for images, got side {side!r}")
        if aim not in CORRUPTIONS:
            raise UnknownName("corruption", aim[:80], CORRUPTIONS)
        return
    if aim not in OBJECTIVES:
        raise UnknownName("objective", aim[:80], OBJECTIVES)
    known = IMAGE_METHODS if side == "image" else (*TEXT_METHODS, EMBEDDING)
    if method not in known:
        raise UnknownName(f"attack method for side {side}", method[:80], known)


def side_of(name: str) -> Side:
    """The side that an attack's method is for; "image" for what is not a text method."""
    return "text" if name.partition(":")[0] in (*TEXT_METHODS, EMBEDDING) else "image"


def _choice(name: str, value: object, known: tuple[str, ...]) -> None:
    if value not in known:
        raise RecipeError(f"{name}: wanted one of {', '.join(known)}, got {str(value)[:80]!r}")


def _whole(name: str, value: object, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= MAX_COUNT:
        raise RecipeError(f"{name}: wanted a whole number from {least} to {MAX_COUNT}, got {value!r}")


def _number(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value):
        raise RecipeError(f"{name}: wanted a finite number, got {value!r}")
    return float(value)
