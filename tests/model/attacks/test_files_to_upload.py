"""Whole grey levels inside the budget, and the PNG that a client sends."""

import io

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from tiny_hashers import seeded

from model.attacks.iterative import apgd
from model.attacks.objectives import OwnCode
from model.attacks.rounding import check_budget, from_png, quantise, to_levels, to_png
from model.attacks.threat import Threat
from model.attacks.victims import ImageModel
from model.errors import DataError


def levels(seed, n=3, side=6):
    return torch.randint(0, 256, (n, 3, side, side), generator=seeded(seed)).float() / 255


@settings(max_examples=100, deadline=None)
@given(
    norm=st.sampled_from(["linf", "l2"]),
    eps=st.one_of(st.sampled_from([k / 255 for k in (0, 1, 2, 4, 8, 16, 32, 255)]), st.floats(0, 2)),
    seed=st.integers(0, 10_000),
)
def test_rounded_images_obey_the_budget_and_survive_png(norm, eps, seed):
    threat, x = Threat(norm, eps), levels(seed)
    x_adv = threat.draw(x, seeded(seed + 1))
    sent = quantise(x_adv, x, threat)
    check = check_budget(sent, x, threat)
    assert check.holds
    assert (check.linf if norm == "linf" else check.l2) <= eps + 1e-6
    # Never further from what the attack wanted than it must: at most a level from the unrounded one.
    assert (sent - x_adv).abs().max() <= 1 / 255 + 1e-5


def test_whole_budgets_are_used_in_full():
    x = torch.full((1, 3, 4, 4), 128 / 255)
    threat = Threat("linf", 8 / 255)
    sent = quantise(x + 8 / 255, x, threat)
    assert (to_levels(sent) - to_levels(x) == 8).all()


def test_the_file_attacks_as_well_as_the_tensor(undefended, queries):
    threat, model = Threat("linf", 16 / 255), ImageModel(undefended.hasher)
    with torch.no_grad():
        target = OwnCode().target(undefended.knowledge(queries), generator=seeded(0))
    made = apgd(threat, OwnCode(), steps=15)(model, queries.images, target, generator=seeded(0))
    sent = quantise(made.x_adv, queries.images, threat)
    decoded = torch.stack([from_png(to_png(image)) for image in sent])
    assert torch.equal(decoded, sent)
    with torch.no_grad():
        loss = OwnCode()(torch.where(model(decoded) >= 0, 1.0, -1.0), target)
    assert loss.mean() > made.loss.mean() - 0.02


def test_the_png_is_a_plain_rgb_png():
    with Image.open(io.BytesIO(to_png(levels(0)[0]))) as picture:
        assert (picture.format, picture.mode, picture.size) == ("PNG", "RGB", (6, 6))


def test_the_check_fires_on_a_perturbation_that_is_too_large():
    x = levels(1)
    worse = x.clone()
    worse[1, 0, 0, 0] = 1 - worse[1, 0, 0, 0].round()
    check = check_budget(worse, x, Threat("linf", 8 / 255))
    assert not check.holds
    assert check.inside == pytest.approx(2 / 3)
    assert check.changed == pytest.approx(1 / 3)


def test_the_check_fires_on_values_a_png_cannot_hold():
    x = levels(2)
    check = check_budget((x + 0.001).clamp(0, 1), x, Threat("linf", 8 / 255))
    assert not check.exact
    assert not check.holds


def test_clean_images_off_the_levels_are_refused():
    with pytest.raises(DataError, match="whole levels"):
        quantise(levels(0), levels(0) + 0.001, Threat())


def test_no_image_is_within_any_budget():
    assert check_budget(levels(0)[:0], levels(0)[:0], Threat()).holds
    assert quantise(levels(0)[:0], levels(0)[:0], Threat("l2", 1.0)).shape == (0, 3, 6, 6)
