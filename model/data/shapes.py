"""Outlines of the objects in the drawn sample set, as polygons in a square from (-1, -1) to (1, 1).

y points down, as in images. An object is a few polygons painted in order, each in a shade of the
object's one colour, so that "a red house" has a darker red roof and stays red to whoever looks.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.float64]


@dataclass(frozen=True)
class Part:
    """One polygon (m, 2) and the factor its colour's lightness is multiplied with."""

    points: Points
    shade: float = 1.0


def _polygon(*points: tuple[float, float]) -> Points:
    return np.array(points, dtype=np.float64)


def _disc(x: float, y: float, rx: float, ry: float, steps: int = 20) -> Points:
    turn = np.linspace(0.0, 2 * np.pi, steps, endpoint=False)
    return np.stack([x + rx * np.cos(turn), y + ry * np.sin(turn)], axis=1)


def _box(left: float, top: float, right: float, bottom: float) -> Points:
    return _polygon((left, top), (right, top), (right, bottom), (left, bottom))


def _star(points: int, inner: float) -> Points:
    turn = np.linspace(0.0, 2 * np.pi, 2 * points, endpoint=False) - np.pi / 2
    radius = np.where(np.arange(2 * points) % 2 == 0, 1.0, inner)
    return np.stack([radius * np.cos(turn), radius * np.sin(turn)], axis=1)


def _heart() -> Points:
    turn = np.linspace(0.0, 2 * np.pi, 28, endpoint=False)
    x = np.sin(turn) ** 3
    y = -(13 * np.cos(turn) - 5 * np.cos(2 * turn) - 2 * np.cos(3 * turn) - np.cos(4 * turn)) / 17
    return np.stack([x, y], axis=1)


def _ring() -> Points:
    """Outer circle, then the inner one backwards: one contour whose fill leaves the hole open."""
    turn = np.linspace(0.0, 2 * np.pi, 25)
    circle = np.stack([np.cos(turn), np.sin(turn)], axis=1)
    return np.concatenate([circle, 0.55 * circle[::-1]])


def _moon() -> Points:
    outer = np.linspace(-0.7 * np.pi, 0.7 * np.pi, 18) + np.pi
    inner = np.linspace(0.72 * np.pi, -0.72 * np.pi, 18) + np.pi
    crescent = np.stack([np.cos(outer), np.sin(outer)], axis=1)
    bite = np.stack([0.35 + 0.82 * np.cos(inner), 0.82 * np.sin(inner)], axis=1)
    return np.concatenate([crescent, bite])


def _petals() -> tuple[Part, ...]:
    turn = np.linspace(0.0, 2 * np.pi, 5, endpoint=False) - np.pi / 2
    petals = [Part(_disc(0.6 * np.cos(a), 0.6 * np.sin(a), 0.4, 0.4, 12)) for a in turn]
    return (*petals, Part(_disc(0.0, 0.0, 0.32, 0.32, 12), 0.55))


_CROSS = _polygon(
    (-0.33, -1), (0.33, -1), (0.33, -0.33), (1, -0.33), (1, 0.33), (0.33, 0.33),
    (0.33, 1), (-0.33, 1), (-0.33, 0.33), (-1, 0.33), (-1, -0.33), (-0.33, -0.33),
)  # fmt: skip
_ARROW = _polygon((-1, -0.3), (0.1, -0.3), (0.1, -0.85), (1, 0), (0.1, 0.85), (0.1, 0.3), (-1, 0.3))
_CAR_BODY = _polygon(
    (-1, 0.35), (-1, -0.1), (-0.6, -0.15), (-0.35, -0.6), (0.4, -0.6), (0.65, -0.12), (1, 0), (1, 0.35)
)

SHAPES: dict[str, tuple[Part, ...]] = {
    "arrow": (Part(_ARROW),),
    "boat": (
        Part(_polygon((-1, 0.3), (1, 0.3), (0.6, 0.9), (-0.6, 0.9)), 0.7),
        Part(_box(-0.06, -1, 0.06, 0.3), 0.5),
        Part(_polygon((0.12, -0.9), (0.85, 0.15), (0.12, 0.15))),
        Part(_polygon((-0.12, -0.6), (-0.7, 0.15), (-0.12, 0.15)), 1.15),
    ),
    "car": (
        Part(_CAR_BODY),
        Part(_box(-0.3, -0.45, 0.35, -0.12), 1.5),
        Part(_disc(-0.55, 0.4, 0.24, 0.24, 14), 0.4),
        Part(_disc(0.55, 0.4, 0.24, 0.24, 14), 0.4),
    ),
    "circle": (Part(_disc(0, 0, 1, 1, 28)),),
    "cross": (Part(_CROSS),),
    "cup": (
        Part(_disc(0.55, -0.05, 0.45, 0.42, 18), 0.65),
        Part(_disc(0.55, -0.05, 0.22, 0.2, 14), 1.35),
        Part(_polygon((-0.8, -0.8), (0.55, -0.8), (0.4, 0.85), (-0.65, 0.85))),
    ),
    "fish": (
        Part(_polygon((0.4, 0), (1, -0.6), (1, 0.6)), 0.7),
        Part(_disc(-0.2, 0, 0.8, 0.5, 22)),
        Part(_disc(-0.65, -0.12, 0.1, 0.1, 8), 0.3),
    ),
    "flower": _petals(),
    "heart": (Part(_heart()),),
    "house": (
        Part(_box(-0.75, -0.15, 0.75, 0.95)),
        Part(_polygon((-1, -0.15), (0, -1), (1, -0.15)), 0.6),
        Part(_box(-0.15, 0.35, 0.2, 0.95), 0.45),
        Part(_box(0.35, 0.1, 0.62, 0.4), 1.4),
    ),
    "moon": (Part(_moon()),),
    "ring": (Part(_ring()),),
    "square": (Part(_box(-0.9, -0.9, 0.9, 0.9)),),
    "star": (Part(_star(5, 0.42)),),
    "tree": (
        Part(_box(-0.15, 0.4, 0.15, 1), 0.45),
        Part(_disc(-0.35, 0.1, 0.5, 0.45, 16), 0.85),
        Part(_disc(0.35, 0.1, 0.5, 0.45, 16), 0.85),
        Part(_disc(0, -0.4, 0.6, 0.58, 18)),
    ),
    "triangle": (Part(_polygon((0, -1), (1, 0.8), (-1, 0.8))),),
}
