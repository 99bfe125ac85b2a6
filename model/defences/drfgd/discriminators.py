"""Discriminators: spectrally normalised critics of generated inputs, with the hinge loss.

Spectral normalisation (Miyato et al., ICLR 2018) bounds the critic's slope, which keeps a small generator
from being outrun; the hinge is that of Lim and Ye (arXiv 1705.02894).
"""

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm

SLOPE = 0.2


class ImageDiscriminator(nn.Module):
    """Three strided convolutions and a vote of all places: images (n, 3, S, S) -> (n,), > 0 for real."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        widths = (3, channels, 2 * channels, 3 * channels)
        self.layers = nn.ModuleList(
            spectral_norm(nn.Conv2d(inner, outer, 3, stride=2, padding=1))
            for inner, outer in pairwise(widths)
        )
        self.vote = spectral_norm(nn.Conv2d(widths[-1], 1, 1))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """`mask` is there for the text side's sake and ignored."""
        maps = 4 * x - 2
        for layer in self.layers:
            maps = F.leaky_relu(layer(maps), SLOPE)
        votes: Tensor = self.vote(maps).mean((1, 2, 3))
        return votes


class TextDiscriminator(nn.Module):
    """Embeddings (n, L, D) in units of the RMS, mask bool (n, L) -> (n,), > 0 for real."""

    def __init__(self, embedding: int, channels: int) -> None:
        super().__init__()
        self.first = spectral_norm(nn.Conv1d(embedding, channels, 3, padding="same"))
        self.vote = spectral_norm(nn.Conv1d(channels, 1, 1))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Mean vote of the tokens; 0 for a text without any."""
        keep = mask.unsqueeze(1).to(x.dtype)
        votes = self.vote(F.leaky_relu(self.first(x.transpose(1, 2) * keep), SLOPE)) * keep
        mean: Tensor = votes.sum((1, 2)) / keep.sum((1, 2)).clamp(min=1)
        return mean


def critic_hinge(real: Tensor, made: Tensor) -> Tensor:
    """What the discriminator minimises: mean(max(0, 1 - D(x))) + mean(max(0, 1 + D(x'))), votes D (n,)."""
    return torch.relu(1 - real).mean() + torch.relu(1 + made).mean()


def maker_hinge(made: Tensor) -> Tensor:
    """What the generator minimises, of votes (m,): -mean(D(x'))."""
    return -made.mean()
