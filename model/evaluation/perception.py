"""How far an attacked image is from the clean one, to a ruler and to an eye."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from model.errors import DataError

WINDOW, SIGMA = 11, 1.5
LUMINANCE, CONTRAST = 0.01**2, 0.03**2  # the paper's K1 and K2, squared, for a range of 1
BATCH = 128


def ssim(x: Tensor, y: Tensor) -> Tensor:
    """Structural similarity (n,) of images (n, C, H, W) in [0, 1]; 1 for equal ones.

    Wang, Bovik, Sheikh and Simoncelli 2004: Gaussian window of 11 pixels, sigma 1.5, mean over the places
    where it fits and over channels. A picture smaller than the window gets a window of its own size. Raises
    DataError for unlike shapes.
    """
    if x.shape != y.shape or x.dim() != 4:
        raise DataError(f"ssim: wanted two batches (n, C, H, W), got {tuple(x.shape)} and {tuple(y.shape)}")
    x, y = x.double(), y.double()
    mean_x, mean_y = _blurred(x), _blurred(y)
    var_x, var_y = _blurred(x * x) - mean_x**2, _blurred(y * y) - mean_y**2
    both = _blurred(x * y) - mean_x * mean_y
    top = (2 * mean_x * mean_y + LUMINANCE) * (2 * both + CONTRAST)
    bottom = (mean_x**2 + mean_y**2 + LUMINANCE) * (var_x + var_y + CONTRAST)
    return (top / bottom).flatten(1).mean(1)


def sizes(sent: Tensor, clean: Tensor) -> dict[str, NDArray[np.float64]]:
    """L-inf and L2 size of the change in [0, 1] pixels, and ssim, each (n,), for images (n, C, H, W)."""
    delta = (sent.double() - clean.double()).flatten(1)
    blocks = [slice(start, start + BATCH) for start in range(0, len(sent), BATCH)]
    similar = [ssim(sent[rows], clean[rows]) for rows in blocks]
    found = {
        "linf": delta.abs().amax(1),
        "l2": torch.linalg.vector_norm(delta, dim=1),
        "ssim": torch.cat(similar),
    }
    return {name: value.cpu().numpy() for name, value in found.items()}


def _blurred(x: Tensor) -> Tensor:
    """Weighted means of the windows that fit into images (n, C, H, W)."""
    for axis in (2, 3):
        width = min(WINDOW, x.shape[axis])
        places = torch.arange(width, dtype=x.dtype, device=x.device) - (width - 1) / 2
        taps = torch.exp(-(places**2) / (2 * SIGMA**2))
        shape = [1, 1, 1, 1]
        shape[axis] = width
        kernel = (taps / taps.sum()).view(shape).expand(x.shape[1], 1, -1, -1)
        x = functional.conv2d(x, kernel, groups=x.shape[1])
    return x
