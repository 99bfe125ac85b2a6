"""Augmentation of whole batches in torch: images as uint8, texts as token ids.

Draws are made for the global batch and then cut to a process's part, so that an item gets the same
treatment with one process as with many.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from model.training.config import AugmentSettings
from model.training.tokens import Marks


@dataclass(frozen=True)
class Draws:
    """The random decisions for n images: crop offsets (n, 2), flips (n,) bool, brightness factors (n,)."""

    offsets: Tensor
    flips: Tensor
    gains: Tensor

    def part(self, rows: slice) -> "Draws":
        """The decisions for some of the rows."""
        return Draws(self.offsets[rows], self.flips[rows], self.gains[rows])


def draw(n: int, settings: AugmentSettings, generator: torch.Generator) -> Draws:
    """Decisions for n images, on the CPU."""
    return Draws(
        torch.randint(0, 2 * settings.crop_padding + 1, (n, 2), generator=generator),
        torch.rand(n, generator=generator) < settings.flip,
        1 + settings.brightness * (2 * torch.rand(n, generator=generator) - 1),
    )


def augment_images(images: Tensor, draws: Draws, padding: int) -> Tensor:
    """Crops, flips and brightness.

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
    return moved.permute(0, 3, 1, 2)


def drop_tokens(tokens: Tensor, chance: float, marks: Marks, generator: torch.Generator) -> Tensor:
    """Token ids (n, L) with some replaced by the unknown token; padding and other special tokens stay."""
    if not chance:
        return tokens
    drawn = torch.rand(tokens.shape, generator=generator) < chance
    hit = drawn & ~torch.isin(tokens, marks.special)
    return torch.where(hit, torch.full_like(tokens, marks.unknown), tokens)
