"""Specs and profiles: what may be asked for, what survives JSON, what is refused by name."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.attacks.registry import attack_names
from model.errors import ModelError, RecipeError, UnknownName
from model.evaluation.cost import CostModel, passes
from model.evaluation.profiles import default_queries, needs_surrogate, profile
from model.evaluation.specs import PURPOSES, AttackSpec, side_of

GOOD = {
    "name": "apgd:mainstay",
    "side": "image",
    "norm": "linf",
    "eps": 8 / 255,
    "steps": 20,
    "restarts": 1,
    "queries": 0,
    "first": 0,
    "count": 10,
    "purpose": "suite",
    "keep_images": False,
}


@given(
    st.sampled_from(attack_names()),
    st.floats(0, 1),
    st.sampled_from(PURPOSES),
    st.tuples(*[st.integers(0, 1000)] * 4),
    st.integers(1, 1000),
)
def test_a_spec_survives_json(name, eps, purpose, numbers, count):
    steps, restarts, queries, first = numbers
    spec = AttackSpec(name, "image", "linf", eps, steps, restarts, queries, first, count, purpose)
    assert AttackSpec.from_json(json.loads(json.dumps(spec.to_json()))) == spec
    assert (spec.method, spec.aim, spec.stop) == (*name.split(":"), first + count)


@pytest.mark.parametrize(
    "change",
    [
        {"eps": float("nan")},
        {"eps": float("inf")},
        {"eps": -0.1},
        {"eps": 8.0},
        {"eps": True},
        {"eps": "8/255"},
        {"count": 0},
        {"count": 10**9},
        {"first": -1},
        {"steps": 1.5},
        {"restarts": True},
        {"side": "sound"},
        {"norm": "l1"},
        {"norm": "words"},
        {"purpose": "show"},
        {"keep_images": 1},
        {"name": "words:mainstay"},
        {"name": "apgd:everything"},
        {"name": "apgd"},
        {"name": "a:b:c"},
        {"name": ["apgd:mainstay"]},
        {"name": "natural:jpeg", "norm": "natural", "eps": 6},
        {"name": "natural:hail", "norm": "natural", "eps": 3},
        {"name": "natural:jpeg", "side": "text", "norm": "natural", "eps": 3},
        {"name": "words:mainstay", "side": "text", "norm": "words", "eps": 0.5},
        {"name": "typos:mainstay", "side": "text", "norm": "typos", "eps": 2},
        {"surprise": 1},
    ],
)
def test_a_bad_spec_is_refused(change):
    assert AttackSpec.from_json(GOOD).to_json() == GOOD
    with pytest.raises((RecipeError, UnknownName)):
        AttackSpec.from_json({**GOOD, **change})


@pytest.mark.parametrize("value", [None, [], "apgd:mainstay", {}, {**GOOD, "count": None}])
def test_json_that_is_no_spec_is_refused(value):
    with pytest.raises(RecipeError, match="wanted"):
        AttackSpec.from_json(value)


@pytest.mark.parametrize(
    "names",
    [
        "",
        " , ,",
        "everything",
        "apgd:",
        ":mainstay",
        "apgd:mainstay@",
        "apgd:mainstay@x",
        "apgd:mainstay@1/0",
        "apgd:mainstay@2",
        "apgd:mainstay@-1/255",
        "words:mainstay@0.5",
        "natural:jpeg@9",
        "apgd:mainstay,apgd:mainstay",
        "../../etc/passwd",
        "apgd:mainstay;rm -rf",
        "standard,quick",
        "a" * 100_000,
        ",".join(f"apgd:mainstay@{level}/255" for level in range(101)),
    ],
)
def test_hostile_lists_of_attacks_are_refused_in_one_short_line(names):
    if names == "apgd:mainstay@":  # nothing after the sign: the default budget
        assert profile(names, 5).specs[0].eps == pytest.approx(8 / 255)
        return
    with pytest.raises(ModelError) as caught:
        profile(names, 5)
    assert len(str(caught.value)) < 600


def test_listed_attacks_take_budgets_as_people_write_them():
    names = "apgd:mainstay@4/255, fgsm:own-code@0.0625,words:sdha,natural:blur@2,noise:mainstay"
    names += ",embedding:mainstay"
    specs = profile(names, 30).specs
    assert [spec.eps for spec in specs] == pytest.approx([4 / 255, 0.0625, 0.2, 2, 8 / 255, 0.05])
    assert [spec.side for spec in specs] == ["image", "image", "text", "image", "image", "text"]
    assert [spec.purpose for spec in specs] == ["suite", "suite", "text", "natural", "random", "text"]
    assert all((spec.first, spec.count) == (0, 30) for spec in specs)


@pytest.mark.parametrize("name", ["quick", "standard", "full"])
@pytest.mark.parametrize("n", [1, 2, 7, 150, 200, 399, 5000])
def test_a_profile_stays_within_the_queries_there_are(name, n):
    chosen = profile(name, n)
    usable = min(n, default_queries(name) or n)
    assert chosen.queries == usable
    assert len(set(chosen.specs)) == len(chosen.specs)
    for spec in chosen.specs:
        if spec.purpose != "candidate":
            assert 0 <= spec.first < max(usable, spec.first + 1)
            assert spec.count <= usable
    assert needs_surrogate(chosen)
    names = {spec.name for spec in chosen.specs}
    assert {"apgd:mainstay", "apgd:own-code", "square:own-code", "nes:own-code", "words:mainstay"} <= names


def test_standard_is_the_text_of_its_issue():
    specs = profile("standard", 500).specs
    suite = {(round(s.eps * 255), s.aim, s.steps, s.restarts) for s in specs if s.purpose == "suite"}
    five = ("own-code", "sdha", "mainstay", "cross-modal", "targeted-mainstay")
    assert {(level, aim, 50, 2) for level in (8, 16) for aim in five} <= suite
    others = {(level, aim, 30, 1) for level in (2, 4, 32, 255) for aim in ("mainstay", "own-code")}
    assert others <= suite
    blind = {(s.method, s.queries, s.first, s.count) for s in specs if s.purpose == "black-box"}
    assert blind == {("square", 1000, 0, 100), ("nes", 2000, 100, 100)}
    assert {s.method for s in specs if s.side == "text"} == {"words", "typos", "embedding"}


def test_no_query_is_no_profile():
    with pytest.raises(RecipeError, match="at least one query"):
        profile("quick", 0)


def test_names_say_their_side():
    assert [side_of(name) for name in ("words:x", "typos:x", "embedding:x", "apgd:x", "natural:x")] == [
        "text",
        "text",
        "text",
        "image",
        "image",
    ]


def test_the_time_left_follows_what_was_measured():
    short = AttackSpec("apgd:mainstay", "image", "linf", 0.1, 10, 1, 0, 0, 100, "suite")
    long = AttackSpec("apgd:own-code", "image", "linf", 0.1, 40, 2, 0, 0, 100, "suite")
    cost = CostModel(0.001)
    assert cost.seconds(short) == pytest.approx(0.001 * passes(short))
    cost.learn(short, 50.0)
    assert cost.seconds(short) == pytest.approx(50)
    assert cost.seconds(long) == pytest.approx(50 * passes(long) / passes(short))
    assert 7 < passes(long) / passes(short) < 8
    cost.learn(short, 100.0)
    assert 50 < cost.seconds(short) < 100
    assert cost.total([short, short]) == pytest.approx(2 * cost.seconds(short))
