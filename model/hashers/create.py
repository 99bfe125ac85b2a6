"""A fresh hasher for training: vocabulary trained, hub sources read, weights drawn, pretrained ones loaded.

This is the only place where a hub name or a folder of weights is opened, and it runs once, when training
starts. Everything after (resuming, serving, evaluating) rebuilds from the resolved architecture.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from model.data.text import TextCodec, TokenizerOptions, train_codec
from model.errors import RecipeError
from model.hashers.base import CrossModalHasher
from model.hashers.heads import drawing_from
from model.hashers.hub import load_pretrained, read_config
from model.hashers.hub_image import BackboneTower, statistics
from model.hashers.hub_text import EncoderTower, pretrained_codec
from model.hashers.options import read_options
from model.hashers.registry import build_hasher, resolve
from model.hashers.text import BagOfWordsTower

DEFAULT_IMAGE: Mapping[str, Any] = {"kind": "residual_cnn", "size": 64}
DEFAULT_TEXT: Mapping[str, Any] = {"kind": "conv"}
DEFAULT_MAX_LENGTH = {"conv": 32, "transformer": 32, "hf_encoder": 64, "bag_of_words": 64}


@dataclass(frozen=True)
class Created:
    """A hasher to train, the architecture (JSON) that rebuilds it, and its texts' codec if it reads texts."""

    hasher: CrossModalHasher
    architecture: dict[str, Any]
    codec: TextCodec | None


def create_hasher(
    request: Mapping[str, Any], bits: int, texts: Sequence[str], generator: torch.Generator
) -> Created:
    """Resolve `request`, train the vocabulary on `texts`, build and initialise the hasher.

    `request` is an architecture as of model/hashers/registry.py in which a hub kind names its `source`
    (hub name or folder, `pretrained` true unless said otherwise) in place of its `config`, and a text
    tower may hold a `tokenizer` table (model/data/text.py). `texts` are the training texts; `generator`
    (CPU) draws the weights. Raises RecipeError, UnknownName, DataError.
    """
    architecture: dict[str, Any] = {}
    codec: TextCodec | None = None
    if request.get("image") is not None:
        architecture["image"] = _resolve_image(_table(request, "image"))
    if request.get("text") is not None:
        architecture["text"], codec = _resolve_text(_table(request, "text"), texts)
    architecture = resolve(architecture)
    with drawing_from(generator):
        hasher = build_hasher(architecture, bits)
    _load_sources(hasher, request)
    if isinstance(hasher.text, BagOfWordsTower) and codec is not None:
        hasher.text.set_idf(codec.encode(texts))
    return Created(hasher, architecture, codec)


def _table(request: Mapping[str, Any], side: str) -> dict[str, Any]:
    table = request[side]
    if not isinstance(table, Mapping):
        raise RecipeError(f"architecture.{side}: wanted a table, got {type(table).__name__}")
    return dict(table)


def _resolve_image(table: dict[str, Any]) -> dict[str, Any]:
    if table.get("kind") != "hf_backbone" or "config" in table:
        return table
    source = _source(table)
    config = read_config(source, "vision_config")
    mean, std = statistics(source, str(config.get("model_type")))
    size = config.get("image_size")
    defaults = {"mean": mean, "std": std, "size": size if isinstance(size, int) else 224, "pretrained": True}
    return {**defaults, **table, "config": config, "source": _label(source)}


def _resolve_text(table: dict[str, Any], texts: Sequence[str]) -> tuple[dict[str, Any], TextCodec | None]:
    kind = table.get("kind")
    wanted = table.pop("tokenizer", {})
    if not isinstance(kind, str) or kind not in DEFAULT_MAX_LENGTH:
        return table, None  # fixed features, or a kind that the registry will refuse
    max_length = table.setdefault("max_length", DEFAULT_MAX_LENGTH[kind])
    if not isinstance(max_length, int) or not 1 <= max_length <= 4096:
        raise RecipeError(f"architecture.text.max_length: wanted 1 to 4096, got {max_length!r}")
    if kind == "hf_encoder" and "config" not in table:
        source = _source(table)
        codec = pretrained_codec(source, max_length)
        config = read_config(source, "text_config")
        _check_vocabulary(source, codec, config)
        found = {"config": config, "source": _label(source)}
        return {"pretrained": True, **table, **found, "padding_id": codec.padding_id}, codec
    options = read_options(TokenizerOptions, wanted, "architecture.text.tokenizer")
    codec = train_codec(texts, options, max_length)
    if kind == "hf_encoder":  # an encoder from scratch, over the corpus's own vocabulary
        config = {**table["config"], "vocab_size": codec.vocabulary_size, "pad_token_id": codec.padding_id}
        return {**table, "config": config, "padding_id": codec.padding_id}, codec
    return {**table, "vocabulary_size": codec.vocabulary_size}, codec


def _check_vocabulary(source: str, codec: TextCodec, config: Mapping[str, Any]) -> None:
    """Without tokenizer files transformers makes an empty tokenizer of the family, and says nothing."""
    wanted, got = config.get("vocab_size"), codec.vocabulary_size
    if isinstance(wanted, int) and not wanted / 2 < got <= wanted:
        raise RecipeError(f"source: {source!r}: wanted a tokenizer of about {wanted} entries, got {got}")


def _load_sources(hasher: CrossModalHasher, request: Mapping[str, Any]) -> None:
    image, text = request.get("image") or {}, request.get("text") or {}
    if isinstance(hasher.image, BackboneTower) and "config" not in image and image.get("pretrained", True):
        load_pretrained(hasher.image.backbone, _source(image))
    if isinstance(hasher.text, EncoderTower) and "config" not in text and text.get("pretrained", True):
        load_pretrained(hasher.text.encoder, _source(text))


def _source(table: Mapping[str, Any]) -> str:
    source = table.get("source")
    if not isinstance(source, str) or not source:
        raise RecipeError(f"source: wanted a hub name or a folder for {table.get('kind')}, got {source!r}")
    return source


def _label(source: str) -> str:
    """What the manifest says of a source: a hub name as it is, of a folder only its last part."""
    return Path(source).name if Path(source).exists() else source
