"""Image tower over any Hugging Face image backbone: ResNet, MobileNetV2, ViT, CLIP vision, DINOv2, ...

The configuration stands in the architecture as JSON, so an artefact is rebuilt without the hub. What is
pooled follows from what the model returns: its own pooled output when it has one (ResNet, MobileNetV2,
CLIP, DINOv2), else the mean over a spatial map, else the class token (ViT, whose pooler we leave out
because most checkpoints lack its weights).
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import torch
from torch import Tensor, nn
from transformers.image_processing_base import ImageProcessingMixin

from model.errors import RecipeError
from model.hashers.base import ImageTower
from model.hashers.folding import pad_in_convolutions
from model.hashers.heads import channel_buffer
from model.hashers.hub import make_model
from model.hashers.options import option

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
SYMMETRIC = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))

# What the families' own preprocessors use; a source's preprocessor_config.json goes before it.
FAMILY_STATISTICS = {
    "clip_vision_model": CLIP,
    "mobilenet_v1": SYMMETRIC,
    "mobilenet_v2": SYMMETRIC,
    "siglip_vision_model": SYMMETRIC,
    "vit": SYMMETRIC,
}


@dataclass(frozen=True)
class BackboneOptions:
    """A backbone's configuration, the side `size` of its images, its channel statistics.

    `source` and `pretrained` only tell where the weights came from; nothing is loaded by them here.
    With `fixed_norms` batch norms keep their statistics in training: those of a pretrained backbone are
    better than what small batches of a small corpus give. `dropout` acts on the pooled features.
    """

    config: dict[str, Any] = field()
    source: str = ""
    pretrained: bool = False
    size: int = option(224, low=16, high=1024)
    hidden: int = option(0, low=0, high=8192)
    dropout: float = option(0.0, low=0.0, high=0.9)
    fixed_norms: bool = False
    mean: tuple[float, ...] = option(IMAGENET[0], low=0.0, high=1.0, most=3)
    std: tuple[float, ...] = option(IMAGENET[1], low=0.001, high=10.0, most=3)


class BackboneTower(ImageTower):
    """Normalisation, backbone, pooling, hash layer."""

    mean: Tensor
    std: Tensor

    def __init__(self, options: BackboneOptions, bits: int) -> None:
        super().__init__(bits, output_width(options.config, options.size), options.hidden)
        self.backbone = make_model(options.config)
        pad_in_convolutions(self.backbone)
        self.register_buffer("mean", channel_buffer(options.mean), persistent=False)
        self.register_buffer("std", channel_buffer(options.std), persistent=False)
        self.dropout = nn.Dropout(options.dropout)
        self.fixed_norms = options.fixed_norms

    def train(self, mode: bool = True) -> Self:
        """As in `nn.Module`, but fixed norms stay in evaluation mode."""
        super().train(mode)
        for module in self.backbone.modules() if self.fixed_norms else ():
            if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
                module.eval()
        return self

    def features(self, x: Tensor) -> Tensor:
        """Pooled output (n, F) of images (n, 3, S, S)."""
        features: Tensor = self.dropout(pooled(self.backbone, (x - self.mean) / self.std))
        return features


def pooled(backbone: nn.Module, pixels: Tensor) -> Tensor:
    """One vector per image (n, F) of normalised pixels (n, 3, S, S)."""
    accepted = inspect.signature(backbone.forward).parameters
    # Position embeddings of another image size are resized, not refused; convolutions have none.
    call = {"interpolate_pos_encoding": True} if "interpolate_pos_encoding" in accepted else {}
    output = backbone(pixel_values=pixels, **call)
    own: Tensor | None = getattr(output, "pooler_output", None)
    if own is not None:
        return own.flatten(1)
    last: Tensor = output.last_hidden_state
    return last.mean((2, 3)) if last.ndim == 4 else last[:, 0]


def output_width(config: Mapping[str, Any], size: int) -> int:
    """F of a backbone, found by running its shapes on the meta device (no memory, no arithmetic)."""
    with torch.device("meta"):
        backbone = make_model(config).eval()
        try:
            return pooled(backbone, torch.zeros(1, 3, size, size)).shape[1]
        except (RuntimeError, TypeError, ValueError, AttributeError) as error:
            kind = config.get("model_type")
            raise RecipeError(f"config: {kind} gives no features for images of {size} px: {error}") from error


def statistics(source: str, family: str) -> tuple[list[float], list[float]]:
    """Channel means and deviations for `source`: from its preprocessor_config.json, else its family's."""
    mean, std = FAMILY_STATISTICS.get(family, IMAGENET)
    try:
        found, _ = ImageProcessingMixin.get_image_processor_dict(source)
    except OSError:  # none there: bare weights come without one
        return list(mean), list(std)
    if not found.get("do_normalize", True):
        return [0.0, 0.0, 0.0], [1.0, 1.0, 1.0]
    return list(found.get("image_mean") or mean), list(found.get("image_std") or std)
