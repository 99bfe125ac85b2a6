"""Image towers without a pretrained backbone: a small residual CNN and fixed features.

Backbones of the Hugging Face hub are in model/hashers/hub_image.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from model.hashers.base import ImageTower
from model.hashers.heads import channel_buffer, feature_trunk
from model.hashers.options import option


@dataclass(frozen=True)
class ResidualOptions:
    """A stem of `stem` channels, then one stage per entry of `widths`, each of `blocks` residual blocks.

    `size` is the side S that the images are prepared at; the network itself pools over any side from 32.
    `pools` names the maps whose means make the representation: 0 is the stem's, i the i-th stage's; early
    maps keep colour and texture that later ones give up for shape.
    """

    size: int = option(64, low=16, high=1024)
    stem: int = option(32, low=4, high=2048)
    widths: tuple[int, ...] = option((64, 128, 160), low=4, high=2048, most=6)
    blocks: int = option(1, low=1, high=8)
    pools: tuple[int, ...] = option((0, 2, 3), low=0, high=6, most=7)
    hidden: int = option(0, low=0, high=8192)
    mean: tuple[float, ...] = option((0.5, 0.5, 0.5), low=0.0, high=1.0, most=3)
    std: tuple[float, ...] = option((0.25, 0.25, 0.25), low=0.001, high=10.0, most=3)


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with batch norm and a shortcut (He et al. 2016, basic block)."""

    def __init__(self, inner: int, outer: int, stride: int) -> None:
        super().__init__()
        last = nn.BatchNorm2d(outer)
        nn.init.zeros_(last.weight)  # a block starts as its shortcut (Goyal et al. 2017)
        self.body = nn.Sequential(
            nn.Conv2d(inner, outer, 3, stride, padding=1, bias=False),
            nn.BatchNorm2d(outer),
            nn.ReLU(),
            nn.Conv2d(outer, outer, 3, padding=1, bias=False),
            last,
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inner != outer:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inner, outer, 1, stride, bias=False), nn.BatchNorm2d(outer)
            )

    def forward(self, x: Tensor) -> Tensor:
        """(n, inner, H, W) -> (n, outer, H/stride, W/stride)."""
        return torch.relu(self.body(x) + self.shortcut(x))


class ResidualTower(ImageTower):
    """A residual CNN that trains from scratch in minutes on a CPU.

    The stem halves the side and each stage halves it again, so 64 px gives 4x4 maps after three stages;
    at 32 px they are 2x2.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, options: ResidualOptions, bits: int) -> None:
        widths = (options.stem, *options.widths)
        pools = frozenset(options.pools)
        if max(pools) >= len(widths):
            raise ValueError(f"pools: wanted 0 to {len(widths) - 1}, got {list(options.pools)}")
        super().__init__(bits, sum(widths[i] for i in pools), options.hidden)
        self.register_buffer("mean", channel_buffer(options.mean), persistent=False)
        self.register_buffer("std", channel_buffer(options.std), persistent=False)
        self.pools = pools
        self.stem = nn.Sequential(
            nn.Conv2d(3, options.stem, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(options.stem),
            nn.ReLU(),
        )
        self.stages = nn.ModuleList(
            nn.Sequential(
                ResidualBlock(inner, outer, stride=2),
                *(ResidualBlock(outer, outer, stride=1) for _ in range(options.blocks - 1)),
            )
            for inner, outer in pairwise(widths)
        )

    def features(self, x: Tensor) -> Tensor:
        """Means over the pooled maps, side by side (n, F), of images (n, 3, S, S)."""
        maps: Tensor = self.stem((x - self.mean) / self.std)
        means = [maps.mean((2, 3))] if 0 in self.pools else []
        for number, stage in enumerate(self.stages, start=1):
            maps = stage(maps)
            if number in self.pools:
                means.append(maps.mean((2, 3)))
        return torch.cat(means, dim=1)


@dataclass(frozen=True)
class ImageFeaturesOptions:
    """Precomputed image vectors of `dim` numbers, one hidden layer of `width`."""

    dim: int = option(low=1, high=1_000_000)
    width: int = option(512, low=1, high=8192)
    hidden: int = option(0, low=0, high=8192)


class ImageFeaturesTower(ImageTower):
    """Takes float vectors (n, dim) where the other towers take images: the papers' own feature files."""

    def __init__(self, options: ImageFeaturesOptions, bits: int) -> None:
        super().__init__(bits, options.width, options.hidden)
        self.trunk = feature_trunk(options.dim, options.width)

    def features(self, x: Tensor) -> Tensor:
        """Representation (n, F) of vectors (n, dim)."""
        features: Tensor = self.trunk(x)
        return features
