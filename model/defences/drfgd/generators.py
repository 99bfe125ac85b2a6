"""Attack-tolerant generators: an input, a z_r and a z_v in, another input of the same meaning out.

Both give the input plus a bounded change, so that an untrained one does no harm. z_r and z_v enter at the
bottleneck, which is where the item's meaning can be told apart from its pixels; skip connections carry the
rest. z_v may come from another item: that is the recombination.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

FOLD = 2
"""Pixels of a side that become channels before the first layer: a quarter of the positions to convolve."""
DEEPEST = 8
"""Sides are padded to a multiple of this: FOLD and two strides of two."""


class ImageGenerator(nn.Module):
    """A small U-Net (Ronneberger et al. 2015) on folded pixels; about a quarter of the small CNN's work."""

    def __init__(self, channels: int, width: int, reach: float) -> None:
        """`channels` of the first level (doubled, then tripled), `width` of z_r and z_v."""
        super().__init__()
        a, b, c, folded = channels, 2 * channels, 3 * channels, 3 * FOLD**2
        self.reach = reach
        self.enter = nn.Conv2d(folded, a, 3, padding=1)
        self.down = nn.ModuleList([nn.Conv2d(a, b, 3, 2, padding=1), nn.Conv2d(b, c, 3, 2, padding=1)])
        self.guide = Injection(c, width)
        self.up = nn.ModuleList([nn.Conv2d(c, b, 1), nn.Conv2d(b, a, 1)])
        self.mix = nn.ModuleList([nn.Conv2d(b, b, 3, padding=1), nn.Conv2d(a, a, 3, padding=1)])
        self.leave = _from_nothing(nn.Conv2d(a, folded, 1))

    def forward(self, x: Tensor, robust: Tensor, vulnerable: Tensor, mask: Tensor | None = None) -> Tensor:
        """Images (n, 3, S, S) in [0, 1] of images of that kind and z_r, z_v (n, width).

        `mask` is there for the text side's sake and ignored.
        """
        side = x.shape[2:]
        more = [-length % DEEPEST for length in side]
        padded = F.pad(x, (0, more[1], 0, more[0]), mode="replicate")
        first = torch.relu(self.enter(F.pixel_unshuffle(4 * padded - 2, FOLD)))
        second = torch.relu(self.down[0](first))
        deep = torch.relu(self.guide(self.down[1](second), robust, vulnerable))
        for skip, up, mix in zip((second, first), self.up, self.mix, strict=True):
            wide = F.interpolate(up(deep), size=skip.shape[2:], mode="nearest")
            deep = torch.relu(mix(torch.relu(wide + skip)))
        change = F.pixel_shuffle(self.leave(deep), FOLD)[:, :, : side[0], : side[1]]
        return (x + self.reach * torch.tanh(change)).clamp(0, 1)


class TextGenerator(nn.Module):
    """Convolutional encoder-decoder over embeddings in units of their table's RMS."""

    def __init__(self, embedding: int, channels: int, width: int, reach: float) -> None:
        """`embedding` is D, `channels` those between, `width` of z_r and z_v."""
        super().__init__()
        self.reach = reach
        self.enter = nn.Conv1d(embedding, channels, 3, padding="same")
        self.guide = Injection(channels, width)
        self.mix = nn.Conv1d(channels, channels, 3, padding="same")
        self.leave = _from_nothing(nn.Conv1d(channels, embedding, 1))

    def forward(self, x: Tensor, robust: Tensor, vulnerable: Tensor, mask: Tensor) -> Tensor:
        """Embeddings (n, L, D) of embeddings (n, L, D), mask bool (n, L), z_r and z_v (n, width).

        Padding comes out as it went in.
        """
        keep = mask.unsqueeze(1).to(x.dtype)  # (n, 1, L)
        first = torch.relu(self.enter(x.transpose(1, 2) * keep))
        deep = torch.relu(self.guide(first, robust, vulnerable)) * keep
        last = torch.relu(self.mix(deep) + first) * keep
        change = torch.tanh(self.leave(last)) * keep
        return x + self.reach * change.transpose(1, 2)


class Injection(nn.Module):
    """z_r and z_v onto maps: scale and shift of each channel (FiLM, Perez et al., AAAI 2018)."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.robust = nn.Linear(width, 2 * channels)
        self.vulnerable = nn.Linear(width, 2 * channels)

    def forward(self, maps: Tensor, robust: Tensor, vulnerable: Tensor) -> Tensor:
        """Maps (n, c, ...) with z_r and z_v (n, width) put in."""
        both = self.robust(robust) + self.vulnerable(vulnerable)
        scale, shift = both.view(*both.shape, *[1] * (maps.dim() - 2)).chunk(2, dim=1)
        moved: Tensor = maps * (1 + scale) + shift
        return moved


def _from_nothing(layer: nn.Conv1d | nn.Conv2d) -> nn.Module:
    """The layer with small weights: generation begins near the identity, and with a slope."""
    nn.init.normal_(layer.weight, std=0.01)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer
