"""Text towers that train from scratch: convolutional, transformer, bag of words, fixed features.

All take token ids of a vocabulary trained on the corpus (model/data/text.py) but the last, which takes
precomputed vectors. Pretrained sentence encoders are in model/hashers/hub_text.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from model.hashers.base import TextTower
from model.hashers.heads import feature_trunk
from model.hashers.options import option


class TableTower(TextTower):
    """A text tower whose embeddings are rows of a table (V, D) that it trains itself; id 0 is padding."""

    def __init__(self, bits: int, width: int, vocabulary: tuple[int, int], hidden: int) -> None:
        super().__init__(bits, width, vocabulary[1], hidden)
        self.vocabulary_size = vocabulary[0]
        self.table = nn.Embedding(*vocabulary, padding_idx=self.padding_id)

    def embed(self, tokens: Tensor) -> Tensor:
        """Rows of the table."""
        embeddings: Tensor = self.table(tokens)
        return embeddings

    def embedding_rms(self) -> float:
        """Root mean square of the table."""
        return table_rms(self.table.weight)


@dataclass(frozen=True)
class ConvOptions:
    """Embedding of `dim`, `layers` convolutions over `kernel` tokens to `width` channels."""

    vocabulary_size: int = option(low=2, high=1_000_000)
    max_length: int = option(32, low=1, high=512)
    dim: int = option(64, low=1, high=4096)
    width: int = option(128, low=1, high=4096)
    layers: int = option(2, low=1, high=16)
    kernel: int = option(3, low=1, high=15)
    hidden: int = option(256, low=0, high=8192)
    dropout: float = option(0.0, low=0.0, high=0.9)


class ConvTextTower(TableTower):
    """Embedding, residual convolutions, masked mean and maximum side by side, then the hash layer.

    Positions of padding are zeroed before every convolution, so a row's code does not depend on how far
    its batch was padded.
    """

    def __init__(self, options: ConvOptions, bits: int) -> None:
        super().__init__(bits, 2 * options.width, (options.vocabulary_size, options.dim), options.hidden)
        widths = [options.dim] + [options.width] * options.layers
        self.convolutions = nn.ModuleList(
            nn.Conv1d(a, b, options.kernel, padding="same") for a, b in pairwise(widths)
        )
        self.dropout = nn.Dropout(options.dropout)

    def features_from_embeddings(self, embeddings: Tensor, mask: Tensor) -> Tensor:
        """Mean and maximum over the tokens (n, 2 * width) of the last convolution's maps."""
        keep = mask.unsqueeze(1).to(embeddings.dtype)  # (n, 1, L)
        x: Tensor = self.dropout(embeddings).transpose(1, 2) * keep  # (n, D, L)
        for number, convolution in enumerate(self.convolutions):
            y: Tensor = torch.relu(convolution(x)) * keep
            x = x + y if number else y
        mean = x.sum(2) / keep.sum(2).clamp(min=1)
        both: Tensor = torch.cat([mean, x.amax(2)], dim=1)  # x >= 0, so zeroed padding never wins
        features: Tensor = self.dropout(both)
        return features


@dataclass(frozen=True)
class TransformerOptions:
    """A pre-norm encoder of `layers` blocks of `heads` heads on embeddings of `dim`."""

    vocabulary_size: int = option(low=2, high=1_000_000)
    max_length: int = option(32, low=1, high=512)
    dim: int = option(64, low=1, high=4096)
    heads: int = option(4, low=1, high=64)
    layers: int = option(2, low=1, high=24)
    hidden: int = option(256, low=0, high=8192)
    dropout: float = option(0.0, low=0.0, high=0.9)


class TransformerTextTower(TableTower):
    """A small transformer with learned positions and masked mean pooling."""

    def __init__(self, options: TransformerOptions, bits: int) -> None:
        super().__init__(bits, options.dim, (options.vocabulary_size, options.dim), options.hidden)
        if options.dim % options.heads:
            raise ValueError(f"dim must be a multiple of heads, got {options.dim} and {options.heads}")
        self.positions = nn.Parameter(torch.randn(options.max_length, options.dim) * 0.02)
        block = nn.TransformerEncoderLayer(
            options.dim, options.heads, 4 * options.dim, options.dropout, batch_first=True, norm_first=True
        )
        self.encoder = nn.TransformerEncoder(block, options.layers, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(options.dim)

    def features_from_embeddings(self, embeddings: Tensor, mask: Tensor) -> Tensor:
        """Mean (n, D) of the last block's output over the tokens."""
        x = embeddings + self.positions[: embeddings.shape[1]]
        y: Tensor = self.norm(self.encoder(x, src_key_padding_mask=~attended(mask)))
        return masked_mean(y, mask)


@dataclass(frozen=True)
class BagOfWordsOptions:
    """Weighted mean of word vectors of `dim`; `idf` weighs a word by its rarity in the training texts."""

    vocabulary_size: int = option(low=2, high=1_000_000)
    max_length: int = option(64, low=1, high=4096)
    dim: int = option(256, low=1, high=8192)
    hidden: int = option(256, low=0, high=8192)
    idf: bool = True


class BagOfWordsTower(TableTower):
    """The papers' tag model: the order of tokens does not matter.

    A sum over tokens of `idf[token] * table[token]` is the usual matrix times a tf-idf vector; written
    so, it has embeddings that an attack can move like those of the other towers. The weights start at 1
    and are set once from the training texts (`set_idf`); they are part of the saved state.
    """

    idf: Tensor

    def __init__(self, options: BagOfWordsOptions, bits: int) -> None:
        super().__init__(bits, options.dim, (options.vocabulary_size, options.dim), options.hidden)
        self.uses_idf = options.idf
        self.norm = nn.LayerNorm(options.dim)
        self.register_buffer("idf", torch.ones(options.vocabulary_size))

    def set_idf(self, tokens: Tensor) -> None:
        """Set the weights from training token ids (n, L): ln((1 + n) / (1 + df)) + 1, or 1 without idf.

        A token that every text holds (the start token) gets the least weight, 1, and none gets zero.
        """
        if not self.uses_idf:
            return
        frequency = torch.zeros(len(self.idf))
        for block in torch.split(tokens.cpu(), 4096):  # a table of texts x vocabulary, a part at a time
            held = torch.zeros(len(block), len(self.idf))
            frequency += held.scatter_(1, block, 1.0).sum(0)
        frequency = frequency.to(self.idf)
        self.idf.copy_(torch.log((1 + len(tokens)) / (1 + frequency)) + 1)

    def embed(self, tokens: Tensor) -> Tensor:
        """Rows of the table, each times its token's weight."""
        embeddings: Tensor = self.table(tokens) * self.idf[tokens].unsqueeze(-1)
        return embeddings

    def embedding_rms(self) -> float:
        """Root mean square of the weighted table."""
        return table_rms(self.table.weight * self.idf.unsqueeze(1))

    def features_from_embeddings(self, embeddings: Tensor, mask: Tensor) -> Tensor:
        """Rectified, layer-normed mean (n, D) of the word vectors."""
        features: Tensor = torch.relu(self.norm(masked_mean(embeddings, mask)))
        return features


@dataclass(frozen=True)
class TextFeaturesOptions:
    """Precomputed text vectors of `dim` numbers, one hidden layer of `width`."""

    dim: int = option(low=1, high=1_000_000)
    width: int = option(512, low=1, high=8192)
    hidden: int = option(0, low=0, high=8192)


class TextFeaturesTower(TextTower):
    """Takes float vectors (n, dim) where the other towers take token ids; one "token" per text.

    Its embedding is the vector itself, so an attack in embedding space is the papers' attack in feature
    space. The unit of budgets is the root mean square of the training vectors (`set_scale`).
    """

    scale: Tensor

    def __init__(self, options: TextFeaturesOptions, bits: int) -> None:
        super().__init__(bits, options.width, options.dim, options.hidden)
        self.trunk = feature_trunk(options.dim, options.width)
        self.register_buffer("scale", torch.ones(()))

    def set_scale(self, vectors: Tensor) -> None:
        """Take the unit of budgets from training vectors (n, dim)."""
        self.scale.copy_(vectors.float().square().mean().sqrt())

    def mask(self, tokens: Tensor) -> Tensor:
        """All true (n, 1): a vector has no padding."""
        return torch.ones(len(tokens), 1, dtype=torch.bool, device=tokens.device)

    def embed(self, tokens: Tensor) -> Tensor:
        """Vectors (n, dim) as one embedding each (n, 1, dim)."""
        return tokens.unsqueeze(1)

    def embedding_rms(self) -> float:
        """Root mean square of the training vectors."""
        return float(self.scale)

    def features_from_embeddings(self, embeddings: Tensor, mask: Tensor) -> Tensor:
        """The trunk's output (n, width)."""
        features: Tensor = self.trunk(masked_mean(embeddings, mask))
        return features


def masked_mean(x: Tensor, mask: Tensor) -> Tensor:
    """Mean over positions of x (n, L, D) where mask (n, L) is true; zeros for a row without any."""
    keep = mask.unsqueeze(-1).to(x.dtype)
    return (x * keep).sum(1) / keep.sum(1).clamp(min=1)


def attended(mask: Tensor) -> Tensor:
    """`mask` with the first position always true: attention over nothing would give NaN."""
    seen = mask.clone()
    seen[:, 0] = True
    return seen


def table_rms(weight: Tensor) -> float:
    """Root mean square over all entries of an embedding table (V, D)."""
    return float(weight.detach().float().square().mean().sqrt())
