"""From a batch to relaxed codes of all processes, absent modalities masked."""

from collections.abc import Callable

import torch
from torch import Tensor

from model.defences.base import Batch, StepState
from model.hashers.base import CrossModalHasher
from model.losses.objective import Codes

SMALLEST = 2
"""Rows that a tower needs in training: batch norm has no variance of one row."""


def encode(hasher: CrossModalHasher, batch: Batch, state: StepState) -> Codes:
    """Relaxed codes of the global batch, float32.

    Only rows with the modality pass its tower, so that blank images and empty texts leave no trace in
    batch statistics. A process's part with a single such row is left out for this step.
    """
    n, bits = len(batch.items), hasher.bits
    blank = torch.zeros(n, bits, device=batch.labels.device)
    image, has_image, text, has_text = blank, blank[:, 0], blank, blank[:, 0]
    with state.autocast():
        if hasher.image is not None:
            image, has_image = _present(hasher.hash_image, batch.images, batch.has_image, blank)
        if hasher.text is not None:
            text, has_text = _present(hasher.hash_text, batch.tokens, batch.has_text, blank)
    gather = state.gather
    return Codes(gather(image), gather(text), gather(has_image), gather(has_text), gather(batch.labels))


def _present(
    tower: Callable[[Tensor], Tensor], inputs: Tensor, has: Tensor, blank: Tensor
) -> tuple[Tensor, Tensor]:
    """Codes (n, K) of the present rows, 0 elsewhere, and the mask (n,) of the rows that were encoded."""
    rows = has.nonzero().squeeze(1)
    if len(rows) == len(has):
        return tower(inputs).float(), has
    if len(rows) < SMALLEST:
        return blank, torch.zeros_like(has)
    return blank.index_copy(0, rows, tower(inputs[rows]).float()), has
