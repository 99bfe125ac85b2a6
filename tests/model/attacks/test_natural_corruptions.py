"""What pictures suffer without an attacker."""

import pytest
import torch
from tiny_hashers import seeded
from torch.nn import functional

from model.attacks.corruptions import CORRUPTIONS, SEVERITIES, corrupt
from model.errors import RecipeError, UnknownName


@pytest.fixture
def pictures():
    coarse = torch.rand(12, 3, 8, 8, generator=seeded(0))
    smooth = functional.interpolate(coarse, (32, 32), mode="bilinear")
    fine = 0.1 * torch.randn(12, 3, 32, 32, generator=seeded(1))
    return ((0.2 + 0.6 * smooth + fine).clamp(0, 1) * 255).round() / 255


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_corruptions_grow_with_severity_and_stay_pictures(name, pictures):
    damage = []
    for severity in SEVERITIES:
        worse = corrupt(name, pictures, severity, generator=seeded(2))
        assert worse.shape == pictures.shape
        assert (worse >= 0).all()
        assert (worse <= 1).all()
        torch.testing.assert_close((worse * 255).round() / 255, worse)
        assert torch.equal(worse, corrupt(name, pictures, severity, generator=seeded(2)))
        damage.append(float((worse - pictures).square().mean()))
    assert damage == sorted(damage)
    assert damage[0] > 0


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_one_picture_and_none(name, pictures):
    assert corrupt(name, pictures[:1], 3, generator=seeded(0)).shape == (1, 3, 32, 32)
    assert corrupt(name, pictures[:0], 3, generator=seeded(0)).shape == (0, 3, 32, 32)


def test_blur_keeps_flat_pictures_and_means(pictures):
    flat = torch.full((1, 3, 32, 32), 100 / 255)
    assert torch.equal(corrupt("blur", flat, 5, generator=seeded(0)), flat)
    tiny = corrupt("blur", pictures[..., :4, :4], 5, generator=seeded(0))
    assert tiny.shape == (12, 3, 4, 4)


@pytest.mark.parametrize("severity", [0, 6, 1.5])
def test_severities_outside_one_to_five_are_refused(severity, pictures):
    with pytest.raises(RecipeError, match="wanted 1 to 5"):
        corrupt("blur", pictures, severity, generator=seeded(0))


def test_unknown_corruptions_are_refused(pictures):
    with pytest.raises(UnknownName, match="fog"):
        corrupt("fog", pictures, 1, generator=seeded(0))
