"""Augmentation against padding and slicing by hand."""

import dataclasses

import torch
from torch.nn import functional as F

from model.training.augment import Draws, augment_images, draw, drop_tokens
from model.training.config import AugmentSettings
from model.training.tokens import Marks


def make(n=5, side=8, seed=1):
    g = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (n, side, side, 3), generator=g, dtype=torch.uint8), g


def test_crops_and_flips_are_those_of_pad_slice_flip():
    images, g = make()
    draws = draw(5, AugmentSettings(crop_padding=3, flip=0.5), g)
    ours = augment_images(images, draws, 3)
    floats = images.permute(0, 3, 1, 2).float() / 255
    padded = F.pad(floats, (3, 3, 3, 3), mode="replicate")
    for i in range(5):
        top, left = draws.offsets[i].tolist()
        wanted = padded[i, :, top : top + 8, left : left + 8]
        if draws.flips[i]:
            wanted = wanted.flip(2)
        assert torch.equal(ours[i], wanted)
    assert draws.flips.any()
    assert not draws.flips.all()


def test_nothing_switched_on_changes_nothing():
    images, g = make()
    draws = draw(5, AugmentSettings(crop_padding=0, flip=0.0), g)
    assert torch.equal(augment_images(images, draws, 0), images.permute(0, 3, 1, 2).float() / 255)


def test_brightness_scales_and_stays_in_range():
    images, _ = make()
    offsets, flips = torch.zeros(5, 2, dtype=torch.int64), torch.zeros(5, dtype=torch.bool)
    gains = torch.tensor([0.5, 1.0, 1.5, 1.0, 1.0])
    out = augment_images(images, Draws(offsets, flips, gains), 0)
    floats = images.permute(0, 3, 1, 2).float() / 255
    assert torch.allclose(out, (floats * gains[:, None, None, None]).clamp(0, 1))
    assert out.max() <= 1


def test_output_is_channels_last_for_fast_convolutions():
    images, g = make()
    out = augment_images(images, draw(5, AugmentSettings(), g), 4)
    assert out.is_contiguous(memory_format=torch.channels_last)
    assert out.shape == (5, 3, 8, 8)


def test_a_part_of_the_draws_is_what_the_whole_gave_those_rows():
    images, g = make(n=6)
    draws = draw(6, AugmentSettings(crop_padding=2, brightness=0.3), g)
    whole = augment_images(images, draws, 2)
    part = augment_images(images[2:5], draws.part(slice(2, 5)), 2)
    assert torch.equal(whole[2:5], part)


def test_dropped_tokens_become_unknown_and_special_ones_stay():
    tokens = torch.tensor([[2, 7, 8, 0], [2, 9, 0, 0]]).repeat(200, 1)
    marks = Marks(torch.tensor([0, 1, 2]), 1)
    g = torch.Generator().manual_seed(0)
    out = drop_tokens(tokens, 0.3, marks, g)
    changed = out != tokens
    assert (out[changed] == 1).all()
    assert not changed[torch.isin(tokens, marks.special)].any()
    assert abs(changed.sum() / 600 - 0.3) < 0.05
    assert drop_tokens(tokens, 0.0, marks, g) is tokens


def test_what_is_switched_off_draws_nothing_so_that_older_recipes_stay_as_they_were():
    states = []
    for settings in (AugmentSettings(), AugmentSettings(contrast=0.3), AugmentSettings(erase=0.5)):
        g = torch.Generator().manual_seed(3)
        draws = draw(4, settings, g)
        states.append(torch.rand(3, generator=g).tolist())
    assert states[0] != states[1]
    assert states[0] != states[2]
    g = torch.Generator().manual_seed(3)
    draws = draw(4, AugmentSettings(), g)
    assert draws.contrasts is draws.saturations is draws.boxes is None
    g.manual_seed(3)
    torch.randint(0, 9, (4, 2), generator=g)
    torch.rand(8, generator=g)
    assert torch.rand(3, generator=g).tolist() == states[0]


def test_contrast_and_saturation_scale_distances_from_means():
    images, _ = make()
    images = images // 2 + 64  # nothing is clamped
    plain = Draws(torch.zeros(5, 2, dtype=torch.int64), torch.zeros(5, dtype=torch.bool), torch.ones(5))
    floats = images.permute(0, 3, 1, 2).float() / 255
    gains = torch.tensor([0.5, 0.8, 1.0, 1.2, 0.1])
    flatter = augment_images(images, dataclasses.replace(plain, contrasts=gains), 0)
    mean = floats.mean((1, 2, 3), keepdim=True)
    assert torch.allclose(flatter, mean + gains[:, None, None, None] * (floats - mean), atol=1e-6)
    greyer = augment_images(images, dataclasses.replace(plain, saturations=gains), 0)
    mean = floats.mean(1, keepdim=True)
    assert torch.allclose(greyer, mean + gains[:, None, None, None] * (floats - mean), atol=1e-6)
    assert greyer.is_contiguous(memory_format=torch.channels_last)


def test_colours_stay_in_range():
    images, g = make(n=50)
    out = augment_images(images, draw(50, AugmentSettings(contrast=1.0, saturation=1.0), g), 4)
    assert out.min() >= 0
    assert out.max() <= 1


def test_erased_rectangles_are_blank_and_within_their_area():
    images, g = make(n=400, side=20)
    settings = AugmentSettings(crop_padding=0, flip=0.0, erase=0.5, erase_area=0.3)
    out = augment_images(images, draw(400, settings, g), 0)
    changed = (out != images.permute(0, 3, 1, 2).float() / 255).any(1)  # (n, S, S)
    assert (out[changed[:, None].expand_as(out)] == 0.5).all()
    share = changed.float().mean((1, 2))
    assert share.max() < 0.36  # the edges fall between pixels
    assert 0.4 < (share > 0).float().mean() < 0.56
    for mask in changed[share > 0][:20]:
        rows, columns = mask.any(1), mask.any(0)
        assert torch.equal(mask, rows[:, None] & columns[None, :])


def test_a_part_keeps_the_new_draws_too():
    images, g = make(n=6)
    draws = draw(6, AugmentSettings(contrast=0.4, saturation=0.4, erase=1.0), g)
    assert torch.equal(
        augment_images(images, draws, 4)[2:5], augment_images(images[2:5], draws.part(slice(2, 5)), 4)
    )
