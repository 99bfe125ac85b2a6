"""Configurations and weights of Hugging Face models, with nothing executed that they bring along.

`trust_remote_code` is never given. A configuration may name an attention kernel or a quantiser that
transformers would fetch and run, a backbone it would download, or a data type; all of that is dropped
or refused here, so that building a model from a manifest touches neither the network nor foreign code.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.utils import logging

from model.errors import RecipeError

# Keys that say how to run a model and not what it is, or that make transformers fetch something.
DROPPED = frozenset(
    {
        *("auto_map", "dtype", "torch_dtype", "quantization_config", "gradient_checkpointing"),
        *("attn_implementation", "experts_implementation", "use_kernels"),
        *("architectures", "id2label", "label2id", "name_or_path", "transformers_version"),
    }
)
REFUSED_TYPES = frozenset({"timm_wrapper", "timm_backbone"})
REFUSED_KEYS = ("backbone", "use_timm_backbone", "use_pretrained_backbone")


def clean_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """`config` without the keys that would fetch or run something, at any depth; raises RecipeError."""
    kept: dict[str, Any] = {}
    for key, value in config.items():
        if key.startswith("_") or key in DROPPED:
            continue
        if key in REFUSED_KEYS and value:
            raise RecipeError(f"config.{key}: models that wrap another library's backbone are not supported")
        kept[key] = clean_config(value) if isinstance(value, Mapping) else value
    if kept.get("model_type") in REFUSED_TYPES:
        raise RecipeError(f"config.model_type: {kept['model_type']} is not supported")
    return kept


def read_config(source: str, part: str) -> dict[str, Any]:
    """Configuration of the model `source` (hub name or folder) as JSON; of its `part` when it has parts.

    `part` is "vision_config" or "text_config": two-tower models such as CLIP keep one of each. Only
    called when training starts. Raises RecipeError.
    """
    try:
        config = AutoConfig.from_pretrained(source, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise RecipeError(f"source: {source!r} is no readable Hugging Face model: {error}") from error
    config = getattr(config, part, config)
    found: dict[str, Any] = json.loads(config.to_json_string(use_diff=False))
    return clean_config(found)


def make_config(config: Mapping[str, Any]) -> PreTrainedConfig:
    """The configuration object of a stored JSON table; raises RecipeError."""
    table = clean_config(config)
    kind = table.pop("model_type", None)
    if not isinstance(kind, str):
        raise RecipeError(f"config.model_type: wanted a string, got {kind!r}")
    try:
        return AutoConfig.for_model(kind, **table)
    except (ValueError, TypeError, KeyError) as error:
        raise RecipeError(f"config: transformers refuses it: {error}") from error


def make_model(config: Mapping[str, Any]) -> PreTrainedModel:
    """The bare model of a configuration, random weights, plain PyTorch attention; no network."""
    model: PreTrainedModel = AutoModel.from_config(
        make_config(config),
        attn_implementation="eager",
        trust_remote_code=False,
        **_options(config.get("model_type")),
    )
    return model


def load_pretrained(model: PreTrainedModel, source: str) -> None:
    """Copy the weights of `source` (hub name or folder, safetensors only) into the transformers `model`.

    Raises RecipeError when `source` cannot be read or lacks a weight that `model` has.
    """
    try:
        with quiet():
            loaded, info = AutoModel.from_pretrained(
                source,
                config=copy.deepcopy(model.config),
                trust_remote_code=False,
                use_safetensors=True,
                attn_implementation="eager",
                output_loading_info=True,
                **_options(model.config.model_type),
            )
    except (OSError, ValueError, RuntimeError) as error:
        raise RecipeError(f"source: the weights of {source!r} cannot be loaded: {error}") from error
    if info["missing_keys"] or info.get("mismatched_keys"):
        lacking = sorted(map(str, info["missing_keys"]))[:5]
        raise RecipeError(f"source: {source!r} lacks weights of this model, among them {', '.join(lacking)}")
    model.load_state_dict(loaded.state_dict())


@contextmanager
def quiet() -> Iterator[None]:
    """Without transformers' own bar and its table of unexpected weights (a checkpoint's classifier)."""
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def _options(kind: object) -> dict[str, Any]:
    """ViT and BERT would add a pooling layer that their checkpoints do not hold; we pool ourselves."""
    return {"add_pooling_layer": False} if kind in ("vit", "bert", "roberta") else {}
