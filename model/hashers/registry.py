"""Names of towers, and the one place where an architecture (a JSON table) becomes a hasher.

    {"image": {"kind": "residual_cnn" | "hf_backbone" | "features", ...} or absent,
     "text": {"kind": "conv" | "transformer" | "hf_encoder" | "bag_of_words" | "features", ...} or absent}

The architecture stands in the artefact's manifest and is all that is needed to rebuild the model: no
hub, no folder of weights. A new tower is one entry here; the tests run over the registry.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from importlib import import_module
from types import MappingProxyType
from typing import Any, NamedTuple

from torch import nn

from model.errors import RecipeError, UnknownName
from model.hashers.base import CrossModalHasher
from model.hashers.options import read_options

BITS = range(16, 257, 8)


class Tower(NamedTuple):
    """Where a kind of tower is: its module, its dataclass of options, its class (options, bits) -> tower.

    Modules are named and not imported, because the two hub modules load transformers, which takes longer
    to import than a service without a hub backbone takes to start.
    """

    module: str
    options: str
    tower: str


IMAGE_TOWERS: Mapping[str, Tower] = MappingProxyType(
    {
        "residual_cnn": Tower("model.hashers.image", "ResidualOptions", "ResidualTower"),
        "hf_backbone": Tower("model.hashers.hub_image", "BackboneOptions", "BackboneTower"),
        "features": Tower("model.hashers.image", "ImageFeaturesOptions", "ImageFeaturesTower"),
    }
)
TEXT_TOWERS: Mapping[str, Tower] = MappingProxyType(
    {
        "conv": Tower("model.hashers.text", "ConvOptions", "ConvTextTower"),
        "transformer": Tower("model.hashers.text", "TransformerOptions", "TransformerTextTower"),
        "hf_encoder": Tower("model.hashers.hub_text", "EncoderOptions", "EncoderTower"),
        "bag_of_words": Tower("model.hashers.text", "BagOfWordsOptions", "BagOfWordsTower"),
        "features": Tower("model.hashers.text", "TextFeaturesOptions", "TextFeaturesTower"),
    }
)
SIDES: Mapping[str, Mapping[str, Tower]] = MappingProxyType({"image": IMAGE_TOWERS, "text": TEXT_TOWERS})


def build_hasher(architecture: Mapping[str, Any], bits: int) -> CrossModalHasher:
    """The hasher that `architecture` describes, with fresh weights, in training mode, on the default device.

    Weights come from torch's default generator; wrap the call in `heads.drawing_from(generator)` to have
    them from yours (model/hashers/create.py does). Raises RecipeError for a bad value, UnknownName for a
    kind that is not there.
    """
    if isinstance(bits, bool) or bits not in BITS:
        raise RecipeError(f"bits: wanted a multiple of 8 from 16 to 256, got {bits!r}")
    towers: dict[str, Any] = {"image": None, "text": None}
    for side, (tower, options) in _read(architecture).items():
        towers[side] = _build(f"architecture.{side}", tower, options, bits)
    return CrossModalHasher(**towers)


def resolve(architecture: Mapping[str, Any]) -> dict[str, Any]:
    """`architecture` with every default written out (JSON), so that a later change of one moves no artefact.

    Raises what `build_hasher` raises for it.
    """
    resolved: dict[str, Any] = {}
    for side, (_, options) in _read(architecture).items():
        table = {"kind": architecture[side]["kind"], **dataclasses.asdict(options)}
        resolved[side] = {name: list(v) if isinstance(v, tuple) else v for name, v in table.items()}
    return resolved


def _read(architecture: Mapping[str, Any]) -> dict[str, tuple[Tower, Any]]:
    """The sides that are there, each with its tower and its options; an absent one may also be null."""
    unknown = sorted(str(side) for side in architecture if side not in SIDES)
    if unknown:
        raise RecipeError(f"architecture: wanted image and text, got {', '.join(unknown)}")
    found: dict[str, tuple[Tower, Any]] = {}
    for side, towers in SIDES.items():
        table = architecture.get(side)
        if table is None:
            continue
        if not isinstance(table, Mapping):
            raise RecipeError(f"architecture.{side}: wanted a table, got {type(table).__name__}")
        kind = table.get("kind")
        if not isinstance(kind, str) or kind not in towers:
            raise UnknownName(f"{side} tower", str(kind), towers)
        tower = towers[kind]
        options = getattr(import_module(tower.module), tower.options)
        rest = {name: value for name, value in table.items() if name != "kind"}
        found[side] = (tower, read_options(options, rest, f"architecture.{side}"))
    if not found:
        raise RecipeError("architecture: wanted an image or a text tower, got neither")
    return found


def _build(where: str, tower: Tower, options: object, bits: int) -> nn.Module:
    try:
        built: nn.Module = getattr(import_module(tower.module), tower.tower)(options, bits)
    except (ValueError, TypeError, KeyError, AttributeError, ImportError, RuntimeError) as error:
        raise RecipeError(f"{where}: {tower.tower} cannot be built: {error}") from error
    return built
