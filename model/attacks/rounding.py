"""Adversarial images as a client can send them: whole grey levels, inside the budget, lossless in PNG.

An attack ends on real numbers; a PNG holds levels of 1/255. Rounding to the nearest may leave the ball by
half a level, so what would leave is rounded towards the clean image instead.
"""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from model.attacks.threat import Threat
from model.errors import DataError

LEVELS = 255
SLACK = 1e-4  # in levels: 8/255 in float32 times 255 is 8.0000001 or 7.9999998


@dataclass(frozen=True)
class BudgetCheck:
    """What uploaded images really do to clean ones, over n images; sizes in units of [0, 1].

    exact: every image is on whole levels and comes back from its PNG bit for bit. linf, l2: largest found.
    inside: share of images within ball and range. changed: share that differ from the clean image.
    """

    n: int
    linf: float
    l2: float
    inside: float
    exact: bool
    changed: float

    @property
    def holds(self) -> bool:
        """The gate: every file a client would upload obeys the budget."""
        return self.exact and self.inside == 1.0


def to_levels(x: Tensor) -> NDArray[np.uint8]:
    """Images (n, 3, H, W) in [0, 1] as uint8 (n, H, W, 3), rounded to the nearest level."""
    levels = (x.detach().double() * LEVELS).round().clamp(0, LEVELS)
    array: NDArray[np.uint8] = levels.to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    return array


def from_levels(levels: NDArray[np.uint8]) -> Tensor:
    """uint8 (n, H, W, 3) as float32 (n, 3, H, W) in [0, 1], as the model gets it."""
    return torch.from_numpy(levels.copy()).permute(0, 3, 1, 2).float() / LEVELS


def quantise(x_adv: Tensor, x: Tensor, threat: Threat) -> Tensor:
    """`x_adv` (n, 3, H, W) on whole levels and still in the ball around `x`, which must itself be on levels.

    L-inf: the nearest level, at most floor(255 eps) levels from x. L2: the nearest levels, and for images
    that leave the ball by it, every entry rounded towards x. Raises DataError when x is off the levels.
    """
    base = (x.double() * LEVELS).round()
    if float((base - x.double() * LEVELS).abs().max() if x.numel() else 0.0) > 1e-3:
        raise DataError("quantise: wanted clean images on whole levels of 1/255, got values between them")
    moved = x_adv.double() * LEVELS - base
    if threat.norm == "linf":
        most = int(threat.eps * LEVELS + SLACK)
        steps = moved.round().clamp(-most, most)
    else:
        steps = moved.round()
        length = torch.linalg.vector_norm(steps.flatten(1), dim=1)
        outside = (length > threat.eps * LEVELS).view(-1, 1, 1, 1)
        steps = torch.where(outside, moved.abs().add(SLACK).floor() * moved.sign(), steps)
        steps = _into_ball(steps, threat.eps * LEVELS)
    low, high = round(threat.low * LEVELS), round(threat.high * LEVELS)
    return ((base + steps).clamp(low, high).float() / LEVELS).to(x.device)


def to_png(x: Tensor) -> bytes:
    """One image (3, H, W) on whole levels as PNG."""
    buffer = io.BytesIO()
    Image.fromarray(to_levels(x.unsqueeze(0))[0]).save(buffer, "PNG")
    return buffer.getvalue()


def from_png(data: bytes) -> Tensor:
    """A PNG of RGB as float32 (3, H, W) in [0, 1]: for checking; hostile bytes go to model.preprocessing."""
    with Image.open(io.BytesIO(data)) as picture:
        return from_levels(np.asarray(picture.convert("RGB"), dtype=np.uint8)[None])[0]


def check_budget(x_adv: Tensor, x: Tensor, threat: Threat) -> BudgetCheck:
    """Judge images (n, 3, H, W) by the files they become: PNG out, PNG in, then measured against `x`."""
    back = [from_png(to_png(image)) for image in x_adv]
    sent = torch.stack(back).to(x) if back else x_adv
    exact = bool((sent.float() == x_adv.float()).all())
    delta = (sent.double() - x.double()).flatten(1)
    linf = delta.abs().amax(1) if delta.shape[1] else delta.sum(1)
    l2 = torch.linalg.vector_norm(delta, dim=1)
    size = linf if threat.norm == "linf" else l2
    inside = (size <= threat.eps + 1e-6) & ((sent >= threat.low) & (sent <= threat.high)).flatten(1).all(1)
    n = len(x)
    if not n:
        return BudgetCheck(0, 0.0, 0.0, 1.0, exact, 0.0)
    changed = float((linf > 0).double().mean())
    return BudgetCheck(n, float(linf.max()), float(l2.max()), float(inside.double().mean()), exact, changed)


def _into_ball(steps: Tensor, radius: float) -> Tensor:
    """Whole-level steps (n, ...) shortened to the radius: rounding guards only, one entry at a time.

    Needed where `x_adv` itself lay a hair outside (float32), so it takes at most a few rounds.
    """
    flat = steps.flatten(1)
    while bool((outside := torch.linalg.vector_norm(flat, dim=1) > radius).any()):
        entry = flat.abs().argmax(1, keepdim=True)
        value = flat.gather(1, entry)
        flat = torch.where(outside.unsqueeze(1), flat.scatter(1, entry, value - value.sign()), flat)
    return flat.view_as(steps)
