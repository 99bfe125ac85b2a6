"""Scenes as pixels: textured ground, shaded polygons, uneven light, noise.

Objects are painted at twice the size and averaged down, which gives smooth edges. Every draw takes its
chances from the generator that comes in, so that one generator state always gives the same picture.
"""

import colorsys

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from model.data.scenes import COLOURS, Group, Scene
from model.data.shapes import SHAPES

SIZE = 96
_SCALE = 2  # painted at SIZE * _SCALE, then averaged

Pixels = NDArray[np.float32]
Box = tuple[float, float, float, float]
"""Left, top, right, bottom in shares of the picture."""

# A row and a column, so that what depends on one of them only is computed once per row or column.
_X = np.arange(SIZE, dtype=np.float32)[None, :]
_Y = np.arange(SIZE, dtype=np.float32)[:, None]
_LEVELS = np.linspace(0.0, 1.0, 256)[:, None]

_WHOLE: Box = (0.06, 0.06, 0.94, 0.94)
_HALVES: dict[str, tuple[Box, Box]] = {
    "left of": ((0.03, 0.06, 0.49, 0.94), (0.51, 0.06, 0.97, 0.94)),
    "right of": ((0.51, 0.06, 0.97, 0.94), (0.03, 0.06, 0.49, 0.94)),
    "above": ((0.06, 0.03, 0.94, 0.49), (0.06, 0.51, 0.94, 0.97)),
    "below": ((0.06, 0.51, 0.94, 0.97), (0.06, 0.03, 0.94, 0.49)),
}


def draw(scene: Scene, rng: np.random.Generator) -> Image.Image:
    """The scene as an RGB image of SIZE x SIZE pixels."""
    canvas = _ground(scene.ground, rng)
    pen = ImageDraw.Draw(canvas)
    boxes = (_WHOLE,) if scene.relation is None else _HALVES[scene.relation]
    for group, box in zip(scene.groups, boxes, strict=True):
        _draw_group(pen, group, box, rng)
    pixels = np.asarray(canvas.reduce(_SCALE), dtype=np.float32)
    return Image.fromarray(_weather(pixels, rng))


def _draw_group(pen: ImageDraw.ImageDraw, group: Group, box: Box, rng: np.random.Generator) -> None:
    """The objects of a group, each in its own cell along the longer side of the box."""
    left, top, right, bottom = box
    width, height = right - left, bottom - top
    tall = height > width or (height == width and rng.random() < 0.5)
    for place in rng.permutation(group.count):
        if tall:
            cell = (left, top + height * place / group.count, width, height / group.count)
        else:
            cell = (left + width * place / group.count, top, width / group.count, height)
        _draw_object(pen, group, cell, rng)


def _draw_object(pen: ImageDraw.ImageDraw, group: Group, cell: Box, rng: np.random.Generator) -> None:
    """One object somewhere in its cell (left, top, width, height), turned by up to 17 degrees."""
    left, top, width, height = cell
    radius = 0.5 * min(width, height, 0.75) * rng.uniform(0.72, 0.98)
    x = left + rng.uniform(radius, max(width - radius, radius))
    y = top + rng.uniform(radius, max(height - radius, radius))
    turn = rng.uniform(-0.3, 0.3)
    stretch = rng.uniform(0.85, 1.0, size=2)
    if rng.random() < 0.5:
        stretch[0] = -stretch[0]  # mirrored: cars and fish look both ways
    spin = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    frame = (stretch[:, None] * spin) * (radius * SIZE * _SCALE)
    centre = np.array([x, y]) * (SIZE * _SCALE)
    light = rng.uniform(0.85, 1.12)
    tint = rng.normal(0.0, 6.0, size=3).tolist()
    paint = [channel * light + shift for channel, shift in zip(COLOURS[group.colour], tint, strict=True)]
    edge = _rgb(paint, 0.5)
    for part in SHAPES[group.kind]:
        points = (part.points @ frame + centre).ravel().tolist()
        pen.polygon(points, fill=_rgb(paint, part.shade))
        # A line, as Pillow's own wide outline goes through a mask of the whole picture: three times slower.
        pen.line(points + points[:2], fill=edge, width=_SCALE)


def _ground(texture: str, rng: np.random.Generator) -> Image.Image:
    """A texture between two muted shades of one hue, at the size that objects are painted at.

    The pattern becomes a palette image, so that Pillow does the enlarging and the colouring.
    """
    hue, saturation, value = rng.uniform((0.0, 0.05, 0.5), (1.0, 0.3, 0.85))
    base = np.array(colorsys.hsv_to_rgb(hue, saturation, value)) * 255
    contrast = rng.uniform(0.12, 0.26) * rng.choice((-1.0, 1.0))
    palette = np.clip(base * (1 + contrast * _LEVELS), 0, 255).astype(np.uint8)
    pattern = Image.fromarray(np.multiply(_pattern(texture, rng), 255).astype(np.uint8))
    large = pattern.resize((SIZE * _SCALE, SIZE * _SCALE), Image.Resampling.NEAREST)
    large.putpalette(palette.tobytes())
    return large.convert("RGB")


def _pattern(texture: str, rng: np.random.Generator) -> Pixels:
    """How much of the second shade each pixel has, float (SIZE, SIZE) in 0..1."""
    period = np.float32(rng.uniform(8, 16))
    shift_x, shift_y = rng.uniform(0, period, size=2).astype(np.float32)
    x, y = _X + shift_x, _Y + shift_y
    if texture == "striped":
        turn = rng.uniform(0, np.pi)
        return _on((x * np.float32(np.cos(turn)) + y * np.float32(np.sin(turn))) % period < period / 2)
    if texture == "checked":
        return _on((x // (period / 2) + y // (period / 2)) % 2 == 0)
    if texture == "dotted":
        return _on((x % period - period / 2) ** 2 + (y % period - period / 2) ** 2 < (period / 3.5) ** 2)
    if texture == "wavy":
        return _on((y + np.float32(3) * np.sin(x * np.float32(0.35))) % period < period / 2)
    if texture == "bricked":
        row = y // (period / 2)
        return _on((y % (period / 2) < 1.5) | ((x + (row % 2) * period / 2) % period < 1.5))
    return _grain(texture, rng)


def _grain(texture: str, rng: np.random.Generator) -> Pixels:
    """The textures that chance draws: speckled, cloudy, and none for a plain ground."""
    if texture == "speckled":
        return _on(rng.integers(0, 256, size=(SIZE, SIZE), dtype=np.uint8) < 36)
    if texture == "cloudy":
        coarse = rng.integers(0, 256, size=(5, 5), dtype=np.uint8)
        smooth = Image.fromarray(coarse).resize((SIZE, SIZE), Image.Resampling.BICUBIC)
        return np.asarray(smooth, dtype=np.float32) / np.float32(255)
    return np.zeros((SIZE, SIZE), dtype=np.float32)


def _on(mask: NDArray[np.bool_]) -> Pixels:
    return mask.astype(np.float32)


def _weather(pixels: Pixels, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Light that falls off across the picture, then noise; uint8 (SIZE, SIZE, 3)."""
    slope_x, slope_y = rng.uniform(-0.15, 0.15, size=2).astype(np.float32) / SIZE
    light = np.float32(rng.uniform(0.9, 1.08)) + slope_x * (_X - SIZE / 2) + slope_y * (_Y - SIZE / 2)
    strength = np.float32(rng.uniform(4, 18) / 255)
    noise = rng.integers(0, 256, size=pixels.shape, dtype=np.uint8)
    lit = pixels * light[:, :, None]
    lit += noise * strength
    lit -= np.float32(127.5) * strength
    clipped: NDArray[np.uint8] = np.clip(lit, 0, 255, out=lit).astype(np.uint8)
    return clipped


def _rgb(paint: list[float], shade: float) -> tuple[int, int, int]:
    """Plain Python: on three numbers NumPy's overhead would be most of the work."""
    red, green, blue = (min(255, max(0, int(channel * shade))) for channel in paint)
    return red, green, blue
