"""Names and numbers of a report as people read them: budgets, tasks, efforts, shares, times."""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from model.attacks.text_limits import changed_words, word_spans
from model.errors import DataError

NORMS: Mapping[str, str] = MappingProxyType(
    {
        "linf": "L∞",
        "l2": "L2",
        "words": "words replaced",
        "typos": "typing errors",
        "text": "words or typing errors",
        "embedding": "embedding space",
        "natural": "natural corruption",
    }
)
METHODS: Mapping[str, str] = MappingProxyType(
    {
        "fgsm": "one gradient step",
        "pgd": "projected gradient descent",
        "apgd": "projected gradient descent with a step size that adapts",
        "noise": "random noise; the best of the draws when there are several",
        "square": "black box: random squares, sees the code that comes back",
        "nes": "black box: gradient estimated from the codes that come back",
        "ranks": "black box: random squares, sees only the ids that come back",
        "transfer": "made on another model and sent to this one",
        "words": "words replaced where the gradient says so",
        "typos": "typing errors where the gradient says so",
        "embedding": "gradient descent on word vectors; no client can send this",
        "natural": "no attack: what happens to pictures anyway",
    }
)
AIMS: Mapping[str, str] = MappingProxyType(
    {
        "own-code": "away from the query's own code (HAG)",
        "sdha": "away from the relevant items, the nearest weighing most (SDHA)",
        "mainstay": "away from the code at the centre of what is relevant (SAAT)",
        "cross-modal": "away from the paired item's code and its neighbours",
        "p2p": "towards the code of one item of the target",
        "dhta": "towards the voted code of the target's items (DHTA)",
        "tha": "towards the prototype code of the target label",
        "targeted-mainstay": "towards the mainstay code of the target",
        "raise": "bring a database item to the top of given queries",
        "sink": "push a database item out of given queries",
    }
)


def share(value: float | None, digits: int = 1) -> str:
    """A share in per cent, "66.5"; a dash for None."""
    return "–" if value is None else f"{100 * value:.{digits}f}"


def number(value: float | None, digits: int = 3) -> str:
    """A number with `digits` significant digits; a dash for None."""
    return "–" if value is None else f"{value:.{digits}g}"


def points(value: float) -> str:
    """A difference of shares in points with its sign, "+3.1"."""
    text = f"{100 * value:+.1f}"
    return "0.0" if float(text) == 0 else text.replace("-", "−")


def seconds(value: float | None) -> str:
    """A time: "0.42 s", "38 s", "12 min", "3.4 h"; a dash for None."""
    if value is None:
        return "–"
    if value < 100:
        return f"{value:.2g} s" if value < 10 else f"{value:.0f} s"
    return f"{value / 60:.0f} min" if value < 6000 else f"{value / 3600:.1f} h"


def budget(norm: str, eps: float) -> str:
    """A budget with its unit: "8/255", "2.0", "20 % of the words", "severity 3"."""
    if norm == "linf":
        return f"{number(255 * eps)}/255"
    if norm == "words":
        return f"{share(eps, 0)} % of the words"
    if norm == "typos":
        return f"{eps:g} a word"
    if norm == "text":
        return "within its limits"
    if norm == "embedding":
        return f"{eps:g} × RMS"
    return f"severity {eps:g}" if norm == "natural" else f"{eps:g}"


def norm_name(norm: str) -> str:
    """The name of a norm; itself when it is none of ours."""
    return NORMS.get(norm, norm)


def task_name(task: str) -> str:
    """Task names with an arrow: "image → text"."""
    return task.replace("-to-", " → ")


def effort(row: Mapping[str, Any]) -> str:
    """How hard an attack tried: "50 steps × 2", "1,000 queries"; empty where it says nothing."""
    if row["steps"]:
        times = f" × {row['restarts']}" if row["restarts"] > 1 else ""
        return f"{row['steps']} step{'s' if row['steps'] > 1 else ''}{times}"
    if row["queries"]:
        noun = "draw" if row["attack"].startswith("noise:") else "quer"
        ending = {"draw": ("", "s"), "quer": ("y", "ies")}[noun][row["queries"] > 1]
        return f"{row['queries']:,} {noun}{ending}"
    return ""


def explain(attack: str) -> str:
    """What "method:aim" is, in words; empty for a name that is not ours."""
    method, _, aim = attack.partition(":")
    return "; ".join(text for text in (METHODS.get(method), AIMS.get(aim)) if text)


def marked(text: str, other: str) -> list[tuple[str, bool]]:
    """`text` in pieces, each with whether it differs from `other`; one piece if more than words changed."""
    if text == other:
        return [(text, False)]
    if changed_words(text, other) is None:
        return [(text, True)]
    pieces: list[tuple[str, bool]] = []
    last = 0
    for (start, end), (other_start, other_end) in zip(word_spans(text), word_spans(other), strict=True):
        if text[start:end] != other[other_start:other_end]:
            pieces += [(text[last:start], False), (text[start:end], True)]
            last = end
    return [piece for piece in [*pieces, (text[last:], False)] if piece[0]]


def finite(value: object) -> bool:
    """Whether `value` is a number that can be drawn (bool is none)."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def plain(value: object) -> Any:  # noqa: ANN401 - JSON has no narrower type
    """A copy of JSON data in which characters that no page can hold (controls, surrogates) are U+FFFD.

    Raises DataError for what is not JSON.
    """
    if isinstance(value, str):
        return "".join(letter if _printable(letter) else "\ufffd" for letter in value)
    if isinstance(value, Mapping):
        return {plain(str(key)): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if value is None or isinstance(value, bool) or finite(value):
        return value
    raise DataError(f"report: wanted JSON without NaN, got {value!r}"[:200])


def _printable(letter: str) -> bool:
    code = ord(letter)
    if code < 32:
        return letter in "\t\n"
    return not (127 <= code < 160 or 0xD800 <= code < 0xE000 or code & 0xFFFE == 0xFFFE)
