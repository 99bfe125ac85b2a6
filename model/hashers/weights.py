"""Between a hasher's state and the NumPy arrays of an artefact; nothing is pickled on either way."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from model.errors import ArtefactError, ModelError
from model.hashers.base import CrossModalHasher
from model.hashers.registry import build_hasher


def to_arrays(hasher: CrossModalHasher) -> dict[str, NDArray[Any]]:
    """The hasher's whole state by name, on the CPU, floats as float32 (bfloat16 has no NumPy form)."""
    state = {name: tensor.detach().cpu() for name, tensor in hasher.state_dict().items()}
    return {n: (t.float() if t.is_floating_point() else t).contiguous().numpy() for n, t in state.items()}


def restore_hasher(
    architecture: Mapping[str, Any], bits: int, weights: bytes, where: str
) -> CrossModalHasher:
    """Rebuild a hasher from its architecture and the bytes of model.safetensors, in evaluation mode.

    Names, shapes and types are compared with the architecture's before any memory is taken for it: the
    comparison is with a copy on the meta device. Raises ArtefactError; `where` names the file in it.
    """
    try:
        state = load(weights)
    except (SafetensorError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise ArtefactError(f"{where}: wanted safetensors, got something else: {error}") from error
    try:
        with torch.device("meta"):
            wanted = build_hasher(architecture, bits).state_dict()
        compare_state(state, wanted, where)
        hasher = build_hasher(architecture, bits)
    except ArtefactError:
        raise
    except ModelError as error:
        raise ArtefactError(f"{where}: the architecture in the manifest cannot be built: {error}") from error
    hasher.load_state_dict(state)
    return hasher.eval()


def compare_state(state: Mapping[str, Tensor], wanted: Mapping[str, Tensor], where: str) -> None:
    """Refuse a state unlike the wanted one in names, shapes or types, or not finite (ArtefactError)."""
    missing, extra = sorted(wanted.keys() - state.keys()), sorted(state.keys() - wanted.keys())
    if missing or extra:
        raise ArtefactError(f"{where}: missing tensors {_some(missing)}; tensors not wanted {_some(extra)}")
    for name, tensor in sorted(state.items()):
        expected = wanted[name]
        if tensor.shape != expected.shape or tensor.dtype != expected.dtype:
            right = f"{tuple(expected.shape)} {expected.dtype}"
            raise ArtefactError(f"{where}: {name}: wanted {right}, got {tuple(tensor.shape)} {tensor.dtype}")
        if tensor.is_floating_point() and not bool(np.isfinite(tensor.numpy()).all()):
            raise ArtefactError(f"{where}: {name}: wanted finite numbers, got NaN or infinity")


def _some(names: list[str]) -> str:
    shown = ", ".join(names[:5]) or "none"
    return shown if len(names) <= 5 else f"{shown} and {len(names) - 5} more"
