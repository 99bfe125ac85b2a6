"""Text tower over a pretrained sentence encoder of the Hugging Face hub (MiniLM, BERT, MPNet, ...).

The encoder is entered at its word embeddings, so one code path serves training, serving and attacks in
embedding space. Its own tokenizer goes with the model as tokenizer.json (model/data/text.py).
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn
from transformers import AutoTokenizer, PreTrainedConfig, PreTrainedModel

from model.data.text import TextCodec, read_codec
from model.errors import RecipeError
from model.hashers.base import TextTower
from model.hashers.hub import make_model
from model.hashers.options import option
from model.hashers.text import attended, masked_mean, table_rms


@dataclass(frozen=True)
class EncoderOptions:
    """An encoder's configuration, the number of tokens it reads and its padding id.

    `source` and `pretrained` only tell where the weights came from; nothing is loaded by them here.
    """

    config: dict[str, Any] = field()
    source: str = ""
    pretrained: bool = False
    max_length: int = option(64, low=1, high=512)
    padding_id: int = option(0, low=0, high=10_000_000)
    hidden: int = option(0, low=0, high=8192)


class EncoderTower(TextTower):
    """Encoder, masked mean over its last hidden states (sentence-transformers' pooling), hash layer."""

    def __init__(self, options: EncoderOptions, bits: int) -> None:
        encoder = make_model(options.config)
        table = word_table(encoder)
        super().__init__(bits, int(encoder.config.hidden_size), table.embedding_dim, options.hidden)
        self.vocabulary_size = table.num_embeddings
        check_length(encoder.config, options.max_length)
        self.padding_id = options.padding_id
        self.encoder = encoder

    def embed(self, tokens: Tensor) -> Tensor:
        """Word embeddings (n, L, D) of token ids (n, L); the encoder adds positions itself."""
        embeddings: Tensor = word_table(self.encoder)(tokens)
        return embeddings

    def embedding_rms(self) -> float:
        """Root mean square of the word embeddings."""
        return table_rms(word_table(self.encoder).weight)

    def features_from_embeddings(self, embeddings: Tensor, mask: Tensor) -> Tensor:
        """Mean (n, F) of the last hidden states over the tokens."""
        seen = attended(mask)
        output = self.encoder(inputs_embeds=embeddings, attention_mask=seen.long())
        return masked_mean(output.last_hidden_state, seen)


def word_table(encoder: PreTrainedModel) -> nn.Embedding:
    """The word embeddings of `encoder`; raises RecipeError when it cannot be entered behind them."""
    kind = encoder.config.model_type
    accepted = inspect.signature(encoder.forward).parameters
    if encoder.config.is_encoder_decoder or "inputs_embeds" not in accepted:
        raise RecipeError(f"config: {kind} is no encoder that takes word embeddings (inputs_embeds)")
    table = encoder.get_input_embeddings()
    if not isinstance(table, nn.Embedding):
        raise RecipeError(f"config: {kind} has no table of word embeddings")
    return table


def check_length(config: PreTrainedConfig, max_length: int) -> None:
    """Refuse texts longer than the encoder has positions for; raises RecipeError.

    Two positions are held back because RoBERTa and its kin number them from padding_idx + 1.
    """
    positions = getattr(config, "max_position_embeddings", None)
    if isinstance(positions, int) and max_length > positions - 2:
        raise RecipeError(f"max_length: wanted at most {positions - 2} for this encoder, got {max_length}")


def pretrained_codec(source: str, max_length: int) -> TextCodec:
    """The tokenizer of a pretrained encoder (hub name or folder); raises RecipeError.

    Only tokenizers with a fast (Rust) form can be stored as tokenizer.json; no code of theirs is run.
    """
    try:
        loaded = AutoTokenizer.from_pretrained(source, use_fast=True, trust_remote_code=False)
    except (OSError, ValueError, ImportError) as error:
        raise RecipeError(f"source: {source!r} has no tokenizer that can be loaded: {error}") from error
    if not loaded.is_fast:
        raise RecipeError(f"source: the tokenizer of {source!r} has no fast form, so it cannot be stored")
    padding = loaded.pad_token_id if loaded.pad_token_id is not None else loaded.unk_token_id
    if padding is None:
        raise RecipeError(f"source: the tokenizer of {source!r} has no padding token")
    return read_codec(loaded.backend_tokenizer.to_str(), max_length, padding)
