"""Augmentation of whole batches in torch: images as uint8, texts as token ids.

Draws are made for the global batch and then cut to a process's part, so that an item gets the same
treatment with one process as with many.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from model.training.config import AugmentSettings
from model.training.tokens import Marks


@dataclass(frozen=True)
class Draws:
    """The random decisions for n images.

    offsets (n, 2) of crops, flips (n,) bool, gains (n,) of brightness; those of contrast and saturation (n,)
    and the blanked rectangles (n, 4), each top, left, bottom, right as shares of the side, are None when
    switched off.
    """

    offsets: Tensor
    flips: Tensor
    gains: Tensor
    contrasts: Tensor | None = None
    saturations: Tensor | None = None
    boxes: Tensor | None = None

    def part(self, rows: slice) -> "Draws":
        """The decisions for some of the rows."""
        return Draws(**{name: each[rows] for name, each in vars(self).items() if each is not None})


def draw(n: int, settings: AugmentSettings, generator: torch.Generator) -> Draws:
    """Decisions for n images, on the CPU. What is switched off (but for brightness) draws nothing."""

    def gains(most: float) -> Tensor:
        return 1 + most * (2 * torch.rand(n, generator=generator) - 1)

    return Draws(
        torch.randint(0, 2 * settings.crop_padding + 1, (n, 2), generator=generator),
        torch.rand(n, generator=generator) < settings.flip,
        gains(settings.brightness),
        gains(settings.contrast) if settings.contrast else None,
        gains(settings.saturation) if settings.saturation else None,
        _draw_boxes(n, settings, generator) if settings.erase else None,
    )


def _draw_boxes(n: int, settings: AugmentSettings, generator: torch.Generator) -> Tensor:
    """Rectangles (n, 4) for random erasing (Zhong et al., AAAI 2020): top, left, bottom, right; 0 for none.

    The area is uniform up to ``erase_area``, the ratio of the sides log-uniform from 0.3 to 1/0.3, as there.
    """
    chance, area, ratio, y, x = torch.rand(5, n, generator=generator)
    tilt = torch.exp((2 * ratio - 1) * math.log(1 / 0.3) / 2)
    size = (area * settings.erase_area).sqrt()
    height, width = (size * tilt).clamp(max=1), (size / tilt).clamp(max=1)
    top, left = y * (1 - height), x * (1 - width)
    boxes = torch.stack([top, left, top + height, left + width], dim=1)
    boxes[chance >= settings.erase] = 0
    return boxes


def augment_images(images: Tensor, draws: Draws, padding: int) -> Tensor:
    """Crops, flips, brightness, contrast, saturation, blanked rectangles (mid grey, after everything else).

    Padding repeats the border; crop and flip are one gather, so nothing larger than the batch is built.

    Args:
        images: uint8 (n, S, S, 3).
        draws: decisions for these n images.
        padding: the padding the offsets were drawn for.

    Returns:
        float32 (n, 3, S, S) in [0, 1], in channels-last memory format.

    """
    n, side = images.shape[0], images.shape[1]
    steps = torch.arange(side)
    across = torch.where(draws.flips[:, None], steps.flip(0)[None], steps[None])
    rows = (draws.offsets[:, :1] + steps[None] - padding).clamp(0, side - 1).to(images.device)
    columns = (draws.offsets[:, 1:] + across - padding).clamp(0, side - 1).to(images.device)
    items = torch.arange(n, device=images.device)[:, None, None]
    moved = images[items, rows[:, :, None], columns[:, None, :]].float() / 255
    gains = draws.gains.to(images.device)
    if not bool((draws.gains == 1).all()):
        moved = (moved * gains[:, None, None, None]).clamp_(0, 1)
    return _recoloured(moved, draws).permute(0, 3, 1, 2)


def _recoloured(images: Tensor, draws: Draws) -> Tensor:
    """Images (n, S, S, 3) in [0, 1] with contrast and saturation scaled and rectangles blanked."""
    for gains, axes in ((draws.contrasts, (1, 2, 3)), (draws.saturations, (3,))):
        if gains is not None:
            mean = images.mean(axes, keepdim=True)
            images = (mean + gains.to(images)[:, None, None, None] * (images - mean)).clamp(0, 1)
    if draws.boxes is not None:
        side = images.shape[1]
        middles = (torch.arange(side, device=images.device) + 0.5) / side
        top, left, bottom, right = draws.boxes.to(images).T[:, :, None]
        rows, columns = (middles >= top) & (middles < bottom), (middles >= left) & (middles < right)
        images = images.masked_fill((rows[:, :, None] & columns[:, None, :])[..., None], 0.5)
    return images


def drop_tokens(tokens: Tensor, chance: float, marks: Marks, generator: torch.Generator) -> Tensor:
    """Token ids (n, L) with some replaced by the unknown token; padding and other special tokens stay."""
    if not chance:
        return tokens
    drawn = torch.rand(tokens.shape, generator=generator) < chance
    hit = drawn & ~torch.isin(tokens, marks.special)
    return torch.where(hit, torch.full_like(tokens, marks.unknown), tokens)
