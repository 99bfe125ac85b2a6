"""From a batch to relaxed codes of all processes, absent modalities masked; benign, attacked, or both."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from model.defences.base import SMALLEST, Batch, StepState
from model.defences.inner import Adversaries
from model.hashers.base import CrossModalHasher
from model.losses.objective import Codes

Rows = Tensor | slice
Tower = Callable[[Rows], Tensor]


def encode(hasher: CrossModalHasher, batch: Batch, state: StepState) -> Codes:
    """Relaxed codes of the global batch, float32.

    Only rows with the modality pass its tower, so that blank images and empty texts leave no trace in
    batch statistics. A process's part with a single such row is left out for this step.
    """
    return encode_versions(hasher, batch, [None], state)[0]


def encode_attacked(
    hasher: CrossModalHasher, batch: Batch, adversaries: Adversaries, state: StepState
) -> Codes:
    """As `encode`, of the attacked batch in a pass of its own.

    Gradients reach the embedding table too: the perturbation counts as a constant added to the embeddings.
    """
    return encode_versions(hasher, batch, [adversaries], state)[0]


def encode_together(
    hasher: CrossModalHasher, batch: Batch, adversaries: Adversaries, state: StepState
) -> tuple[Codes, Codes]:
    """Benign and attacked codes from one pass, so that batch norms see both as one batch."""
    benign, attacked = encode_versions(hasher, batch, [None, adversaries], state)
    return benign, attacked


def encode_versions(
    hasher: CrossModalHasher, batch: Batch, versions: Sequence[Adversaries | None], state: StepState
) -> list[Codes]:
    """Codes of each version of the batch, from one pass per tower; None is the batch as it is."""
    n, bits = len(batch.items), hasher.bits
    blank = torch.zeros(n, bits, device=batch.labels.device)
    images = texts = [blank] * len(versions)
    has_image = has_text = blank[:, 0]
    with state.autocast():
        if hasher.image is not None:
            pictures = [batch.images if v is None else v.images for v in versions]
            tower = _image_tower(hasher, pictures)
            images, has_image = _present(tower, batch.has_image, blank, len(versions))
        if hasher.text is not None:
            tower = _text_tower(hasher, batch.tokens, versions)
            texts, has_text = _present(tower, batch.has_text, blank, len(versions))
    gather = state.gather
    present, labels = (gather(has_image), gather(has_text)), gather(batch.labels)
    return [
        Codes(gather(image), gather(text), *present, labels)
        for image, text in zip(images, texts, strict=True)
    ]


def _image_tower(hasher: CrossModalHasher, versions: Sequence[Tensor]) -> Tower:
    """Rows to the relaxed codes of all versions of those images, one version after the other."""
    return lambda rows: hasher.hash_image(_joined([images[rows] for images in versions]))


def _text_tower(hasher: CrossModalHasher, tokens: Tensor, versions: Sequence[Adversaries | None]) -> Tower:
    """Rows to the relaxed codes of all versions of those texts, one version after the other."""
    tower = hasher.text_tower()

    def run(rows: Rows) -> Tensor:
        mask, benign = tower.mask(tokens[rows]), tower.embed(tokens[rows])
        moved = [benign if v is None else benign + (v.embeddings[rows] - benign).detach() for v in versions]
        return hasher.hash_embeddings(_joined(moved), _joined([mask] * len(versions)))

    return run


def _joined(parts: Sequence[Tensor]) -> Tensor:
    """All rows in a row; a single part is not copied."""
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))


def _present(tower: Tower, has: Tensor, blank: Tensor, versions: int) -> tuple[list[Tensor], Tensor]:
    """Codes (n, K) of each version's present rows, 0 elsewhere, and the mask (n,) of the rows encoded."""
    rows = has.nonzero().squeeze(1)
    if len(rows) == len(has):
        return list(tower(slice(None)).float().chunk(versions)), has
    if len(rows) < SMALLEST:
        return [blank] * versions, torch.zeros_like(has)
    codes = tower(rows).float().chunk(versions)
    return [blank.index_copy(0, rows, each) for each in codes], has
