"""What a drawn picture shows, before it is drawn: groups of objects, their relation and the ground.

A scene has one or two groups ("two red circles", "a blue house"), a relation when there are two, and a
texture for the ground. Captions and labels are read from the same scene as the pixels, so they are true.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from model.data.shapes import SHAPES

Colour = tuple[int, int, int]

COLOURS: dict[str, Colour] = {
    "black": (30, 30, 34),
    "blue": (40, 85, 205),
    "brown": (122, 72, 34),
    "green": (38, 150, 66),
    "orange": (244, 128, 30),
    "pink": (245, 130, 188),
    "purple": (124, 52, 172),
    "red": (212, 36, 40),
    "turquoise": (45, 200, 192),
    "white": (244, 244, 244),
    "yellow": (250, 214, 40),
}
KINDS: tuple[str, ...] = tuple(SHAPES)
GROUNDS: tuple[str, ...] = (
    "bricked", "checked", "cloudy", "dotted", "plain", "speckled", "striped", "wavy"
)  # fmt: skip
INVERSE: dict[str, str] = {
    "left of": "right of", "right of": "left of", "above": "below", "below": "above"
}  # fmt: skip
RELATIONS: tuple[str, ...] = tuple(INVERSE)

_NUMBERS = ("no", "one", "two", "three", "four")
_PLURALS = {"fish": "fish", "cross": "crosses"}

_ALONE = (
    "{a} on a {ground} ground",
    "a {ground} ground with {a}",
    "a picture of {a}, {ground} background",
    "{a} in front of a {ground} background",
)
_TOGETHER = (
    "{a} {relation} {b} on a {ground} ground",
    "{b} {inverse} {a} on a {ground} ground",
    "a picture of {a} {relation} {b}, {ground} background",
    "on a {ground} ground, {a} and {b}: {a} {relation} {b}",
)

T = TypeVar("T")


@dataclass(frozen=True)
class Group:
    """`count` (1 to 4) objects of one kind and one colour."""

    count: int
    colour: str
    kind: str

    def words(self) -> str:
        """For example "two red circles", "an orange boat"."""
        if self.count == 1:
            return f"{'an' if self.colour[0] in 'aeiou' else 'a'} {self.colour} {self.kind}"
        return f"{_NUMBERS[self.count]} {self.colour} {_PLURALS.get(self.kind, self.kind + 's')}"


@dataclass(frozen=True)
class Scene:
    """One or two groups; with two, the first stands `relation` ("left of", ...) the second."""

    groups: tuple[Group, ...]
    relation: str | None
    ground: str

    def labels(self) -> tuple[str, ...]:
        """`object:KIND` and `colour:NAME` of every group, sorted, each once.

        The ground is no label: it is in the captions and the metadata, but two pictures that only
        share a background are not what anybody searches for.
        """
        names = {f"object:{group.kind}" for group in self.groups}
        return tuple(sorted(names | {f"colour:{group.colour}" for group in self.groups}))

    def captions(self, rng: np.random.Generator) -> tuple[str, str]:
        """Two different phrasings of the scene."""
        phrasings = _ALONE if self.relation is None else _TOGETHER
        first, second = rng.permutation(len(phrasings))[:2]
        return self._phrase(phrasings[first]), self._phrase(phrasings[second])

    def _phrase(self, template: str) -> str:
        relation = self.relation or ""
        return template.format(
            a=self.groups[0].words(),
            b=self.groups[-1].words(),
            relation=relation,
            inverse=INVERSE.get(relation, ""),
            ground=self.ground,
        )


def draw_scene(rng: np.random.Generator) -> Scene:
    """A random scene: two groups in three of five, all kinds, colours and grounds equally likely."""
    ground = _one(GROUNDS, rng)
    if rng.random() < 0.4:
        return Scene((_group(4, rng),), None, ground)
    first = _group(3, rng)
    second = _group(3, rng)
    while (second.colour, second.kind) == (first.colour, first.kind):
        second = _group(3, rng)  # "a red star left of a red star" would say nothing
    return Scene((first, second), _one(RELATIONS, rng), ground)


def _group(most: int, rng: np.random.Generator) -> Group:
    return Group(int(rng.integers(1, most + 1)), _one(tuple(COLOURS), rng), _one(KINDS, rng))


def _one(options: Sequence[T], rng: np.random.Generator) -> T:
    return options[int(rng.integers(len(options)))]
