"""Ball, range, directions and units."""

from math import inf, sqrt

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_hashers import seeded

from model.attacks.threat import Threat, embedding_threat, parse_eps
from model.errors import RecipeError


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=seeded(seed))


@settings(max_examples=80, deadline=None)
@given(
    norm=st.sampled_from(["linf", "l2"]),
    eps=st.floats(0, 4),
    scale=st.floats(0, 10),
    seed=st.integers(0, 1000),
)
def test_projection_lands_in_the_ball_stays_there_and_is_no_further(norm, eps, scale, seed):
    threat = Threat(norm, eps)
    x = torch.rand(4, 3, 5, 5, generator=seeded(seed))
    wild = x + scale * draw(4, 3, 5, 5, seed=seed + 1)
    inside = threat.project(wild, x)
    assert threat.contains(inside, x).all()
    torch.testing.assert_close(threat.project(inside, x), inside, atol=1e-5, rtol=1e-5)
    assert (threat.size(inside - x) <= threat.size(wild - x) + 1e-5).all()
    assert threat.contains(threat.draw(x, seeded(seed)), x).all()


def test_projection_keeps_what_is_inside():
    x = torch.full((1, 3, 2, 2), 0.5)
    assert torch.allclose(Threat("linf", 0.1).project(x + 0.05, x), x + 0.05)
    assert torch.allclose(Threat("l2", 1.0).project(x + 0.05, x), x + 0.05)


def test_directions_have_norm_one_and_zero_stays_zero():
    gradient = torch.cat([draw(2, 3, 4, 4), torch.zeros(1, 3, 4, 4)])
    assert Threat("linf").size(Threat("linf").direction(gradient)).tolist() == [1, 1, 0]
    sizes = Threat("l2").size(Threat("l2").direction(gradient))
    torch.testing.assert_close(sizes, torch.tensor([1.0, 1.0, 0.0]))


def test_the_smallest_gradients_still_have_a_direction():
    """Squares of 1e-30 vanish in float32: that must not pass for a zero gradient."""
    tiny = draw(1, 3, 4, 4) * 1e-30
    torch.testing.assert_close(Threat("l2").size(Threat("l2").direction(tiny)), torch.ones(1))


def test_random_starts_fill_the_ball_and_leave_padding_alone():
    x = torch.full((400, 3, 4, 4), 0.5)
    moved = Threat("linf", 0.1).draw(x, seeded(0)) - x
    assert moved.abs().max() > 0.099
    assert abs(float(moved.mean())) < 0.002
    sizes = Threat("l2").size(Threat("l2", 1.0).draw(x, seeded(0)) - x)
    assert 0.4 < sizes.mean() < 0.6
    free = torch.zeros(400, 1, 4, 4, dtype=torch.bool)
    free[..., 0] = True
    for threat in (Threat("linf", 0.1), Threat("l2", 1.0)):
        part = threat.draw(x, seeded(0), free) - x
        assert (part[..., 1:] == 0).all()
        assert (part[..., 0] != 0).any()


def test_what_leaves_ball_or_range_is_told():
    x = torch.full((1, 3, 2, 2), 0.95)
    threat = Threat("linf", 0.1)
    assert threat.contains(x + 0.05, x).all()
    assert not threat.contains(x - 0.11, x).any()
    assert not threat.contains(x + 0.06, x).any()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"norm": "l1"}, "norm"),
        ({"eps": -0.1}, "eps"),
        ({"eps": inf}, "eps"),
        ({"eps": float("nan")}, "eps"),
        ({"low": 1.0, "high": 1.0}, "range"),
    ],
)
def test_threats_that_make_no_sense_are_refused(values, message):
    with pytest.raises(RecipeError, match=message):
        Threat(**values)


def test_budgets_are_read_as_people_write_them():
    assert parse_eps("8/255") == 8 / 255
    assert parse_eps(" 0.5 ") == 0.5
    assert parse_eps("0") == 0


@pytest.mark.parametrize("text", ["", "eight", "8/0", "8/", "-1/255", "nan", "1/2/3"])
def test_budgets_that_are_none_are_refused(text):
    with pytest.raises(RecipeError, match="eps: wanted"):
        parse_eps(text)


def test_text_budgets_follow_the_embedding_table(undefended):
    tower = undefended.hasher.text_tower()
    linf, l2 = embedding_threat(tower, 0.5, 9), embedding_threat(tower, 0.5, 9, "l2")
    assert linf == Threat("linf", 0.5 * tower.embedding_rms(), -inf, inf)
    assert l2.eps == pytest.approx(0.5 * tower.embedding_rms() * sqrt(9 * tower.embedding_width))
