"""One modality of a batch as the parts of DRFGD see it: only the rows that have it, benign and attacked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from model.attacks.victims import EmbeddingModel, ImageModel, frozen
from model.defences.base import SMALLEST, Batch, StepState
from model.defences.centres import StoredCodes
from model.defences.inner import Adversaries
from model.hashers.base import CrossModalHasher

SIDES = ("image", "text")
POOLED = 8
"""Side of the grid that an image's perturbation is pooled to."""


@dataclass(frozen=True, eq=False)
class View:
    """The r rows of this process's batch that have one modality; everything detached.

    side: "image" or "text". rows: int64 (r,), their positions in the batch.
    x, attacked: images (r, 3, S, S) in [0, 1], or embeddings (r, L, D) in units of the table's RMS.
    mask: bool (r, L), texts only. unit: the RMS of the table, 1 for images.
    labels: (r, C). centres: (r, K) mainstay codes of the labels, -1/+1.
    partner: (r, K) stored code of the other modality, -1/+1, 0 where none is stored.
    """

    side: str
    rows: Tensor
    x: Tensor
    attacked: Tensor
    mask: Tensor | None
    unit: float
    labels: Tensor
    centres: Tensor
    partner: Tensor

    def head(self, count: int) -> View:
        """The first `count` rows."""
        first = (self.rows, self.x, self.attacked, None if self.mask is None else self.mask)
        rows, x, attacked, mask = (None if each is None else each[:count] for each in first)
        rest = (each[:count] for each in (self.labels, self.centres, self.partner))
        return View(self.side, rows, x, attacked, mask, self.unit, *rest)  # type: ignore[arg-type]  # None is the mask

    def pooled(self) -> Tensor:
        """The perturbation at low resolution: image grid (r, 3 * 64), or mean over tokens (r, D)."""
        moved = self.attacked - self.x
        if self.mask is None:
            grid: Tensor = torch.nn.functional.adaptive_avg_pool2d(moved, POOLED)
            return grid.flatten(1)
        keep = self.mask.unsqueeze(-1).to(moved.dtype)
        return (moved * keep).sum(1) / keep.sum(1).clamp(min=1)

    def code(self, hasher: CrossModalHasher, x: Tensor, state: StepState) -> Tensor:
        """Relaxed codes (m * r, K) float32 of m versions of the rows, one after the other, like `x`."""
        with state.autocast():
            if self.mask is None:
                return hasher.hash_image(x).float()
            mask = self.mask.repeat(len(x) // max(len(self.mask), 1), 1)
            return hasher.hash_embeddings(x * self.unit, mask).float()


def make_views(
    hasher: CrossModalHasher, batch: Batch, adversaries: Adversaries, centres: Tensor, stored: StoredCodes
) -> dict[str, View]:
    """Views by side; sides with less rows than a tower can be trained on are left out.

    `centres` (n, K) are the mainstay codes of the batch's items.
    """
    found = {}
    for number, side in enumerate(SIDES):
        has = batch.has_image if side == "image" else batch.has_text
        rows = has.nonzero().squeeze(1)
        if (hasher.image if side == "image" else hasher.text) is None or len(rows) < SMALLEST:
            continue
        x, attacked, mask, unit = _inputs(side, hasher, batch, adversaries)
        found[side] = View(
            side=side,
            rows=rows,
            x=x[rows],
            attacked=attacked[rows],
            mask=None if mask is None else mask[rows],
            unit=unit,
            labels=batch.labels[rows],
            centres=centres[rows],
            partner=stored.codes[1 - number, batch.items[rows]].float(),
        )
    return found


def _inputs(
    side: str, hasher: CrossModalHasher, batch: Batch, adversaries: Adversaries
) -> tuple[Tensor, Tensor, Tensor | None, float]:
    """Benign and attacked inputs (n, ...), mask and unit of one side."""
    if side == "image":
        return batch.images, adversaries.images, None, 1.0
    tower = hasher.text_tower()
    unit = tower.embedding_rms()
    with torch.no_grad():
        benign = tower.embed(batch.tokens)
    return benign / unit, adversaries.embeddings / unit, adversaries.mask, unit


@contextmanager
def resting(hasher: CrossModalHasher, views: Mapping[str, View]) -> Iterator[None]:
    """Inside, the towers of those sides are in evaluation mode and take no gradients; inputs still do."""
    image = frozen(ImageModel(hasher) if "image" in views else None)
    text = frozen(EmbeddingModel(hasher, torch.empty(0)) if "text" in views else None)
    with image, text:
        yield
