"""The attack score of a finished run: calibrated on held-out benign items, ready for the artefact."""

from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.attack_score import AttackScore, to_tensors
from model.branches import SemanticEncoders
from model.hashers.base import CrossModalHasher
from model.training.batches import Sides, plain_images, plain_tokens
from model.training.corpus import Corpus

FEWEST = 20
"""Held-out items of a side below which it gets no threshold: the 5 % one would be a guess."""


def calibrated_score(
    encoders: SemanticEncoders | None, hasher: CrossModalHasher, corpus: Corpus, sides: Sides
) -> dict[str, NDArray[np.generic]] | None:
    """Tensors of `score.safetensors`, or None when there are no encoders or too few held-out items.

    The held-out items were never trained on, by the hasher or by the encoders. They are scored as they are,
    in evaluation mode, with the embeddings of the hasher that is kept.
    """
    if encoders is None:
        return None
    device = next(encoders.parameters()).device
    training = encoders.training
    encoders.eval()
    benign = {
        side: scores
        for side, scores in _scores(AttackScore(encoders, {}), hasher, corpus, sides, device).items()
        if len(scores) >= FEWEST
    }
    encoders.train(training)
    return to_tensors(encoders, benign) if benign else None


@torch.no_grad()
def _scores(
    score: AttackScore, hasher: CrossModalHasher, corpus: Corpus, sides: Sides, device: torch.device
) -> dict[str, NDArray[np.float64]]:
    """Scores of the held-out items by side."""
    found = {}
    items = corpus.held_out
    if sides.images is not None and hasher.image is not None:
        there = torch.tensor([corpus.images[i] is not None for i in items.tolist()], dtype=torch.bool)
        blocks = plain_images(sides.images, items[there], device)
        found["image"] = _joined(score.of_images(x) for x in blocks if len(x))
    if sides.tokens is not None and hasher.text is not None:
        rows = plain_tokens(sides.tokens, items[sides.tokens.present[items]], device)
        found["text"] = _joined(score.of_tokens(hasher, tokens) for tokens in rows if len(tokens))
    return found


def _joined(parts: Iterable[Tensor]) -> NDArray[np.float64]:
    """All scores as one float64 vector, maybe empty."""
    arrays = [part.double().cpu().numpy() for part in parts]
    return np.concatenate(arrays) if arrays else np.zeros(0)
