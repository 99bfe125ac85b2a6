"""The attack score: how far the two branches of the encoders disagree on a query, and what is suspicious.

z_v is trained to say what an attack made of an input and z_r to say what it was (model/branches.py), so on
benign queries both say the same. The score is a figure beside the codes: it changes none of them and blocks
nothing. Its thresholds are the score that held-out benign queries exceed with the stated rate.

In an artefact it is `score.safetensors`: `encoders.*` the weights, `sizes` what rebuilds them, and per side
`thresholds.<side>` and `calibrated.<side>`, the number of queries behind them. Nothing in it is believed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from model.branches import GROUPS, BranchSizes, SemanticEncoders
from model.errors import ArtefactError
from model.hashers.base import CrossModalHasher
from model.hashers.weights import compare_state

FORMAT = 1
RATES = (0.01, 0.05)
"""False positive rates that thresholds are kept for."""
WIDEST = 16384
"""Largest size in a file that is believed to be one."""
PREFIX = "encoders."


@dataclass(frozen=True)
class SideCalibration:
    """Thresholds of one side by false positive rate, and how many benign queries they come from."""

    thresholds: Mapping[float, float]
    queries: int


@dataclass(frozen=True, eq=False)
class AttackScore:
    """Encoders in evaluation mode, and what their scores mean on each calibrated side."""

    encoders: SemanticEncoders
    sides: Mapping[str, SideCalibration]

    def of_images(self, x: Tensor) -> Tensor:
        """Scores (n,) >= 0 of images (n, 3, S, S) in [0, 1]; differentiable."""
        return self.encoders.score("image", x)

    def of_embeddings(self, hasher: CrossModalHasher, embeddings: Tensor, mask: Tensor) -> Tensor:
        """Scores (n,) >= 0 of a hasher's embedded texts (n, L, D), mask bool (n, L); differentiable."""
        unit = hasher.text_tower().embedding_rms()
        return self.encoders.score("text", embeddings / unit, mask)

    def of_tokens(self, hasher: CrossModalHasher, tokens: Tensor) -> Tensor:
        """Scores (n,) >= 0 of token ids int64 (n, L)."""
        tower = hasher.text_tower()
        return self.of_embeddings(hasher, tower.embed(tokens), tower.mask(tokens))


def threshold(scores: NDArray[np.float64], rate: float) -> float:
    """What a benign query's score exceeds with a chance of at most `rate`, from n benign scores.

    The ceil((n + 1)(1 - rate))-th smallest (split conformal prediction, Vovk et al. 2005): the promise holds
    for queries like those. With n < 1 / rate - 1 there are too few for it, and the largest stands in.
    Raises ValueError without scores.
    """
    if not len(scores):
        raise ValueError("wanted at least one benign score, got none")
    rank = int(np.ceil((len(scores) + 1) * (1 - rate)))
    return float(np.sort(scores)[min(rank, len(scores)) - 1])


def to_tensors(encoders: SemanticEncoders, benign: Mapping[str, NDArray[np.float64]]) -> dict[str, Any]:
    """The content of `score.safetensors` from encoders and benign scores by side."""
    sizes = [getattr(encoders.sizes, f.name) for f in fields(BranchSizes)]
    found: dict[str, Any] = {"sizes": np.array([FORMAT, *sizes], dtype=np.int64)}
    for name, tensor in encoders.state_dict().items():
        found[PREFIX + name] = tensor.detach().cpu().float().numpy()
    for side, scores in benign.items():
        found[f"thresholds.{side}"] = np.array([threshold(scores, r) for r in RATES], dtype=np.float64)
        found[f"calibrated.{side}"] = np.array([len(scores)], dtype=np.int64)
    return found


def read_score(data: bytes, hasher: CrossModalHasher, labels: int, where: str) -> AttackScore:
    """Rebuild a score from the bytes of `score.safetensors`, for a hasher and its number of labels.

    Sizes, names, shapes and values are checked before any memory is taken for them. Raises ArtefactError.
    """
    try:
        tensors = load(data)
    except (SafetensorError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise ArtefactError(f"{where}: wanted safetensors, got something else: {error}") from error
    sizes = _sizes(tensors, hasher, labels, where)
    state = {name.removeprefix(PREFIX): t for name, t in tensors.items() if name.startswith(PREFIX)}
    with torch.device("meta"):
        wanted = SemanticEncoders(sizes).state_dict()
    compare_state(state, wanted, where)
    sides = _calibrations(tensors, sizes, where)
    encoders = SemanticEncoders(sizes)
    encoders.load_state_dict(state)
    return AttackScore(encoders.eval().requires_grad_(False), sides)


def _sizes(tensors: Mapping[str, Tensor], hasher: CrossModalHasher, labels: int, where: str) -> BranchSizes:
    """The sizes, of this format and fit for the hasher."""
    names = [f.name for f in fields(BranchSizes)]
    found = _numbers(tensors, "sizes", torch.int64, len(names) + 1, where)
    if found[0] != FORMAT:
        raise ArtefactError(f"{where}: wanted format {FORMAT} of the attack score, got {found[0]}")
    sizes = BranchSizes(**{name: int(n) for name, n in zip(names, found[1:], strict=True)})
    for name, low in (("width", 1), ("labels", 1), ("image", 0), ("text", 0), ("embedding", 0)):
        if not low <= getattr(sizes, name) <= WIDEST:
            raise ArtefactError(f"{where}: {name}: wanted {low} to {WIDEST}, got {getattr(sizes, name)}")
    if sizes.image % GROUPS:
        raise ArtefactError(f"{where}: image: wanted a multiple of {GROUPS}, got {sizes.image}")
    embedding = hasher.text.embedding_width if hasher.text is not None else 0
    if (sizes.labels, sizes.embedding) != (labels, embedding) or bool(sizes.text) != bool(embedding):
        wanted = f"{labels} labels and embeddings of width {embedding}"
        raise ArtefactError(f"{where}: wanted an attack score for {wanted}, got {sizes}")
    return sizes


def _calibrations(
    tensors: Mapping[str, Tensor], sizes: BranchSizes, where: str
) -> dict[str, SideCalibration]:
    """Thresholds of the sides that have any; finite, not negative, higher for the lower rate."""
    known = {"sizes"} | {f"{kind}.{side}" for kind in ("thresholds", "calibrated") for side in _sides(sizes)}
    unknown = sorted(name for name in tensors if not name.startswith(PREFIX) and name not in known)
    if unknown:
        raise ArtefactError(f"{where}: unknown {', '.join(unknown[:5])}")
    found = {}
    for side in _sides(sizes):
        if f"thresholds.{side}" not in tensors:
            continue
        values = _numbers(tensors, f"thresholds.{side}", torch.float64, len(RATES), where)
        if not all(np.isfinite(values)) or not values[0] >= values[1] >= 0:
            raise ArtefactError(f"{where}: thresholds.{side}: wanted falling numbers >= 0, got {values}")
        (queries,) = _numbers(tensors, f"calibrated.{side}", torch.int64, 1, where)
        found[side] = SideCalibration(dict(zip(RATES, values, strict=True)), int(queries))
    if not found:
        raise ArtefactError(f"{where}: wanted thresholds of at least one side, got none")
    return found


def _sides(sizes: BranchSizes) -> list[str]:
    """Sides that there are encoders for."""
    return [side for side, there in (("image", sizes.image), ("text", sizes.text)) if there]


def _numbers(
    tensors: Mapping[str, Tensor], name: str, dtype: torch.dtype, count: int, where: str
) -> list[float]:
    """The entries of a small vector of known type and length."""
    found = tensors.get(name)
    if found is None or found.dtype != dtype or tuple(found.shape) != (count,):
        got = "nothing" if found is None else f"{found.dtype} {tuple(found.shape)}"
        raise ArtefactError(f"{where}: {name}: wanted {dtype} ({count},), got {got}")
    values: list[float] = found.tolist()
    return values
