"""Texts to token ids: a vocabulary trained on the corpus, or the tokenizer of a pretrained encoder.

The vocabulary is `tokenizers`' (Rust, never hand-rolled): NFKC, lower case, split at white space and
punctuation, then byte-pair merges or whole words. Training is deterministic: the same texts give the same
tokenizer.json byte for byte. That is why WordPiece is not offered: its trainer numbers the "##" pieces in
the order of a randomly seeded hash map, and three runs over the same texts gave three vocabularies
(tokenizers 0.23.3); byte-pair merges with a word-start mark segment alike and are stable.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from torch import Tensor

from model.errors import DataError, RecipeError
from model.hashers.options import option

PADDING, UNKNOWN, START = "[PAD]", "[UNK]", "[TXT]"
SPECIAL = [PADDING, UNKNOWN, START]
MAX_ALPHABET = 2000
# A text is cut to this many characters per token before it is tokenised, which bounds the work for a
# hostile megabyte. The longest English words have under 50 letters; only a text whose first tokens are
# longer than this loses any of them.
CHARACTERS_PER_TOKEN = 64
WHITE_SPACE = re.compile(r"\s+")


@dataclass(frozen=True)
class TokenizerOptions:
    """What vocabulary to train: `kind` is "bpe" or "word" (the papers' tags), `size` its most entries."""

    kind: str = "bpe"
    size: int = option(4000, low=16, high=1_000_000)
    min_frequency: int = option(2, low=1, high=1_000_000)


class TextCodec:
    """Texts to padded token ids with one tokenizer; `max_length` tokens at most, start token included."""

    def __init__(self, tokenizer: Tokenizer, max_length: int, padding_id: int = 0) -> None:
        self._tokenizer = tokenizer
        self.max_length = max_length
        self.padding_id = padding_id
        tokenizer.no_padding()
        tokenizer.enable_truncation(max_length)

    @property
    def vocabulary_size(self) -> int:
        """One more than the largest id that `encode` can give, special tokens included."""
        return max(self._tokenizer.get_vocab().values(), default=-1) + 1  # ids may have gaps

    def encode(self, texts: Sequence[str], length: int | None = None) -> Tensor:
        """Token ids int64 (n, L), padded at the end with `padding_id`.

        L is `length` when given (and then rows are cut to it), else the longest row's. Any string is
        accepted: lone surrogates become "?", what the vocabulary lacks becomes the unknown token, and a
        text without a token still has the start token.
        """
        rows = [e.ids[:length] for e in self._tokenizer.encode_batch([self.clean(t) for t in texts])]
        width = length if length is not None else max((len(row) for row in rows), default=0)
        tokens = torch.full((len(rows), max(width, 1)), self.padding_id, dtype=torch.int64)
        for i, row in enumerate(rows):
            tokens[i, : len(row)] = torch.tensor(row, dtype=torch.int64)
        return tokens

    def tokens(self, text: str) -> list[str]:
        """The pieces of one text, for people."""
        pieces: list[str] = self._tokenizer.encode(self.clean(text)).tokens
        return pieces

    def spans(self, text: str) -> list[tuple[int, int]]:
        """Characters (start, end) of `clean(text)` that each token stands for; (0, 0) for special tokens."""
        offsets: list[tuple[int, int]] = self._tokenizer.encode(self.clean(text)).offsets
        return offsets

    def to_json(self) -> str:
        """The content of tokenizer.json."""
        return str(self._tokenizer.to_str())

    def digest(self) -> str:
        """SHA-256 (hex) of `to_json()`."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    def clean(self, text: str) -> str:
        """`text` as the tokenizer gets it: single spaces, valid Unicode, no longer than can matter."""
        most = CHARACTERS_PER_TOKEN * self.max_length
        # White space first: a million blanks before the words must not push them out.
        short = WHITE_SPACE.sub(" ", text).strip()[:most]
        return short.encode("utf-8", "replace").decode("utf-8")


def read_codec(text: str, max_length: int, padding_id: int = 0) -> TextCodec:
    """The codec of a stored tokenizer.json; raises DataError when it is none."""
    try:
        tokenizer = Tokenizer.from_str(text)
    except Exception as error:  # tokenizers raises bare Exception from Rust for every malformed file
        raise DataError(f"tokenizer.json: wanted a tokenizer of the tokenizers library: {error}") from error
    return TextCodec(tokenizer, max_length, padding_id)


def train_codec(texts: Iterable[str], options: TokenizerOptions, max_length: int) -> TextCodec:
    """A vocabulary trained on `texts`; deterministic. Raises RecipeError, DataError for no text at all."""
    corpus = [WHITE_SPACE.sub(" ", text).encode("utf-8", "replace").decode("utf-8") for text in texts]
    if not any(text.strip() for text in corpus):
        raise DataError("a vocabulary needs at least one text that is not empty, got none")
    normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    tokenizer, trainer = _blank(options, _alphabet(normalizer.normalize_str(text) for text in corpus))
    tokenizer.normalizer = normalizer
    tokenizer.train_from_iterator(corpus, trainer, length=len(corpus))
    start = SPECIAL.index(START)  # special tokens come first, in the order given
    tokenizer.post_processor = processors.TemplateProcessing(f"{START} $A", special_tokens=[(START, start)])
    return TextCodec(tokenizer, max_length, SPECIAL.index(PADDING))


def _blank(options: TokenizerOptions, alphabet: list[str]) -> tuple[Tokenizer, trainers.Trainer]:
    split = pre_tokenizers.BertPreTokenizer()
    if options.kind == "word":
        tokenizer = Tokenizer(models.WordLevel(unk_token=UNKNOWN))
        tokenizer.pre_tokenizer = split
        return tokenizer, trainers.WordLevelTrainer(
            vocab_size=options.size,
            min_frequency=options.min_frequency,
            special_tokens=SPECIAL,
            show_progress=False,
        )
    if options.kind != "bpe":
        raise RecipeError(f"tokenizer.kind: wanted bpe or word, got {options.kind!r}")
    mark = pre_tokenizers.Metaspace(prepend_scheme="always")
    tokenizer = Tokenizer(models.BPE(unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, mark])
    return tokenizer, trainers.BpeTrainer(
        vocab_size=options.size,
        min_frequency=options.min_frequency,
        special_tokens=SPECIAL,
        initial_alphabet=alphabet,
        limit_alphabet=len(alphabet),
        show_progress=False,
    )


def _alphabet(texts: Iterator[str]) -> list[str]:
    """The most frequent characters, ties by code point: the trainer's own limit breaks ties at random."""
    counts = Counter(character for text in texts for character in text if character != " ")
    kept = sorted(counts, key=lambda c: (-counts[c], c))[:MAX_ALPHABET]
    return sorted({*kept, "▁"})
