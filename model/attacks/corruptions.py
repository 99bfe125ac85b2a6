"""Natural corruptions at five severities: what happens to pictures without an attacker.

Images (n, 3, H, W) in [0, 1] in, the same shape out, on whole levels of 1/255. Severities follow ImageNet-C
(Hendrycks and Dietterich 2019) where it has the corruption, scaled to small pictures.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np
import torch
from PIL import Image
from torch import Generator, Tensor
from torch.nn import functional

from model.attacks.rounding import LEVELS, from_levels, to_levels
from model.errors import RecipeError, UnknownName

SEVERITIES = (1, 2, 3, 4, 5)

QUALITY = (80, 50, 30, 20, 10)
SIGMA = (0.5, 0.8, 1.2, 1.8, 2.6)  # of the blur, in pixels of a 64 px image
DEVIATION = (0.02, 0.04, 0.08, 0.12, 0.18)  # of the noise
SHIFT = (0.1, 0.2, 0.3, 0.4, 0.5)  # of the brightness, up or down per image
SCALE = (0.8, 0.65, 0.5, 0.4, 0.3)  # of the side, before it is enlarged again
KEPT = (0.95, 0.9, 0.8, 0.7, 0.6)  # of the side that a crop keeps

Corruption = Callable[[Tensor, int, Generator], Tensor]
"""Images, index of the severity (0..4), generator -> images."""


def jpeg(x: Tensor, severity: int, generator: Generator) -> Tensor:
    """Encoded and decoded at QUALITY."""
    return torch.stack([_jpeg(image, QUALITY[severity]) for image in x]).to(x) if len(x) else x


def blur(x: Tensor, severity: int, generator: Generator) -> Tensor:
    """Gaussian blur, the width growing with the picture."""
    sigma = SIGMA[severity] * max(x.shape[-1] / 64, 0.75)
    reach = min(max(1, round(3 * sigma)), min(x.shape[-2:]) - 1)
    taps = torch.arange(-reach, reach + 1, device=x.device, dtype=x.dtype)
    kernel = torch.exp(-(taps**2) / (2 * sigma**2))
    kernel = (kernel / kernel.sum()).expand(x.shape[1], 1, -1)
    padded = functional.pad(x, (reach, reach, reach, reach), mode="reflect")
    rows = functional.conv2d(padded, kernel.unsqueeze(2), groups=x.shape[1])
    return functional.conv2d(rows, kernel.unsqueeze(3), groups=x.shape[1])


def noise(x: Tensor, severity: int, generator: Generator) -> Tensor:
    """Gaussian noise per entry."""
    drawn = torch.randn(x.shape, generator=generator, device=generator.device, dtype=x.dtype).to(x)
    return x + DEVIATION[severity] * drawn


def brightness(x: Tensor, severity: int, generator: Generator) -> Tensor:
    """A constant added to every channel, lighter or darker at random."""
    up = torch.rand(len(x), 1, 1, 1, generator=generator, device=generator.device).to(x) < 0.5
    return x + torch.where(up, SHIFT[severity], -SHIFT[severity])


def resize(x: Tensor, severity: int, generator: Generator) -> Tensor:
    """Reduced and enlarged again, bilinear with antialiasing."""
    side = [max(1, round(length * SCALE[severity])) for length in x.shape[-2:]]
    small = functional.interpolate(x, side, mode="bilinear", antialias=True)
    return functional.interpolate(small, x.shape[-2:], mode="bilinear", antialias=True)


def crop(x: Tensor, severity: int, generator: Generator) -> Tensor:
    """A random window per image, enlarged to the whole."""
    height, width = x.shape[-2:]
    rows, columns = max(1, round(height * KEPT[severity])), max(1, round(width * KEPT[severity]))
    place = torch.rand(len(x), 2, generator=generator, device=generator.device).tolist()
    parts = []
    for image, (down, right) in zip(x, place, strict=True):
        top, left = int(down * (height - rows + 1)), int(right * (width - columns + 1))
        window = image[:, top : top + rows, left : left + columns].unsqueeze(0)
        parts.append(functional.interpolate(window, (height, width), mode="bilinear", antialias=True))
    return torch.cat(parts) if parts else x


CORRUPTIONS: Mapping[str, Corruption] = MappingProxyType(
    {
        "jpeg": jpeg,
        "blur": blur,
        "noise": noise,
        "brightness": brightness,
        "resize": resize,
        "crop": crop,
    }
)


def corrupt(name: str, x: Tensor, severity: int, *, generator: Generator) -> Tensor:
    """Images (n, 3, H, W) under a corruption of severity 1 to 5. Raises UnknownName, RecipeError."""
    if name not in CORRUPTIONS:
        raise UnknownName("corruption", name, CORRUPTIONS)
    if severity not in SEVERITIES:
        raise RecipeError(f"severity: wanted 1 to 5, got {severity!r}")
    worse = CORRUPTIONS[name](x.detach(), severity - 1, generator).clamp(0, 1)
    return (worse * LEVELS).round() / LEVELS


def _jpeg(image: Tensor, quality: int) -> Tensor:
    buffer = io.BytesIO()
    Image.fromarray(to_levels(image.unsqueeze(0))[0]).save(buffer, "JPEG", quality=quality)
    with Image.open(io.BytesIO(buffer.getvalue())) as picture:
        return from_levels(np.asarray(picture.convert("RGB"), dtype=np.uint8)[None])[0]
