"""Codes of the training items, and the mainstay code of a label set over them (algorithms.md section 2).

The codes of both modalities are stored as -1/+1 in a buffer, so that checkpoints keep them, and refreshed at
every step for the batch's items, those of all processes. The mainstay of an item is taken over the stored
codes of both modalities; an item that was not seen yet has none and counts for nothing.
"""

import torch
from torch import Tensor, nn

from model.attacks.mainstay import mainstay_codes, signs
from model.attacks.victims import frozen
from model.defences.base import Batch, StepState
from model.defences.encoding import encode
from model.hashers.base import CrossModalHasher
from model.losses.objective import Codes


class StoredCodes(nn.Module):
    """The last code of every training item and modality."""

    codes: Tensor
    labels: Tensor

    def __init__(self, labels: Tensor, bits: int) -> None:
        """Empty, for items with labels (N, C).

        ``codes`` is int8 (2, N, K): images, then texts; 0 where nothing was stored.
        """
        super().__init__()
        self.register_buffer("codes", torch.zeros(2, len(labels), bits, dtype=torch.int8))
        self.register_buffer("labels", labels.float(), persistent=False)

    def prime(self, hasher: CrossModalHasher, batch: Batch, state: StepState) -> None:
        """On the first pass, before anything is stored: the batch's own codes, without a gradient.

        Does nothing once something is stored. The hasher is in evaluation mode meanwhile, so its batch
        statistics are left alone.
        """
        if bool(self.codes[..., 0].any()):
            return
        with torch.no_grad(), frozen(hasher):
            self.store(batch, encode(hasher, batch, state), state)

    @torch.no_grad()
    def store(self, batch: Batch, codes: Codes, state: StepState) -> None:
        """Keep the signs of ``codes``, those of the global batch as `encode` gives them."""
        items = state.gather(batch.items)
        sides = ((codes.image, codes.has_image), (codes.text, codes.has_text))
        for stored, (h, has) in zip(self.codes, sides, strict=True):
            there = has > 0
            stored[items[there]] = signs(h[there]).to(stored.dtype)

    def reference(self) -> tuple[Tensor, Tensor]:
        """All that is stored, both modalities: codes float -1/+1 (M, K) and their labels (M, C)."""
        seen = self.codes[..., 0] != 0
        labels = torch.cat([self.labels[rows] for rows in seen])
        return self.codes[seen].float(), labels

    @torch.no_grad()
    def mainstay(self, labels: Tensor) -> Tensor:
        """Mainstay codes -1/+1 (n, K) of labels (n, C) over `reference`; +1 where nothing is stored."""
        return mainstay_codes(labels, *self.reference())
