"""How well a hasher does on the held-out part of the train split, and how far its distances can be trusted.

The protocol: every held-out item queries the held-out part, its own item excluded (its image and its text
are one item), two items relevant when they share a label, tie-aware mAP@all. It is for choosing between
epochs and for calibration. It is no benchmark: the query split is never read here.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.evaluation.buckets import Buckets, hamming_distances
from model.evaluation.retrieval import average_precision
from model.hashers.base import CrossModalHasher, to_bits
from model.training.batches import Sides, plain_images, plain_tokens
from model.training.corpus import Corpus

PROTOCOL = "held-out part of the train split against itself, own item excluded; tie-aware mAP@all"

TASKS: Mapping[str, tuple[str, str]] = {
    "image-to-text": ("image", "text"),
    "text-to-image": ("text", "image"),
    "image-to-image": ("image", "image"),
    "text-to-text": ("text", "text"),
}
"""Query side and database side of each task."""


@dataclass(frozen=True)
class SideCodes:
    """Codes of the held-out items that have one modality: bool (n, K), labels (n, C), items (n,)."""

    codes: NDArray[np.bool_]
    labels: NDArray[np.float32]
    items: NDArray[np.int64]


class HeldOut:
    """The held-out items, ready to be encoded by any state of the hasher."""

    def __init__(self, corpus: Corpus, sides: Sides, device: torch.device) -> None:
        """Keep what is needed; nothing is encoded yet."""
        self._corpus, self._sides, self._device = corpus, sides, device

    def __len__(self) -> int:
        return len(self._corpus.held_out)

    @torch.no_grad()
    def encode(self, hasher: CrossModalHasher) -> dict[str, SideCodes]:
        """Codes by side ("image", "text"), computed in float32 by a hasher in evaluation mode.

        Sides without items or tower are left out.
        """
        found = {}
        items = self._corpus.held_out
        if self._sides.images is not None and hasher.image is not None:
            seen = items[
                torch.tensor([self._corpus.images[i] is not None for i in items.tolist()], dtype=torch.bool)
            ]
            blocks = plain_images(self._sides.images, seen, self._device)
            found["image"] = self._side(hasher.hash_image, list(blocks), seen)
        if self._sides.tokens is not None and hasher.text is not None:
            seen = items[self._sides.tokens.present[items]]
            blocks = plain_tokens(self._sides.tokens, seen, self._device)
            found["text"] = self._side(hasher.hash_text, list(blocks), seen)
        return {side: codes for side, codes in found.items() if len(codes.items)}

    def score(self, hasher: CrossModalHasher) -> dict[str, float]:
        """Mean average precision by task; a task without a query that counts is left out."""
        sides = self.encode(hasher)
        scores = {}
        for task, (distances, relevant) in task_pairs(sides).items():
            result = average_precision(Buckets.from_distances(distances, relevant))
            if result.n:
                scores[task] = round(result.mean, 6)
        return scores

    def _side(self, tower: Callable[[Tensor], Tensor], blocks: list[Tensor], items: Tensor) -> SideCodes:
        """Encode blocks of one modality."""
        codes = [to_bits(tower(block)).cpu() for block in blocks if len(block)]
        joined = torch.cat(codes).numpy() if codes else np.zeros((0, 1), dtype=np.bool_)
        return SideCodes(joined, self._corpus.labels[items].numpy(), items.numpy())


def task_pairs(
    sides: Mapping[str, SideCodes],
) -> dict[str, tuple[NDArray[np.int32], NDArray[np.bool_]]]:
    """Distances (q, m) and relevance (q, m) of each possible task, the query's own item taken out.

    An item that is no candidate of a query lies behind everything else as irrelevant: at distance K + 1,
    where it changes no precision at a relevant rank.
    """
    found = {}
    for task, (query, database) in TASKS.items():
        if query in sides and database in sides:
            a, b = sides[query], sides[database]
            own = a.items[:, None] == b.items[None, :]
            distances = hamming_distances(a.codes, b.codes)
            distances[own] = a.codes.shape[1] + 1
            found[task] = (distances, (a.labels @ b.labels.T > 0) & ~own)
    return found


def selection_score(scores: Mapping[str, float]) -> float:
    """The figure that epochs are compared by: the mean over cross-modal tasks, else over the others."""
    across = [value for task, value in scores.items() if len(set(TASKS[task])) == 2]
    chosen = across or list(scores.values())
    return sum(chosen) / len(chosen) if chosen else 0.0
