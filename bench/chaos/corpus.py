"""What the items are made of: drawn pictures with captions, metadata, ids in every sort of order, filters.

An item's image and text are numbers of contents. Several items share a picture or a text, so that exact ties
of distance are everywhere and only the ids' order tells them apart.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from model.data.sample import draw_pair
from model.data.scenes import GROUNDS

TEXTS = "texts.json"
NEITHER = 0.05
"""The share of items without an image, and of those without a text."""
FILTERS: tuple[dict[str, Any], ...] = (
    {"must": [{"key": "ground", "eq": GROUNDS[0]}]},
    {"must": [{"key": "objects", "gte": 4}], "must_not": [{"key": "ground", "in": list(GROUNDS[:3])}]},
    {"should": [{"key": "tags", "eq": "sharp"}, {"key": "objects", "lt": 2}]},
    {"must": [{"key": "fresh", "eq": True}, {"key": "tags", "in": ["old", "blurred"]}]},
    {"must": [{"key": "ground", "gt": "d"}, {"key": "ground", "lte": "speckled"}]},
)
_PREFIXES = ("a", "B", "_x", ".y", ":z", "-w", "a.")
_TAGS = ("sharp", "blurred", "old")


@dataclass(frozen=True)
class Draft:
    """What is sent for an item: numbers of contents, at least one of them there."""

    image: int | None
    text: int | None
    metadata: dict[str, Any]


def draw_contents(folder: Path, count: int, seed: int) -> None:
    """Draw `count` pictures `N.jpg` and their captions into a new folder."""
    folder.mkdir(parents=True)
    texts = []
    for number in range(count):
        drawn = draw_pair(seed, number)
        (folder / f"{number}.jpg").write_bytes(drawn.jpeg)
        texts.append(drawn.fields.texts[0])
    (folder / TEXTS).write_text(json.dumps(texts), encoding="utf-8")


def read_texts(folder: Path) -> list[str]:
    """The captions."""
    texts: list[str] = json.loads((folder / TEXTS).read_text(encoding="utf-8"))
    return texts


def read_picture(folder: Path, number: int) -> bytes:
    """The bytes of one picture."""
    return (folder / f"{number}.jpg").read_bytes()


def make_id(rng: np.random.Generator, number: int) -> str:
    """An id that holds the number; their bytes do not sort as their numbers do."""
    return f"{_PREFIXES[rng.integers(len(_PREFIXES))]}{number}"


def make_draft(rng: np.random.Generator, contents: int) -> Draft:
    """An item of random contents and metadata."""
    image, text = (int(rng.integers(contents)) for _ in range(2))
    share = rng.random()
    metadata = {
        "ground": str(rng.choice(GROUNDS)),
        "objects": int(rng.integers(1, 9)),
        "fresh": bool(rng.integers(2)),
        "tags": [tag for tag in _TAGS if rng.integers(2)],
    }
    return Draft(
        None if share < NEITHER else image, None if NEITHER <= share < 2 * NEITHER else text, metadata
    )
