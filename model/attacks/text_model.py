"""A text hasher as text attacks see it: texts in, logits out, and the slope at each word."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from model.attacks.base import Objective, Target
from model.attacks.relaxation import Relaxation
from model.attacks.text_limits import word_spans, words
from model.data.text import TextCodec
from model.hashers.base import CrossModalHasher

BATCH = 1024  # texts per forward


@dataclass(frozen=True, eq=False)
class TextModel:
    """A hasher's text tower behind its tokenizer."""

    hasher: CrossModalHasher
    codec: TextCodec

    @property
    def module(self) -> nn.Module:
        """The text tower."""
        return self.hasher.text_tower()

    @property
    def device(self) -> torch.device:
        """Where the tower's weights are."""
        return next(self.module.parameters()).device

    def tokens(self, texts: Sequence[str]) -> Tensor:
        """Token ids int64 (n, L)."""
        return self.codec.encode(texts).to(self.device)

    def logits(self, texts: Sequence[str]) -> Tensor:
        """Logits (n, K), without gradient."""
        tower = self.hasher.text_tower()
        parts = [torch.zeros(0, tower.bits, device=self.device)]
        with torch.no_grad():
            starts = range(0, len(texts), BATCH)
            parts += [tower(self.tokens(texts[start : start + BATCH])) for start in starts]
        return torch.cat(parts)

    def read(self, embeddings: Tensor, mask: Tensor) -> Tensor:
        """Logits (n, K) of embedded texts (n, L, D), mask bool (n, L); differentiable."""
        return self.hasher.text_tower().from_embeddings(embeddings, mask)

    def word_slopes(
        self, texts: Sequence[str], target: Target, objective: Objective, relaxation: Relaxation
    ) -> list[Tensor]:
        """Per text, the slope of the objective summed over each word's tokens: float (words, D).

        A word that was cut off, being past the tokenizer's last place, has slope 0.
        """
        tower = self.hasher.text_tower()
        found: list[Tensor] = []
        for start in range(0, len(texts), BATCH):
            part = texts[start : start + BATCH]
            tokens = self.tokens(part)
            embeddings = tower.embed(tokens).detach().requires_grad_(True)
            rows = target.rows(slice(start, start + BATCH))
            with torch.enable_grad():
                logits = self.read(embeddings, tower.mask(tokens))
                loss = objective(relaxation(logits, 0.0), rows).sum()
                (slope,) = torch.autograd.grad(loss, embeddings)
            found += [self._by_word(text, row) for text, row in zip(part, slope, strict=True)]
        return found

    def word_vectors(self, vocabulary: Sequence[str]) -> dict[str, Tensor]:
        """Mean embedding (D,) of each word's tokens, the start token and the like left out."""
        tower = self.hasher.text_tower()
        vectors: dict[str, Tensor] = {}
        for start in range(0, len(vocabulary), BATCH):
            part = vocabulary[start : start + BATCH]
            with torch.no_grad():
                embeddings = tower.embed(self.tokens(part))
            for word, row in zip(part, embeddings, strict=True):
                own = [i for i, (a, b) in enumerate(self.codec.spans(word)) if b > a]
                vectors[word] = row[own or [0]].mean(0)
        return vectors

    def _by_word(self, text: str, slope: Tensor) -> Tensor:
        """Token slopes (L, D) summed over the tokens of each word (words, D)."""
        places = word_spans(text)
        total = torch.zeros(len(places), slope.shape[1], device=slope.device)
        for token, (start, end) in enumerate(self.codec.spans(text)):
            for word, (first, last) in enumerate(places):
                if start < last and end > first and token < len(slope):
                    total[word] += slope[token]
        return total


def neighbourhood(model: TextModel, texts: Sequence[str], size: int = 30) -> Callable[[str], frozenset[str]]:
    """The `size` words of `texts` nearest to a word by the cosine of the model's word vectors.

    The model under attack supplies the space, as in gradient-guided substitution generally; a word that
    `texts` lacks has neighbours too. Words have at least two letters and no digits.
    """
    known = sorted({w.lower() for text in texts for w in words(text) if w.isalpha() and len(w) > 1})
    vectors = model.word_vectors(known)
    table = torch.stack([vectors[word] for word in known]) if known else torch.zeros(0, 1)
    table = functional.normalize(table, dim=1)
    cache: dict[str, frozenset[str]] = {}

    def neighbours(word: str) -> frozenset[str]:
        if word not in cache and known:
            vector = vectors.get(word)
            vector = model.word_vectors([word])[word] if vector is None else vector
            near = (table @ functional.normalize(vector, dim=0)).topk(min(size + 1, len(known))).indices
            cache[word] = frozenset([known[i] for i in near.tolist() if known[i] != word][:size])
        return cache.get(word, frozenset())

    return neighbours
