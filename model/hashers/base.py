"""What a hasher is: an image tower and a text tower into one Hamming space of K bits.

A tower maps its input to K logits; `h = tanh(logits)` lies in (-1, 1) and the code is `h >= 0`, so that
sign(0) = +1 (algorithms of the field leave it open; ours is fixed here and nowhere else). Each tower is
cut in two, `features` and `head`, because defences read the representation in between.

Normalisation (mean and deviation) is part of the image tower: the variable that an attack moves is the
RGB image in [0, 1] at the model's input side. The text tower is entered in the same way at its
embeddings (`from_embeddings`), which is where the papers' text attacks act.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from model.errors import MissingTower
from model.hashers.heads import hash_layer


class ImageTower(nn.Module, ABC):
    """Images to logits. `width` is F, the size of `features`; `bits` is K; `hidden` as in hash_layer."""

    def __init__(self, bits: int, width: int, hidden: int) -> None:
        super().__init__()
        self.bits = bits
        self.width = width
        self.hash = hash_layer(width, hidden, bits)

    @abstractmethod
    def features(self, x: Tensor) -> Tensor:
        """Representation before the hash layer: float (n, 3, S, S) in [0, 1] -> (n, F)."""

    def head(self, features: Tensor) -> Tensor:
        """Hash layer: (n, F) -> logits (n, K)."""
        logits: Tensor = self.hash(features)
        return logits

    def forward(self, x: Tensor) -> Tensor:
        """Logits (n, K) of images (n, 3, S, S), float in [0, 1]."""
        return self.head(self.features(x))


class TextTower(nn.Module, ABC):
    """Token ids to logits, by way of embeddings that an attack may move.

    `padding_id` fills rows up to the longest one; ids are below `vocabulary_size` (None: it takes vectors,
    not ids); `embedding_width` is D; `width` is F, the size of
    `features_from_embeddings`; `bits` is K; `hidden` as in hash_layer.
    """

    padding_id: int = 0
    vocabulary_size: int | None = None

    def __init__(self, bits: int, width: int, embedding_width: int, hidden: int) -> None:
        super().__init__()
        self.bits = bits
        self.width = width
        self.embedding_width = embedding_width
        self.hash = hash_layer(width, hidden, bits)

    @abstractmethod
    def embed(self, tokens: Tensor) -> Tensor:
        """Token ids int64 (n, L) -> embeddings (n, L, D), without positions."""

    @abstractmethod
    def features_from_embeddings(self, embeddings: Tensor, mask: Tensor) -> Tensor:
        """Embeddings (n, L, D) with mask bool (n, L), true where a token is -> representation (n, F)."""

    def head(self, features: Tensor) -> Tensor:
        """Hash layer: (n, F) -> logits (n, K)."""
        logits: Tensor = self.hash(features)
        return logits

    @abstractmethod
    def embedding_rms(self) -> float:
        """Root mean square of an entry of the embedding table: the unit of text budgets.

        In this unit a model cannot defend itself by growing the norms of its embeddings.
        """

    def mask(self, tokens: Tensor) -> Tensor:
        """Bool (n, L): true where `tokens` holds a token and not padding."""
        return tokens != self.padding_id

    def features(self, tokens: Tensor) -> Tensor:
        """Representation (n, F) of token ids (n, L)."""
        return self.features_from_embeddings(self.embed(tokens), self.mask(tokens))

    def from_embeddings(self, embeddings: Tensor, mask: Tensor) -> Tensor:
        """Logits (n, K) of embeddings (n, L, D) under mask bool (n, L)."""
        return self.head(self.features_from_embeddings(embeddings, mask))

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits (n, K) of token ids (n, L)."""
        return self.from_embeddings(self.embed(tokens), self.mask(tokens))


class CrossModalHasher(nn.Module):
    """Two towers of the same number of bits; either may be absent, never both."""

    def __init__(self, image: ImageTower | None, text: TextTower | None) -> None:
        super().__init__()
        widths = {tower.bits for tower in (image, text) if tower is not None}
        if not widths:
            raise MissingTower("a hasher needs an image tower or a text tower, got neither")
        if len(widths) > 1:
            raise ValueError(f"both towers must have the same number of bits, got {sorted(widths)}")
        self.image = image
        self.text = text
        self.bits = widths.pop()

    def image_tower(self) -> ImageTower:
        """The image tower; raises MissingTower for a text-only model."""
        if self.image is None:
            raise MissingTower("wanted the code of an image, but this model has only a text tower")
        return self.image

    def text_tower(self) -> TextTower:
        """The text tower; raises MissingTower for an image-only model."""
        if self.text is None:
            raise MissingTower("wanted the code of a text, but this model has only an image tower")
        return self.text

    def hash_image(self, x: Tensor) -> Tensor:
        """Relaxed codes h (n, K) in (-1, 1) of images (n, 3, S, S) in [0, 1]."""
        return torch.tanh(self.image_tower()(x))

    def hash_text(self, tokens: Tensor) -> Tensor:
        """Relaxed codes h (n, K) in (-1, 1) of token ids (n, L)."""
        return torch.tanh(self.text_tower()(tokens))

    def hash_embeddings(self, embeddings: Tensor, mask: Tensor) -> Tensor:
        """Relaxed codes h (n, K) in (-1, 1) of embeddings (n, L, D) under mask bool (n, L)."""
        return torch.tanh(self.text_tower().from_embeddings(embeddings, mask))

    def forward(self, images: Tensor | None, tokens: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
        """Both sides in one call (what DistributedDataParallel needs); None in, None out."""
        image = None if images is None else self.hash_image(images)
        text = None if tokens is None else self.hash_text(tokens)
        return image, text


def to_bits(h: Tensor) -> Tensor:
    """The code of relaxed codes or logits: bool of the same shape, true where h >= 0."""
    return h >= 0
