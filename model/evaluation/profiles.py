"""What is run: the profiles quick, standard and full, or attacks named one by one.

Every profile holds what its gates need. `quick` is for while one works; `standard` is what a claim about one
model takes on two cores; `full` is evaluation.md's long form, for a GPU or a night.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from model.attacks.corruptions import CORRUPTIONS, SEVERITIES
from model.attacks.text_limits import SHARE
from model.attacks.threat import parse_eps
from model.errors import RecipeError
from model.evaluation.specs import EMBEDDING, NATURAL, AttackSpec, Purpose, check_name, side_of

DEFAULT_EPS = 8 / 255
EMBEDDING_EPS = 0.05  # the papers' budget in text-feature space
L2_EPS = 2.0
MAX_NAMES = 100

HAG_LIKE = ("own-code", "sdha", "mainstay", "cross-modal", "targeted-mainstay")
"""The suite's objectives."""


@dataclass(frozen=True)
class Profile:
    """queries: how many are evaluated, None for all. specs: the units, in the order they are run."""

    name: str
    queries: int | None
    specs: tuple[AttackSpec, ...]


def profile(name: str, n_queries: int) -> Profile:
    """The profile `name`, or a comma list of attacks, for `n_queries` there are.

    A listed attack is "method:aim" with an optional budget, "apgd:mainstay@4/255", by default 8/255. Raises
    RecipeError, UnknownName.
    """
    if n_queries < 1:
        raise RecipeError(f"wanted at least one query to attack, got {n_queries}")
    if name == "quick":
        return _within(name, 200, _quick(), n_queries)
    if name == "standard":
        return _within(name, 400, _standard(), n_queries)
    if name == "full":
        return _within(name, None, _full(n_queries), n_queries)
    return _within(name, None, _listed(name, n_queries), n_queries)


def default_queries(name: str) -> int | None:
    """How many queries a profile evaluates at most; None for all."""
    return {"quick": 200, "standard": 400}.get(name)


def needs_surrogate(chosen: Profile) -> bool:
    """Whether a unit of it attacks by transfer."""
    return any(spec.purpose == "transfer" for spec in chosen.specs)


def _quick() -> list[AttackSpec]:
    n, eps = 200, DEFAULT_EPS
    specs = [_climb("apgd:mainstay", eps, 30, 2, n, keep=True)]
    specs += [_climb(f"apgd:{aim}", eps, 20, 1, n) for aim in ("own-code", "cross-modal")]
    specs += [_climb("fgsm:mainstay", eps, 1, 1, n)]
    specs += [_climb("apgd:mainstay", level / 255, 20, 1, n) for level in (2, 4, 16, 255)]
    specs += [_climb("apgd:own-code", 1.0, 20, 1, n)]
    specs += [_climb("apgd:mainstay", eps, 60, 4, 60, purpose="convergence")]
    specs += [_search("square:own-code", 200, 0, 100), _search("nes:own-code", 400, 100, 100)]
    specs += _noise(n, 10)
    specs += [_climb("transfer:mainstay", eps, 20, 1, n, purpose="transfer")]
    return [*specs, _text("words:mainstay", n), _text("typos:mainstay", n)]


def _standard() -> list[AttackSpec]:
    n, eps = 400, DEFAULT_EPS
    specs = [
        _climb(f"apgd:{aim}", level / 255, 50, 2, n, keep=(aim, level) == ("mainstay", 8))
        for level in (8, 16)
        for aim in HAG_LIKE
    ]
    pairs = [(level, aim) for level in (2, 4, 32, 255) for aim in ("mainstay", "own-code")]
    pairs += [(2, "sdha"), (4, "sdha"), (1, "mainstay")]
    specs += [_climb(f"apgd:{aim}", level / 255, 30, 1, n) for level, aim in pairs]
    specs += [_climb("fgsm:mainstay", eps, 1, 1, n)]
    specs += [
        _climb(f"apgd:{aim}", eps, 100, 4, 200, purpose="convergence") for aim in ("mainstay", "own-code")
    ]
    specs += [_climb("apgd:mainstay", eps, steps, 1, 100, purpose="steps") for steps in (5, 10, 25, 100)]
    specs += [_search("square:own-code", 1000, 0, 100), _search("nes:own-code", 2000, 100, 100)]
    specs += _noise(n, 50)
    specs += [_climb("transfer:mainstay", eps, 50, 1, n, purpose="transfer")]
    specs += [_in_l2("apgd:mainstay", L2_EPS, 30, 1, n)]
    specs += _texts(n)
    return specs + _natural(n) + _candidates(50)


def _full(n: int) -> list[AttackSpec]:
    eps = DEFAULT_EPS
    aims = (*HAG_LIKE, "p2p", "dhta", "tha")
    specs = [
        _climb(
            f"{method}:{aim}", level / 255, 100, 10, n, keep=(method, aim, level) == ("apgd", "mainstay", 8)
        )
        for level in (2, 4, 8, 16)
        for method, aim in [*(("apgd", aim) for aim in aims), ("pgd", "mainstay")]
    ]
    levels = (1, 32, 255)
    specs += [
        _climb(f"apgd:{aim}", level / 255, 100, 2, n) for level in levels for aim in ("mainstay", "own-code")
    ]
    specs += [_climb("fgsm:mainstay", level / 255, 1, 1, n) for level in (2, 4, 8, 16)]
    specs += [
        _climb(f"apgd:{aim}", eps, 200, 20, n, purpose="convergence") for aim in ("mainstay", "own-code")
    ]
    curve = (5, 10, 25, 50, 200, 500)
    specs += [_climb("apgd:mainstay", eps, steps, 1, n, purpose="steps") for steps in curve]
    specs += [_search("square:own-code", 5000, 0, n), _search("nes:own-code", 10_000, 0, n)]
    specs += [_search("ranks:own-code", 2000, 0, min(n, 200))]
    specs += [*_noise(n, 100), _search("noise:mainstay", 10_000, 0, min(n, 100), purpose="random")]
    specs += [_climb(f"transfer:{aim}", eps, 100, 1, n, purpose="transfer") for aim in HAG_LIKE[:4]]
    specs += [
        _in_l2(f"apgd:{aim}", size, 100, 2, n)
        for size in (0.5, 1.0, L2_EPS, 4.0)
        for aim in ("mainstay", "own-code")
    ]
    return specs + _texts(n) + _natural(n) + _candidates(200)


def _listed(names: str, n: int) -> list[AttackSpec]:
    wanted = [part.strip() for part in names.split(",") if part.strip()]
    if not wanted or len(wanted) > MAX_NAMES:
        raise RecipeError(
            f"attacks: wanted quick, standard, full or 1 to {MAX_NAMES} names, got {len(wanted)} names"
        )
    if len(set(wanted)) != len(wanted):
        raise RecipeError("attacks: wanted each name once, got one twice")
    return [_one(part, n) for part in wanted]


def _one(text: str, n: int) -> AttackSpec:
    """A listed attack with the effort of `standard`'s suite."""
    name, _, budget = text.partition("@")
    side = side_of(name)
    check_name(name, side)
    if side == "text":
        return _text(name, n, parse_eps(budget) if budget else None)
    method = name.partition(":")[0]
    if method == NATURAL:
        return AttackSpec(name, "image", "natural", parse_eps(budget or "3"), 0, 0, 0, 0, n, "natural")
    eps = parse_eps(budget) if budget else DEFAULT_EPS
    if name.endswith((":raise", ":sink")):
        return _climb(name, eps, 50, 1, n, purpose="candidate")
    searches = {"square": 1000, "nes": 2000, "ranks": 1000, "noise": 50}
    if method in searches:
        purpose: Purpose = "random" if method == "noise" else "black-box"
        return replace(_search(name, searches[method], 0, n, purpose), eps=eps)
    purpose = "transfer" if method == "transfer" else "suite"
    return _climb(name, eps, 1 if method == "fgsm" else 50, 1, n, purpose=purpose)


def _climb(
    name: str,
    eps: float,
    steps: int,
    restarts: int,
    count: int,
    *,
    purpose: Purpose = "suite",
    keep: bool = False,
) -> AttackSpec:
    """A gradient attack on the first `count` queries."""
    return AttackSpec(name, "image", "linf", eps, steps, restarts, 0, 0, count, purpose, keep)


def _in_l2(name: str, size: float, steps: int, restarts: int, count: int) -> AttackSpec:
    """The same in L2."""
    return AttackSpec(name, "image", "l2", size, steps, restarts, 0, 0, count, "suite")


def _search(name: str, queries: int, first: int, count: int, purpose: Purpose = "black-box") -> AttackSpec:
    """An attack that only asks, at the default budget."""
    return AttackSpec(name, "image", "linf", DEFAULT_EPS, 0, 0, queries, first, count, purpose)


def _noise(count: int, draws: int) -> list[AttackSpec]:
    return [_search("noise:mainstay", queries, 0, count, "random") for queries in (1, draws)]


def _text(name: str, count: int, eps: float | None = None) -> AttackSpec:
    method = name.partition(":")[0]
    if method == EMBEDDING:
        size = EMBEDDING_EPS if eps is None else eps
        return AttackSpec(name, "text", "embedding", size, 50, 1, 0, 0, count, "text")
    if method == "typos":
        return AttackSpec(name, "text", "typos", 1.0 if eps is None else eps, 0, 0, 0, 0, count, "text")
    return AttackSpec(name, "text", "words", SHARE if eps is None else eps, 0, 0, 0, 0, count, "text")


def _texts(count: int) -> list[AttackSpec]:
    return [_text(f"{method}:mainstay", count) for method in ("words", "typos", EMBEDDING)]


def _natural(count: int) -> list[AttackSpec]:
    return [
        AttackSpec(f"{NATURAL}:{name}", "image", "natural", severity, 0, 0, 0, 0, count, "natural")
        for name in CORRUPTIONS
        for severity in SEVERITIES
    ]


def _candidates(count: int) -> list[AttackSpec]:
    return [
        _climb(f"apgd:{aim}", DEFAULT_EPS, 50, 1, count, purpose="candidate") for aim in ("raise", "sink")
    ]


def _within(name: str, queries: int | None, specs: Iterable[AttackSpec], n: int) -> Profile:
    """Ranges cut to the queries there are; what starts past them keeps a place of its own.

    Black-box halves ("rows 0-99", "rows 100-199") become halves of what there is. No unit comes twice.
    """
    usable = n if queries is None else min(n, queries)
    fitted = []
    for spec in specs:
        if spec.purpose == "candidate":
            fitted.append(spec)
        elif spec.first:
            half = usable // 2
            first = min(spec.first, half)
            fitted.append(replace(spec, first=first, count=max(1, min(spec.count, usable - first))))
        elif spec.purpose == "black-box" and usable < 2 * spec.count and queries is not None:
            fitted.append(replace(spec, count=max(1, min(spec.count, usable - usable // 2))))
        else:
            fitted.append(replace(spec, count=min(spec.count, usable)))
    return Profile(name, usable, tuple(dict.fromkeys(fitted)))
