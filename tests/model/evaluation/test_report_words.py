"""Names, budgets, efforts and marks of the report's page."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.attacks.corruptions import CORRUPTIONS
from model.attacks.registry import METHODS, OBJECTIVES, TEXT_METHODS
from model.evaluation import report_words as words


def test_every_attack_there_is_has_an_explanation() -> None:
    for method in (*METHODS, *TEXT_METHODS, "transfer", "embedding"):
        for aim in OBJECTIVES:
            assert "; " in words.explain(f"{method}:{aim}")
    for corruption in CORRUPTIONS:
        assert words.explain(f"natural:{corruption}")
    assert words.explain("unheard-of") == ""


@pytest.mark.parametrize(
    ("norm", "eps", "wanted"),
    [
        ("linf", 8 / 255, "8/255"),
        ("linf", 0.031373, "8/255"),
        ("linf", 1.0, "255/255"),
        ("linf", 0.5 / 255, "0.5/255"),
        ("l2", 2.0, "2"),
        ("words", 0.2, "20 % of the words"),
        ("typos", 1.0, "1 a word"),
        ("embedding", 0.5, "0.5 × RMS"),
        ("natural", 3.0, "severity 3"),
        ("text", 0.2, "within its limits"),
    ],
)
def test_budgets_have_units(norm: str, eps: float, wanted: str) -> None:
    assert words.budget(norm, eps) == wanted


@pytest.mark.parametrize(
    ("row", "wanted"),
    [
        ({"steps": 50, "restarts": 2, "queries": 0, "attack": "apgd:mainstay"}, "50 steps × 2"),
        ({"steps": 1, "restarts": 1, "queries": 0, "attack": "fgsm:mainstay"}, "1 step"),
        ({"steps": 0, "restarts": 0, "queries": 1000, "attack": "square:own-code"}, "1,000 queries"),
        ({"steps": 0, "restarts": 0, "queries": 1, "attack": "noise:mainstay"}, "1 draw"),
        ({"steps": 0, "restarts": 0, "queries": 10, "attack": "noise:mainstay"}, "10 draws"),
        ({"steps": 0, "restarts": 0, "queries": 0, "attack": "words:mainstay"}, ""),
    ],
)
def test_efforts_are_spelt_out(row: dict[str, Any], wanted: str) -> None:
    assert words.effort(row) == wanted


@pytest.mark.parametrize(
    ("value", "wanted"),
    [(None, "–"), (0.4212, "0.42 s"), (38.4, "38 s"), (720.0, "12 min"), (12240.0, "3.4 h")],
)
def test_times_have_a_fitting_unit(value: float | None, wanted: str) -> None:
    assert words.seconds(value) == wanted


def test_no_difference_has_no_sign() -> None:
    assert [words.points(value) for value in (0.0, -0.0001, 0.0312, -0.0312)] == [
        "0.0",
        "0.0",
        "+3.1",
        "−3.1",
    ]


@given(st.lists(st.sampled_from(["red", "dress", "a", "T-shirt", "été"]), min_size=1, max_size=8), st.data())
def test_marks_rebuild_the_text(tokens: list[str], data: st.DataObject) -> None:
    other = [data.draw(st.sampled_from([token, "x"])) for token in tokens]
    before, after = ", ".join(tokens) + ".", ", ".join(other) + "."
    pieces = words.marked(before, after)
    assert "".join(text for text, _ in pieces) == before
    assert [text for text, changed in pieces if changed] == [
        a for a, b in zip(tokens, other, strict=True) if a != b
    ]


def test_a_text_that_is_not_word_for_word_is_marked_as_a_whole() -> None:
    assert words.marked("a b", "a b c") == [("a b", True)]
