"""Convolution layers of Hugging Face backbones, written so that they do the same in fewer passes.

Both look for the hub's convolution layers (`convolution`, then `normalization`, under a name of `NAMES`:
MobileNetV1 and V2, ResNet, RegNet, MobileViT) and leave every other module alone.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

NAMES = ("ConvLayer", "ShortCut")
"""How the names of the classes of such layers end."""


@contextmanager
def folded_norms(module: nn.Module | None) -> Iterator[None]:
    """Inside, batch norms in evaluation mode are part of the convolution before them; after, as before.

    The same function up to rounding, and a gradient with respect to the input costs a fifth less on
    MobileNetV2 (docs/log.md, 2026-12-01). It is for attacks: gradients of parameters do not pass, and changes
    of the parameters made inside do not show until the end.
    """
    found = [
        (layer, convolution, layer.normalization)
        for layer, convolution in _layers(module)
        if isinstance(layer.normalization, nn.BatchNorm2d) and not layer.normalization.training
    ]
    try:
        for layer, convolution, norm in found:
            layer.convolution = fuse_conv_bn_eval(convolution, norm).requires_grad_(False)
            layer.normalization = nn.Identity()
        yield
    finally:
        for layer, convolution, norm in found:
            layer.convolution, layer.normalization = convolution, norm


def pad_in_convolutions(backbone: nn.Module) -> None:
    """Let the convolutions pad where TensorFlow's "same" padding is symmetric: at stride 1.

    The MobileNets copy every map into a padded one, even before a 1x1 convolution, where nothing is added.
    At stride 2 the padding depends on the map's side and stays where it is. The values stay bit-identical.
    """
    for layer, convolution in _layers(backbone):
        config: Any = getattr(layer, "config", None)
        odd = all(kernel % 2 for kernel in convolution.kernel_size)
        if not getattr(config, "tf_padding", False) or convolution.stride != (1, 1) or not odd:
            continue
        height, width = convolution.kernel_size
        down, right = convolution.dilation
        convolution.padding = ((height - 1) // 2 * down, (width - 1) // 2 * right)
        layer.config = copy.copy(config)
        layer.config.tf_padding = False


def _layers(module: nn.Module | None) -> Iterator[tuple[Any, nn.Conv2d]]:
    """The hub's convolution layers in `module`, each with its convolution."""
    for part in module.modules() if module is not None else ():
        convolution = getattr(part, "convolution", None)
        named = type(part).__name__.endswith(NAMES) and hasattr(part, "normalization")
        if named and isinstance(convolution, nn.Conv2d):
            yield part, convolution
