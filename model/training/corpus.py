"""The train split of a manifest as tensors: labels, texts, images, and what of it is held out."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from model.data.manifest import Manifest, Record
from model.data.pseudo_labels import pseudo_labels
from model.errors import DataError
from model.training.config import Recipe

FEWEST_HELD_OUT, MOST_HELD_OUT = 64, 2000
"""Held-out items: a mAP of fewer says little, and pairs grow with the square."""
FEWEST_TRAINED = 2
SHOWN_CLUSTERS = 5


@dataclass(frozen=True)
class Corpus:
    """Items of the train split, in the manifest's order.

    ids: N ids. texts: each item's texts, maybe none. images: each item's file or None.
    labels: float (N, C) multi-hot. label_names: C names.
    label_source: ``manifest``, or ``pseudo`` when they were made from text clusters.
    trained, held_out: int64 positions, disjoint, together all items.
    """

    ids: tuple[str, ...]
    texts: tuple[tuple[str, ...], ...]
    images: tuple[Path | None, ...]
    labels: Tensor
    label_names: tuple[str, ...]
    label_source: str
    trained: Tensor
    held_out: Tensor

    def training_texts(self) -> list[str]:
        """All texts of the items that are trained on."""
        return [text for i in self.trained.tolist() for text in self.texts[i]]


def load_corpus(
    manifest: Manifest, recipe: Recipe, sides: tuple[bool, bool], say: Callable[[str], None]
) -> Corpus:
    """Take the train split apart into what is trained on and what is held out.

    Args:
        manifest: the data.
        recipe: says what share to hold out (see `held_out_positions`) and how to make pseudo-labels.
        sides: whether the model has an image tower and a text tower; items with neither are left out.
        say: told what a user should know.

    Raises:
        DataError: nothing to train on, or labels that cannot tell any two items apart.

    """
    with_image, with_text = sides
    everything = manifest.of_split("train")
    records = [r for r in everything if (with_image and r.image) or (with_text and r.texts)]
    if len(records) < len(everything):
        say(f"{len(everything) - len(records)} train items have nothing this model reads and are left out")
    if len(records) < FEWEST_TRAINED:
        raise DataError(
            f"wanted at least {FEWEST_TRAINED} items of split 'train' to train on, got {len(records)} "
            f"in {manifest.folder.name}"
        )
    labels, names, source = _labels(manifest, records, recipe, say)
    _refuse_useless(labels, names)
    held_out = held_out_positions([r.id for r in records], recipe.data.validation)
    mask = np.zeros(len(records), dtype=np.bool_)
    mask[held_out] = True
    return Corpus(
        ids=tuple(r.id for r in records),
        texts=tuple(r.texts for r in records),
        images=tuple(r.image for r in records),
        labels=labels,
        label_names=names,
        label_source=source,
        trained=torch.from_numpy(np.flatnonzero(~mask)),
        held_out=torch.from_numpy(np.flatnonzero(mask)),
    )


def held_out_positions(ids: Sequence[str], share: float) -> list[int]:
    """Positions of the held-out items: those whose hashed ids come first, so stable under reordering.

    ``share`` of the items, but at least 64 (or a fifth of a small set) and at most 2,000; none for 0.
    """
    if not share:
        return []
    count = min(max(round(share * len(ids)), min(FEWEST_HELD_OUT, len(ids) // 5)), MOST_HELD_OUT)
    count = min(count, len(ids) - FEWEST_TRAINED)
    order = sorted(range(len(ids)), key=lambda i: hashlib.sha256(f"held out/{ids[i]}".encode()).digest())
    return sorted(order[:count])


def _labels(
    manifest: Manifest, records: Sequence[Record], recipe: Recipe, say: Callable[[str], None]
) -> tuple[Tensor, tuple[str, ...], str]:
    """Labels (N, C), their names and where they come from."""
    if any(r.labels for r in records):
        matrix = manifest.label_matrix(records)
        used = np.flatnonzero(matrix.sum(axis=0))
        names = tuple(manifest.label_names[c] for c in used)
        return torch.from_numpy(matrix[:, used]).float(), names, "manifest"
    spoken = [i for i, r in enumerate(records) if r.texts]
    if not spoken:
        raise DataError(
            "the train items have neither labels nor texts, so nothing says who is relevant to whom"
        )
    spoken_texts = [" ".join(records[i].texts) for i in spoken]
    found = pseudo_labels(spoken_texts, recipe.data.pseudo_labels, recipe.seed)
    names = tuple(sorted({name for each in found.labels for name in each}))
    column = {name: c for c, name in enumerate(names)}
    labels = torch.zeros(len(records), len(names))
    for i, each in zip(spoken, found.labels, strict=True):
        labels[i, [column[name] for name in each]] = 1
    say(
        f"The data has no labels: training uses {len(names)} pseudo-labels made from clusters of its texts. "
        "They are a guess; real labels or a pretrained backbone give better codes."
    )
    for line in found.summary[:SHOWN_CLUSTERS]:
        say(f"  {line}")
    return labels, names, "pseudo"


def _refuse_useless(labels: Tensor, names: Sequence[str]) -> None:
    """DataError when every pair of items is relevant, or none is: there is nothing to learn from that."""
    if len(names) < 2:
        raise DataError(
            f"wanted at least 2 different labels among the train items, got {len(names)}: {list(names)}"
        )
    if bool((labels.sum(0) <= 1).all()):
        raise DataError("no two train items share a label, so there is no relevant pair to learn from")
    if bool((labels == labels[0]).all()):
        raise DataError("all train items have the same labels, so there is no irrelevant pair to learn from")
