"""Tiny hashers on drawn data for the attack tests: seconds to train, yet trained."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from model.attacks.iterative import pgd
from model.attacks.knowledge import Knowledge, choose_goals
from model.attacks.mainstay import signs
from model.attacks.objectives import OwnCode
from model.attacks.threat import Threat
from model.attacks.victims import ImageModel
from model.data.text import TextCodec, TokenizerOptions, train_codec
from model.hashers.base import CrossModalHasher
from model.hashers.registry import build_hasher

BITS, CLASSES, SIDE = 32, 6, 16
LABELS = ("cat", "dog", "car", "boat", "tree", "lamp")
HABITS = (
    "furry quiet sleepy whiskered",
    "loud loyal running brown",
    "fast metal shiny wheeled",
    "wooden wet floating sailing",
    "green tall leafy rooted",
    "bright warm glowing electric",
)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@dataclass(frozen=True, eq=False)
class World:
    """Pictures on whole grey levels, captions, labels (n, C)."""

    images: Tensor
    texts: list[str]
    labels: Tensor


def draw_world(count: int, seed: int) -> World:
    generator = seeded(seed)
    patterns = torch.rand(CLASSES, 3, 4, 4, generator=seeded(0))  # the same classes in every draw
    patterns = functional.interpolate(patterns, (SIDE, SIDE), mode="bilinear")
    main = torch.randint(0, CLASSES, (count,), generator=generator)
    images = 0.5 + 0.5 * (patterns[main] - 0.5)
    images = (images + 0.08 * torch.randn(images.shape, generator=generator)).clamp(0, 1)
    labels = functional.one_hot(main, CLASSES).float()
    draws = torch.randint(0, 4, (count, 3), generator=generator).tolist()
    texts = []
    for cls, (a, b, c) in zip(main.tolist(), draws, strict=True):
        own, other = HABITS[cls].split(), HABITS[(cls + 1 + c) % CLASSES].split()
        texts.append(f"A {own[a]} {own[b]} {LABELS[cls]}, and something {other[b]} near it.")
    return World((images * 255).round() / 255, texts, labels)


@dataclass(frozen=True, eq=False)
class Trained:
    hasher: CrossModalHasher
    codec: TextCodec
    world: World
    architecture: dict[str, Any]

    def codes(self, world: World) -> Tensor:
        self.hasher.eval()
        with torch.no_grad():
            return signs(self.hasher.image_tower()(world.images))

    def text_codes(self, world: World) -> Tensor:
        self.hasher.eval()
        with torch.no_grad():
            return signs(self.hasher.text_tower()(self.codec.encode(world.texts)))

    def knowledge(self, world: World, seed: int = 5) -> Knowledge:
        both = torch.cat([self.codes(self.world), self.text_codes(self.world)])
        labels = self.world.labels.repeat(2, 1)
        return Knowledge(
            clean=self.codes(world),
            labels=world.labels,
            codes=both,
            code_labels=labels,
            paired=self.text_codes(world),
            other_side=self.text_codes(self.world),
            goals=choose_goals(world.labels, labels, generator=seeded(seed)),
        )


def train_tiny(seed: int, *, epochs: int = 12, eps: float = 0.0) -> Trained:
    """A hasher by fixed class codes; with eps > 0 on images attacked by a short PGD."""
    world = draw_world(384, seed + 100)
    codec = train_codec(world.texts, TokenizerOptions(kind="bpe", size=200), 24)
    architecture = {
        "image": {"kind": "residual_cnn", "size": SIDE, "stem": 12, "widths": [24], "pools": [0, 1]},
        "text": {
            "kind": "conv",
            "vocabulary_size": codec.vocabulary_size,
            "dim": 16,
            "max_length": 24,
            "width": 32,
            "hidden": 0,
        },
    }
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        hasher = build_hasher(architecture, BITS)
    centres = signs(torch.randn(CLASSES, BITS, generator=seeded(1)))
    optimiser = torch.optim.Adam(hasher.parameters(), lr=4e-3)
    tokens, generator = codec.encode(world.texts), seeded(seed)
    inner = pgd(Threat("linf", eps), OwnCode(1.0), steps=3)
    for _ in range(epochs):
        for rows in torch.randperm(len(tokens), generator=generator).split(64):
            goal, x = world.labels[rows] @ centres, world.images[rows]
            if eps > 0:
                from_code = OwnCode(1.0)
                target = from_code.target(_bare(goal, world.labels[rows]), generator=generator)
                x = inner(ImageModel(hasher), x, target, generator=generator).x_adv
            hasher.train()
            h, t = hasher(x, tokens[rows])
            loss = (h - goal).square().mean() + (t - goal).square().mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    hasher.zero_grad(set_to_none=True)
    hasher.eval()
    return Trained(hasher, codec, world, architecture)


def _bare(codes: Tensor, labels: Tensor) -> Knowledge:
    return Knowledge(clean=codes, labels=labels, codes=codes, code_labels=labels)
